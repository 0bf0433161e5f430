package fanout_test

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/fanout-go/fanout"
)

func TestSnapshot_SaysHowEachTargetIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		hangs := with(via("hangs", hanging), fanout.Policy{Timeout: time.Hour, AttemptTimeout: -1, Bulkhead: fanout.Bulkhead{MaxConcurrent: 1, MaxWait: time.Minute}})
		hangs.Optional = true
		d, err := fanout.New(fanout.Config{Targets: []fanout.Target{
			via("fine", answering(503, 200)), with(via("down", answering(500)), fanout.Policy{Breaker: fanout.Breaker{ConsecutiveFailures: 3}}), hangs,
		}})
		require.NoError(t, err)
		dispatch(t.Context(), d, fanout.To("fine", "down"))
		dispatch(t.Context(), d, fanout.To("down"))
		submitted := time.Now()
		submit(t, d, fanout.To("hangs"))
		submit(t, d, fanout.To("hangs"))
		synctest.Wait()
		time.Sleep(time.Second)

		s := d.Snapshot(t.Context())
		assert.Equal(t, time.Now(), s.Time)
		require.Len(t, s.Targets, 3)
		assert.Equal(t, fanout.TargetSnapshot{Target: "fine", Breaker: fanout.BreakerClosed, Attempts: 2, Retries: 1, Delivered: 1, Backlog: &fanout.Backlog{Target: "fine"}}, s.Targets[0])
		down := s.Targets[1]
		assert.False(t, down.LastErrorAt.Before(began))
		down.LastErrorAt = time.Time{}
		assert.Equal(t, fanout.TargetSnapshot{Target: "down", Breaker: fanout.BreakerOpen, Attempts: 3, Retries: 2, Failed: 1, Rejected: 1, LastError: "500", Backlog: &fanout.Backlog{Target: "down"}}, down)
		assert.Equal(t, fanout.TargetSnapshot{Target: "hangs", Optional: true, Breaker: fanout.BreakerClosed, InFlight: 1, Waiting: 1, Backlog: &fanout.Backlog{Target: "hangs", Deliveries: 2, Oldest: submitted}, Attempts: 1}, s.Targets[2])

		over, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Error(t, d.Close(over))
		s = d.Snapshot(t.Context())
		assert.Zero(t, s.Targets[2].InFlight+s.Targets[2].Waiting+int64(s.Targets[2].Backlog.Deliveries), "nothing is left over")
	})
}

func TestSnapshot_OfABacklogThatCannotBeReadIsNotEmpty(t *testing.T) {
	for name, queue := range map[string]fanout.Queue{
		"blind":         unreadableBacklog{fanout.NewMemoryQueue(fanout.MemoryLimits{})},
		"blind, within": wrappedQueue{unreadableBacklog{fanout.NewMemoryQueue(fanout.MemoryLimits{})}},
	} {
		t.Run(name, func(t *testing.T) {
			reader := sdkmetric.NewManualReader()
			var log bytes.Buffer
			d := newWith(t, fanout.Config{Queue: queue, MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
				Targets: []fanout.Target{via("crm", answering(200))}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			s := d.Snapshot(t.Context())
			assert.Equal(t, fanout.ClassOther, s.BacklogError)
			assert.Nil(t, s.Targets[0].Backlog)
			assert.Contains(t, log.String(), "database is away")

			var data metricdata.ResourceMetrics
			require.Error(t, reader.Collect(t.Context(), &data))
			for _, scope := range data.ScopeMetrics {
				for _, m := range scope.Metrics {
					assert.NotEqual(t, "fanout.queue.depth", m.Name, "nothing was seen, which is not none")
				}
			}
		})
	}
}

func TestSnapshot_SeesTheBacklogOfAQueueThatAnotherWraps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := fanout.New(fanout.Config{Queue: wrappedQueue{fanout.NewMemoryQueue(fanout.MemoryLimits{})}, Targets: []fanout.Target{via("crm", hanging)}})
		require.NoError(t, err)
		submit(t, d)
		synctest.Wait()
		assert.Equal(t, 1, d.Snapshot(t.Context()).Targets[0].Backlog.Deliveries)
		over, cancel := context.WithCancel(t.Context())
		cancel()
		require.Error(t, d.Close(over))
	})
}
