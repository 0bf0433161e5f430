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

func TestHooks_AreToldWhatHappensAsItHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		tell := func(format string, args ...any) { told = append(told, fmt.Sprintf(format, args...)) }
		hooks := &fanout.Hooks{
			AttemptStarted: func(ctx context.Context, e fanout.AttemptEvent) {
				tell("%s attempt %d of %s begins", fanout.CorrelationID(ctx), e.Request.Attempt, e.Request.Target)
			},
			AttemptEnded: func(_ context.Context, e fanout.AttemptEvent) {
				tell("attempt %d: %d, %v", e.Request.Attempt, e.Attempt.StatusCode, e.Attempt.Err)
			},
			Waited: func(_ context.Context, e fanout.WaitEvent) {
				tell("%s waited %v: %s", e.Target, e.Waited, e.For)
			},
			BreakerChanged: func(_ context.Context, e fanout.BreakerEvent) {
				tell("%s: %s to %s", e.Target, e.From, e.To)
			},
			DeliveryEnded: func(_ context.Context, r fanout.Result) { tell("%s %s", r.Target, r.Outcome) },
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

func TestHooks_ThatPanicChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log records
		oops := func() { panic("oops") }
		d := newWith(t, fanout.Config{
			Logger: log.logger(slog.LevelInfo),
			Hooks: &fanout.Hooks{
				AttemptStarted: func(context.Context, fanout.AttemptEvent) { oops() },
				AttemptEnded:   func(context.Context, fanout.AttemptEvent) { oops() },
				Waited:         func(context.Context, fanout.WaitEvent) { oops() },
				BreakerChanged: func(context.Context, fanout.BreakerEvent) { oops() },
				DeliveryEnded:  func(context.Context, fanout.Result) { oops() },
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
				assert.Contains(t, record["stack"], "observe_hooks_test.go")
			}
		}
		assert.Len(t, failed, 5)
	})
}

func TestHooks_ThatEndTheirGoroutineLoseNoDelivery(t *testing.T) {
	for name, hooks := range map[string]*fanout.Hooks{
		"done":     {AttemptEnded: func(context.Context, fanout.AttemptEvent) { runtime.Goexit() }},
		"delivery": {DeliveryEnded: func(context.Context, fanout.Result) { runtime.Goexit() }},
	} {
		d := newWith(t, fanout.Config{Hooks: hooks, Targets: []fanout.Target{via("a", answering(200)), via("b", answering(200))}})
		for _, options := range [][]fanout.DispatchOption{nil, {fanout.Quorum(1)}, {fanout.ToTargets(via("c", answering(200)), after(via("d", answering(200)), "c"))}} {
			results, err := d.Dispatch(t.Context(), "hello", options...)
			require.NoError(t, err, name)
			assert.Len(t, results, 2, name)
		}
	}
}

func TestHooks_MayCallTheDispatcher(t *testing.T) {
	var d *fanout.Dispatcher
	look := func(ctx context.Context) { d.Snapshot(ctx); d.BreakerState("crm"); d.TargetNames() }
	d = newWith(t, fanout.Config{
		Targets: []fanout.Target{with(via("crm", answering(500)), fanout.Policy{Breaker: fanout.Breaker{ConsecutiveFailures: 1}})},
		Hooks: &fanout.Hooks{
			AttemptStarted: func(ctx context.Context, _ fanout.AttemptEvent) { look(ctx) },
			BreakerChanged: func(ctx context.Context, _ fanout.BreakerEvent) { look(ctx) },
			DeliveryEnded:  func(context.Context, fanout.Result) { assert.NoError(t, d.SetTargets(via("new", answering(200)))) },
		},
	})
	dispatch(t.Context(), d)
	assert.Equal(t, []string{"crm", "new"}, d.TargetNames())
}
