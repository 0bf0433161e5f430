package fanout_test

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestHooksAreToldWhatHappensAsItHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		tell := func(format string, args ...any) { told = append(told, fmt.Sprintf(format, args...)) }
		hooks := &fanout.Hooks{
			AttemptStart: func(ctx context.Context, r fanout.Request) {
				tell("%s attempt %d of %s begins", fanout.CorrelationID(ctx), r.Attempt, r.Target)
			},
			AttemptDone: func(_ context.Context, r fanout.Request, a fanout.Attempt) {
				tell("attempt %d: %d, %v", r.Attempt, a.StatusCode, a.Err)
			},
			Waited: func(_ context.Context, target string, why fanout.Wait, waited time.Duration) {
				tell("%s waited %v: %s", target, waited, why)
			},
			BreakerChanged: func(_ context.Context, target string, from, to fanout.BreakerState) {
				tell("%s: %s to %s", target, from, to)
			},
			DeliveryDone: func(_ context.Context, r fanout.Result) { tell("%s %s", r.Target, r.Outcome) },
		}
		d := newWith(t, fanout.Config{Hooks: hooks, Targets: []fanout.Target{
			with(via("crm", answering(500)), fanout.Policy{
				Retry: fanout.Retry{InitialBackoff: time.Second, Jitter: -1}, Breaker: fanout.Breaker{ConsecutiveFailures: 2},
			}),
		}})
		dispatch(fanout.WithCorrelationID(t.Context(), "visit-7"), d)
		assert.Equal(t, []string{
			"visit-7 attempt 1 of crm begins",
			"attempt 1: 500, 500 Internal Server Error",
			"crm waited 1s: backoff",
			"visit-7 attempt 2 of crm begins",
			"attempt 2: 500, 500 Internal Server Error",
			"crm: closed to open",
			"crm waited 2s: backoff",
			"crm failed",
		}, told)
	})
}

func TestHooksThatPanicChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log records
		oops := func() { panic("oops") }
		d := newWith(t, fanout.Config{
			Logger: log.logger(slog.LevelInfo),
			Hooks: &fanout.Hooks{
				AttemptStart:   func(context.Context, fanout.Request) { oops() },
				AttemptDone:    func(context.Context, fanout.Request, fanout.Attempt) { oops() },
				Waited:         func(context.Context, string, fanout.Wait, time.Duration) { oops() },
				BreakerChanged: func(context.Context, string, fanout.BreakerState, fanout.BreakerState) { oops() },
				DeliveryDone:   func(context.Context, fanout.Result) { oops() },
			},
			Targets: []fanout.Target{with(via("crm", answering(500, 200)), fanout.Policy{Breaker: fanout.Breaker{ConsecutiveFailures: 1, OpenFor: time.Millisecond}})},
		})
		results := dispatch(t.Context(), d)
		assert.Equal(t, fanout.Delivered, results["crm"].Outcome)
		assert.Len(t, results["crm"].Attempts, 2)
		failed := map[any]bool{}
		for _, record := range log.all(t) {
			if record["msg"] == "fanout: hook failed" {
				failed[record["hook"]] = true
				assert.Contains(t, record["stack"], "hooks_test.go")
			}
		}
		assert.Len(t, failed, 5)
	})
}

func TestHooksThatEndTheirGoroutineLoseNoDelivery(t *testing.T) {
	for name, hooks := range map[string]*fanout.Hooks{
		"done":     {AttemptDone: func(context.Context, fanout.Request, fanout.Attempt) { runtime.Goexit() }},
		"delivery": {DeliveryDone: func(context.Context, fanout.Result) { runtime.Goexit() }},
	} {
		d := newWith(t, fanout.Config{Hooks: hooks, Targets: []fanout.Target{via("a", answering(200)), via("b", answering(200))}})
		for _, options := range [][]fanout.Option{nil, {fanout.Enough(1)}, {fanout.ToTargets(via("c", answering(200)), after(via("d", answering(200)), "c"))}} {
			results, err := d.Dispatch(t.Context(), "hello", options...)
			require.NoError(t, err, name)
			assert.Len(t, results, 2, name)
		}
	}
}

func TestHooksMayCallTheDispatcher(t *testing.T) {
	var d *fanout.Dispatcher
	look := func(ctx context.Context) { d.Snapshot(ctx); d.BreakerState("crm"); d.TargetNames() }
	d = newWith(t, fanout.Config{
		Targets: []fanout.Target{with(via("crm", answering(500)), fanout.Policy{Breaker: fanout.Breaker{ConsecutiveFailures: 1}})},
		Hooks: &fanout.Hooks{
			AttemptStart:   func(ctx context.Context, _ fanout.Request) { look(ctx) },
			BreakerChanged: func(ctx context.Context, _ string, _, _ fanout.BreakerState) { look(ctx) },
			DeliveryDone:   func(context.Context, fanout.Result) { assert.NoError(t, d.SetTargets(via("new", answering(200)))) },
		},
	})
	dispatch(t.Context(), d)
	assert.Equal(t, []string{"crm", "new"}, d.TargetNames())
}
