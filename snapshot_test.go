package fanout_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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
		assert.Equal(t, fanout.TargetSnapshot{Target: "fine", Breaker: fanout.BreakerClosed, Attempts: 2, Retries: 1, Delivered: 1, Backlog: &fanout.Backlog{}}, s.Targets[0])
		down := s.Targets[1]
		assert.False(t, down.LastErrorAt.Before(began))
		down.LastErrorAt = time.Time{}
		assert.Equal(t, fanout.TargetSnapshot{Target: "down", Breaker: fanout.BreakerOpen, Attempts: 3, Retries: 2, Failed: 1, Rejected: 1, LastError: "500", Backlog: &fanout.Backlog{}}, down)
		assert.Equal(t, fanout.TargetSnapshot{Target: "hangs", Optional: true, Breaker: fanout.BreakerClosed, InFlight: 1, Waiting: 1, Backlog: &fanout.Backlog{Target: "hangs", Deliveries: 2, Oldest: submitted}, Attempts: 1}, s.Targets[2])

		over, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Error(t, d.Close(over))
		s = d.Snapshot(t.Context())
		assert.Zero(t, s.Targets[2].InFlight+s.Targets[2].Waiting+int64(s.Targets[2].Backlog.Deliveries), "nothing is left over")
	})
}
