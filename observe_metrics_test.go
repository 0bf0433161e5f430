package fanout_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestMetrics_CountDeliveriesAndAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		measured := newMeter()
		d := newWith(t, fanout.Config{MeterProvider: measured.provider, Targets: []fanout.Target{
			via("crm", answering(503, 201)), via("mail", answering(400)), sending("ledger", nothing),
		}})
		dispatch(t.Context(), d)
		got := measured.read(t)
		for series, want := range map[string]float64{
			"fanout.deliveries{fanout.outcome=delivered,fanout.target=crm}":              1,
			"fanout.deliveries{fanout.outcome=delivered,fanout.target=ledger}":           1,
			"fanout.deliveries{error.type=400,fanout.outcome=failed,fanout.target=mail}": 1,
			"fanout.delivery.duration{fanout.outcome=delivered,fanout.target=crm}":       1,
			"fanout.attempts{fanout.target=crm}":                                         2,
			"fanout.attempts{fanout.target=ledger}":                                      1,
			"fanout.retries{fanout.target=crm}":                                          1,
			"fanout.wait.duration{fanout.target=crm,fanout.wait.reason=backoff}":         1,
			"fanout.breaker.state{fanout.target=crm}":                                    0,
			"fanout.bulkhead.in_use{fanout.target=crm}":                                  0,
			"fanout.bulkhead.waiting{fanout.target=crm}":                                 0,
			"http.client.request.duration{" + httpOf("crm", 201) + "}":                   1,
			"http.client.request.duration{error.type=503," + httpOf("crm", 503) + "}":    1,
		} {
			if assert.Contains(t, got, series) {
				assert.InDelta(t, want, got[series], 0, series)
			}
		}
		assert.NotContains(t, got, "fanout.retries{fanout.target=mail}")
	})
}

// nothing is a Sender that succeeds without an answer.
func nothing(context.Context, *fanout.Request) (*fanout.Response, error) { return nil, nil }

// httpOf are the attributes of a POST to a target made by via.
func httpOf(target string, status int) string {
	return fmt.Sprintf("http.request.method=POST,http.response.status_code=%d,server.address=%s.example,server.port=443", status, target)
}

func TestMetrics_RequestDurationHasTheConventionsBuckets(t *testing.T) {
	measured := newMeter()
	dispatch(t.Context(), newWith(t, fanout.Config{MeterProvider: measured.provider, Targets: []fanout.Target{via("crm", answering(200))}}))
	var data metricdata.ResourceMetrics
	require.NoError(t, measured.reader.Collect(t.Context(), &data))
	for _, m := range data.ScopeMetrics[0].Metrics {
		if m.Name == "http.client.request.duration" {
			assert.Equal(t, "s", m.Unit)
			assert.Equal(t, []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}, m.Data.(metricdata.Histogram[float64]).DataPoints[0].Bounds)
			return
		}
	}
	require.Fail(t, "not measured")
}

func TestMetrics_TellTheBreakerAndTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		measured := newMeter()
		down := with(via("crm", answering(500)), fanout.Policy{
			Retry: fanout.Retry{Budget: 1, InitialBackoff: time.Millisecond}, Breaker: fanout.Breaker{ConsecutiveFailures: 3, OpenFor: time.Minute},
		})
		d := newWith(t, fanout.Config{MeterProvider: measured.provider, Targets: []fanout.Target{down}})
		for range 3 {
			dispatch(t.Context(), d)
		}
		got := measured.read(t)
		assert.InDelta(t, 2, got["fanout.breaker.state{fanout.target=crm}"], 0)
		assert.InDelta(t, 1, got["fanout.breaker.transitions{fanout.breaker.state=open,fanout.target=crm}"], 0)
		assert.InDelta(t, 2, got["fanout.retry_budget.refusals{fanout.target=crm}"], 0)
		assert.InDelta(t, 1, got["fanout.deliveries{error.type=breaker_open,fanout.outcome=rejected,fanout.target=crm}"], 0)
	})
}

