package fanout_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestTarget_IsCopiedThroughAndThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		slow400 := delayed(time.Second, answering(400))
		pay := j.step("pay", answering(200), answering(200))
		ship := after(j.step("ship", slow400, nil), "pay")
		mail := withFallback(via("mail", answering(400)), via("text", answering(200)))
		mail.FallbackOn = []fanout.Outcome{fanout.Failed}
		mail.Header = http.Header{"X-Tenant": {"acme"}}
		mail.Retry.Statuses = []int{503}
		d := newDispatcher(t, pay, ship, mail)
		var changing sync.WaitGroup
		changing.Go(func() { // races with the dispatch if anything is shared
			ship.After[0] = "nobody"
			*pay.Compensate = via("other", answering(500))
			mail.Fallback[0] = via("other", answering(500))
			mail.FallbackOn[0] = fanout.Unknown
			mail.Header.Set("X-Tenant", "evil")
			mail.Retry.Statuses[0] = 400
		})
		results := dispatch(t.Context(), d)
		changing.Wait()
		assert.Equal(t, map[string]string{"pay": "compensated", "ship": "failed", "mail": "degraded"}, outcomesOf(results))
	})
}

func TestTarget_WithoutAPathCanBeJoinedTo(t *testing.T) {
	for _, base := range []string{"https://crm.example", "https://crm.example/", "https://crm.example?tenant=7"} {
		var path string
		target := fanout.Target{Name: "crm", URL: base, Transport: wire(func(r *http.Request) (*http.Response, error) {
			path = r.URL.RequestURI()
			return answer(200, ""), nil
		})}
		target.Prepare = func(_ context.Context, r *fanout.Request) error {
			r.URL = r.URL.JoinPath("contacts", "7")
			return nil
		}
		require.Equal(t, fanout.Delivered, dispatch(t.Context(), newDispatcher(t, target))["crm"].Outcome)
		assert.Regexp(t, `^/contacts/7(\?tenant=7)?$`, path)
	}
}

func TestTarget_WhosePrepareLeavesARelativePathIsNotSent(t *testing.T) {
	target := via("crm", answering(200))
	target.Prepare = func(_ context.Context, r *fanout.Request) error { r.URL.Path = "contacts"; return nil }
	r := dispatch(t.Context(), newDispatcher(t, target))["crm"]
	require.EqualError(t, r.Err(), "crm: prepare failed: URL: its path does not begin with a slash")
	assert.Empty(t, r.Attempts)
}

// deadLetters counts them as a meter sees them.
func deadLetters(t *testing.T, reader *sdkmetric.ManualReader) int {
	t.Helper()
	var data metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(context.Background(), &data))
	total := 0
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			if sum, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == "fanout.dead_letters" {
				for _, p := range sum.DataPoints {
					total += int(p.Value)
				}
			}
		}
	}
	return total
}

func TestConfig_OnDeadLetterOfWhatWasLeftToFinishIsCountedAndCorrelated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader := sdkmetric.NewManualReader()
		var told []string
		tell := func(ctx context.Context, r fanout.Result) {
			told = append(told, r.Target+" "+fanout.CorrelationID(ctx))
		}
		d := newWith(t, fanout.Config{
			MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)), OnResult: tell, OnDeadLetter: tell,
			Targets: []fanout.Target{via("quick", answering(200)), via("slow", delayed(time.Second, answering(400)))},
		})
		_, err := d.Dispatch(t.Context(), fanout.Payload{Value: "hello", CorrelationID: "visit-7"}, fanout.QuorumLeaveRest(1))
		require.NoError(t, err)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Equal(t, []string{"slow visit-7", "slow visit-7"}, told, "a result, and a dead letter")
		assert.Equal(t, 1, deadLetters(t, reader))
	})
}

func TestConfig_OnDeadLetterOfAFailedSagaIsCountedAndCorrelated(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	var j journal
	var told []string
	d := newWith(t, fanout.Config{
		MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
		OnDeadLetter: func(ctx context.Context, r fanout.Result) {
			told = append(told, r.Target+" "+fanout.CorrelationID(ctx))
		},
		Targets: []fanout.Target{j.step("pay", answering(200), answering(400)), after(j.step("ship", answering(400), nil), "pay")},
	})
	_, err := d.Dispatch(t.Context(), fanout.Payload{Value: "hello", CorrelationID: "visit-7"})
	require.Error(t, err)
	assert.Equal(t, []string{"pay visit-7"}, told)
	assert.Equal(t, 1, deadLetters(t, reader))
}

// blind is a queue in memory whose backlog cannot be read.
type blind struct{ fanout.Queue }

func (blind) Backlog(context.Context) ([]fanout.Backlog, error) {
	return nil, errors.New("database is away")
}

// wrappedQueue is a queue around another one.
type wrappedQueue struct{ inner fanout.Queue }

func (w wrappedQueue) Start(worker *fanout.Worker) error { return w.inner.Start(worker) }
func (w wrappedQueue) Submit(ctx context.Context, all []fanout.Delivery) error {
	return w.inner.Submit(ctx, all)
}
func (w wrappedQueue) Close(ctx context.Context) error { return w.inner.Close(ctx) }
func (w wrappedQueue) Unwrap() fanout.Queue            { return w.inner }

func TestSnapshot_OfABacklogThatCannotBeReadIsNotEmpty(t *testing.T) {
	for name, queue := range map[string]fanout.Queue{
		"blind":         blind{fanout.NewMemoryQueue(fanout.MemoryLimits{})},
		"blind, within": wrappedQueue{blind{fanout.NewMemoryQueue(fanout.MemoryLimits{})}},
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

func TestQueue_GivenADeliveryThatIsNotWholeSaysSo(t *testing.T) {
	q := fanout.NewMemoryQueue(fanout.MemoryLimits{})
	newWith(t, fanout.Config{Queue: q, Targets: []fanout.Target{via("crm", answering(200))}})
	for name, deliveries := range map[string][]fanout.Delivery{
		"no payload": {{Targets: []string{"crm"}}},
		"no target":  {{Payload: &fanout.Payload{ID: "o-1"}}},
		"the zero":   {{}},
	} {
		require.ErrorIs(t, q.Submit(t.Context(), deliveries), fanout.ErrInvalid, name)
	}
	require.NoError(t, q.Submit(t.Context(), nil))
}

func TestWorker_GivenADeliveryThatIsNotWholeDoesNotPanic(t *testing.T) {
	q := &notingQueue{}
	var told []string
	newWith(t, fanout.Config{Queue: q, Targets: []fanout.Target{via("crm", answering(200))},
		OnDeadLetter: func(_ context.Context, r fanout.Result) { told = append(told, r.Target) }})
	results, err := q.worker.Deliver(t.Context(), &fanout.Delivery{Targets: []string{"crm"}}, fanout.Round{})
	require.NoError(t, err)
	require.Len(t, results, 1)
	assert.Equal(t, fanout.Rejected, results[0].Outcome)
	q.worker.Done(t.Context(), results[0])
	assert.Equal(t, []string{"crm"}, told)
	results, err = q.worker.Deliver(t.Context(), &fanout.Delivery{}, fanout.Round{})
	require.NoError(t, err)
	assert.Empty(t, results)
}

func TestWorker_MakesAPayloadWholeThatAQueueHasMadeAgain(t *testing.T) {
	q := &notingQueue{}
	sender := fanouttest.NewSender()
	newWith(t, fanout.Config{Queue: q, Targets: []fanout.Target{sender.Target("ledger")}})
	_, err := q.worker.Deliver(t.Context(), &fanout.Delivery{Payload: &fanout.Payload{ID: "o-1"}, Targets: []string{"ledger"}}, fanout.Round{})
	require.NoError(t, err)
	require.Len(t, sender.Requests(), 1)
	assert.Equal(t, "o-1:ledger", sender.Requests()[0].Key)
	assert.Equal(t, "o-1", sender.Requests()[0].Payload.CorrelationID)
}

// closing counts how often it is closed.
type closing struct {
	fanout.Queue
	times int
	fails error
}

func (c *closing) Start(w *fanout.Worker) error {
	if c.fails != nil {
		return c.fails
	}
	return c.Queue.Start(w)
}

func (c *closing) Close(ctx context.Context) error {
	c.times++
	return c.Queue.Close(ctx)
}

func TestNew_ThatFailsLeavesTheQueueToItsOwner(t *testing.T) {
	for name, q := range map[string]*closing{
		"a target is invalid": {Queue: fanout.NewMemoryQueue(fanout.MemoryLimits{})},
		"it does not start":   {Queue: fanout.NewMemoryQueue(fanout.MemoryLimits{}), fails: errors.New("file in use")},
	} {
		targets := []fanout.Target{{Name: "crm"}}
		if q.fails != nil {
			targets = nil
		}
		_, err := fanout.New(fanout.Config{Queue: q, Targets: targets})
		require.Error(t, err, name)
		assert.Zero(t, q.times, name)
	}
}

func TestResults_WithAMisspeltNameDoNotReadAsSuccess(t *testing.T) {
	results := dispatch(t.Context(), newDispatcher(t, via("crm", answering(200))))
	require.NoError(t, results["crm"].Err())
	require.EqualError(t, results["crmm"].Err(), "fanout: no such target in the results")
	assert.NotEqual(t, fanout.Delivered, results["crmm"].Outcome)
	require.Error(t, fanout.Result{Target: "crm", Outcome: fanout.Failed}.Err(), "made by hand, without a reason")
}