func TestMetrics_TellTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		measured := newMeter()
		d, err := fanout.New(fanout.Config{
			MeterProvider: measured.provider,
			Targets: []fanout.Target{
				with(via("hangs", hanging), fanout.Policy{Timeout: time.Hour, AttemptTimeout: -1}), via("no", answering(400)), via("fine", answering(200)),
			},
			Queue: fanout.NewMemoryQueue(fanout.MemoryLimits{MaxPerTarget: 2}),
		})
		require.NoError(t, err)
		submit(t, d)
		submit(t, d, fanout.To("hangs"))
		synctest.Wait()
		time.Sleep(3 * time.Second)
		_, err = d.Submit(t.Context(), "one too many")
		require.ErrorIs(t, err, fanout.ErrFull)

		got := measured.read(t)
		assert.InDelta(t, 2, got["fanout.queue.depth{fanout.target=hangs}"], 0)
		assert.InDelta(t, 0, got["fanout.queue.depth{fanout.target=fine}"], 0)
		assert.InDelta(t, 3, got["fanout.queue.oldest.age{fanout.target=hangs}"], 0)
		assert.InDelta(t, 2, got["fanout.queue.submitted{fanout.target=hangs}"], 0)
		assert.InDelta(t, 1, got["fanout.queue.done{fanout.target=no}"], 0)
		assert.InDelta(t, 1, got["fanout.queue.refused{}"], 0)
		assert.InDelta(t, 1, got["fanout.dead_letters{fanout.target=no}"], 0)
		assert.NotContains(t, got, "fanout.dead_letters{fanout.target=fine}")

		over, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Error(t, d.Close(over))
		assert.InDelta(t, 2, measured.read(t)["fanout.queue.dropped{fanout.target=hangs}"], 0)
	})
}

func TestMetrics_CountWhatEndsWhileClosingAsDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		measured := newMeter()
		d, err := fanout.New(fanout.Config{MeterProvider: measured.provider, Targets: []fanout.Target{via("crm", slow(time.Second))}})
		require.NoError(t, err)
		submit(t, d)
		require.NoError(t, d.Close(t.Context()))
		assert.InDelta(t, 1, measured.read(t)["fanout.queue.drained{fanout.target=crm}"], 0)
	})
}

func TestMetrics_OfTargetsBeyondAThousandAndThoseInACallShareTheirSeries(t *testing.T) {
	measured := newMeter()
	var results fanouttest.Results
	d := newWith(t, fanout.Config{MeterProvider: measured.provider, OnResult: results.OnResult})
	var targets []fanout.Target
	for i := range 1010 {
		targets = append(targets, via(fmt.Sprint("target-", i), answering(200)))
	}
	require.NoError(t, d.SetTargets(targets...))
	dispatch(t.Context(), d)
	dispatch(t.Context(), d, fanout.ToTargets(via("webhook", func(*http.Request) (*http.Response, error) { return answer(200, ""), nil })))
	got := measured.read(t)
	assert.InDelta(t, 11, got["fanout.deliveries{fanout.outcome=delivered,fanout.target=_other}"], 0)
	assert.InDelta(t, 11, got["http.client.request.duration{http.request.method=POST,http.response.status_code=200,server.address=_other,server.port=0}"], 0)
	assert.Contains(t, got, "fanout.deliveries{fanout.outcome=delivered,fanout.target=target-999}")

	d.RemoveTargets("target-0")
	require.NoError(t, d.SetTargets(via("late", answering(200))))
	dispatch(t.Context(), d, fanout.To("late"))
	assert.Contains(t, measured.read(t), "fanout.deliveries{fanout.outcome=delivered,fanout.target=late}", "a series was free again")
}

func TestMetrics_EndWithClose(t *testing.T) {
	measured := newMeter()
	d, err := fanout.New(fanout.Config{MeterProvider: measured.provider, Targets: []fanout.Target{via("crm", answering(200))}})
	require.NoError(t, err)
	assert.Contains(t, measured.read(t), "fanout.breaker.state{fanout.target=crm}")
	require.NoError(t, d.Close(t.Context()))
	assert.NotContains(t, measured.read(t), "fanout.breaker.state{fanout.target=crm}")
}

func TestMetrics_OfASagaCountWhatBecameOfUndoing(t *testing.T) {
	var j callLog
	measured := newMeter()
	dispatch(t.Context(), newWith(t, fanout.Config{MeterProvider: measured.provider, Targets: []fanout.Target{
		j.step("pay", answering(200), answering(200)), j.step("book", answering(200), answering(400)),
		after(via("ship", answering(400)), "pay", "book"),
	}}))
	got := measured.read(t)
	assert.InDelta(t, 1, got["fanout.compensations{fanout.outcome=compensated,fanout.target=pay}"], 0)
	assert.InDelta(t, 1, got["fanout.compensations{fanout.outcome=compensation_failed,fanout.target=book}"], 0)
}
