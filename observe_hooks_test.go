package fanout_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
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
	synctest.Test(t, func(t *testing.T) {
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
	})
}

func TestOnResult_ThatPanicsOrEndsItsGoroutineIsContained(t *testing.T) {
	for name, hook := range map[string]func(){"panic": func() { panic("hook") }, "goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			var told atomic.Int64
			var log bytes.Buffer
			before := slog.Default()
			slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
			defer slog.SetDefault(before)
			d, err := fanout.New(fanout.Config{
				Targets:      []fanout.Target{via("crm", answering(400))},
				Queue:        fanout.NewMemoryQueue(fanout.MemoryLimits{Workers: 1}),
				OnResult:     func(context.Context, fanout.Result) { told.Add(1); hook() },
				OnDeadLetter: func(context.Context, fanout.Result) { told.Add(1); hook() },
			})
			require.NoError(t, err)
			submit(t, d)
			submit(t, d)
			require.NoError(t, d.Close(context.Background()))
			assert.Equal(t, int64(4), told.Load())
			assert.Equal(t, name == "panic", strings.Contains(log.String(), "TestOnResult_ThatPanicsOrEndsItsGoroutineIsContained"), "with its stack")
		})
	}
}

func TestOnResult_ThatHangsForOneTargetHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := make(chan struct{})
		crm := make(chan string, 2000)
		analytics := optional(with(via("analytics", hanging), fanout.Policy{Timeout: time.Hour, AttemptTimeout: -1}))
		d, err := fanout.New(fanout.Config{
			Targets: []fanout.Target{analytics, via("crm", answering(200))},
			OnResult: func(_ context.Context, r fanout.Result) {
				if r.Target == "analytics" {
					<-block
				}
				crm <- r.Payload.ID
			},
		})
		require.NoError(t, err)
		for range 1500 {
			id := submit(t, d)
			assert.Equal(t, id, <-crm)
		}
		close(block)
		over, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() {
			for range crm { // drained
			}
		}()
		require.Error(t, d.Close(over))
		close(crm)
	})
}

func TestOnResult_MayCopyThePayload(t *testing.T) {
	var results fanouttest.Results
	d := newWith(t, fanout.Config{
		Targets: []fanout.Target{via("a", answering(200)), via("b", answering(200)), via("c", answering(200))},
		OnResult: func(ctx context.Context, r fanout.Result) {
			kept := *r.Payload
			r.Payload = &kept
			results.OnResult(ctx, r)
		},
	})
	for range 50 {
		_, err := results.Wait(t.Context(), submit(t, d), "a", "b", "c")
		require.NoError(t, err)
	}
}

func TestOnDeadLetter_MaySubmit(t *testing.T) {
	var d *fanout.Dispatcher
	again := make(chan string, 1)
	d = newWith(t, fanout.Config{
		Targets: []fanout.Target{via("crm", answering(400)), via("fallback", answering(200))},
		OnDeadLetter: func(ctx context.Context, r fanout.Result) {
			_, err := d.Submit(ctx, fanout.Payload{Body: r.Payload.Body, ContentType: r.Payload.ContentType}, fanout.To("fallback"))
			assert.NoError(t, err) //nolint:testifylint // not the test's goroutine
			again <- fanout.CorrelationID(ctx)
		},
	})
	_, err := d.Submit(fanout.WithCorrelationID(t.Context(), "visit-7"), "hello", fanout.To("crm"))
	require.NoError(t, err)
	assert.Equal(t, "visit-7", <-again)
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

func TestOnDeadLetter_OfWhatWasLeftToFinishIsCountedAndCorrelated(t *testing.T) {
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

func TestOnDeadLetter_OfAFailedSagaIsCountedAndCorrelated(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	var j callLog
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

func TestTelemetry_ThatMisbehavesChangesNoResultAndTellsOnce(t *testing.T) {
	for name, misbehave := range map[string]func(){"panic": func() { panic("log") }, "goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			var told []string
			d := newWith(t, fanout.Config{
				Logger:   slog.New(misbehaving{"fanout: dead letter", misbehave}),
				Targets:  []fanout.Target{via("crm", answering(400))},
				OnResult: func(_ context.Context, r fanout.Result) { told = append(told, r.Outcome.String()) },
			})
			submit(t, d)
			require.NoError(t, d.Close(t.Context()))
			assert.Equal(t, []string{"failed"}, told)
		})
	}
}

// misbehaving is a log handler that misbehaves at one message.
type misbehaving struct {
	message   string
	misbehave func()
}

func (m misbehaving) Enabled(context.Context, slog.Level) bool { return true }
func (m misbehaving) Handle(_ context.Context, r slog.Record) error {
	if r.Message == m.message {
		m.misbehave()
	}
	return nil
}
func (m misbehaving) WithAttrs([]slog.Attr) slog.Handler { return m }
func (m misbehaving) WithGroup(string) slog.Handler      { return m }

func TestLogger_ThatPanicsLosesNoResultsOfADispatch(t *testing.T) {
	d := newWith(t, fanout.Config{
		Logger:  slog.New(misbehaving{"fanout: dispatch failed", func() { panic("log") }}),
		Targets: []fanout.Target{via("crm", answering(400))},
	})
	results, err := d.Dispatch(t.Context(), "hello")
	require.ErrorContains(t, err, "400 Bad Request")
	assert.Equal(t, fanout.Failed, results["crm"].Outcome)
}

func TestHooks_WaitedThatEndsItsGoroutineKeepsNoPermit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var once sync.Once
		d := newWith(t, fanout.Config{
			Hooks:   &fanout.Hooks{Waited: func(context.Context, fanout.WaitEvent) { once.Do(runtime.Goexit) }},
			Targets: []fanout.Target{with(via("crm", slow(time.Second)), fanout.Policy{Bulkhead: fanout.Bulkhead{MaxConcurrent: 1, MaxWait: time.Minute}})},
		})
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() { dispatch(t.Context(), d) })
		}
		all.Wait()
		assert.Equal(t, fanout.Delivered, dispatch(t.Context(), d)["crm"].Outcome)
	})
}

func TestHooks_AreToldThoughALogPanics(t *testing.T) {
	for message, want := range map[string]string{"fanout: attempt": "AttemptEnded", "fanout: security": "AttemptEnded", "fanout: breaker open": "BreakerChanged"} {
		t.Run(message, func(t *testing.T) {
			var mu sync.Mutex
			told := map[string]int{}
			tell := func(s string) { mu.Lock(); told[s]++; mu.Unlock() }
			l := slog.New(misbehaving{message, func() { panic("log") }})
			d := newWith(t, fanout.Config{Logger: l, SecurityLogger: l,
				Targets: []fanout.Target{with(via("crm", answering(403, 500)), fanout.Policy{Retry: fanout.Retry{MaxAttempts: 1}})},
				Hooks: &fanout.Hooks{
					AttemptEnded:   func(context.Context, fanout.AttemptEvent) { tell("AttemptEnded") },
					BreakerChanged: func(context.Context, fanout.BreakerEvent) { tell("BreakerChanged") },
				}})
			n := 1
			if want == "BreakerChanged" {
				n = 60
			}
			for range n {
				dispatch(t.Context(), d)
			}
			assert.NotZero(t, told[want])
		})
	}
}

func TestHooks_OfADeliverysEndAreToldThoughASecurityLogPanics(t *testing.T) {
	var told []string
	l := slog.New(misbehaving{"fanout: security", func() { panic("log") }})
	target := via("crm", answering(200))
	target.Auth = fanout.AuthenticatorFunc(func(context.Context, *http.Request) error { return errors.New("no token") })
	d := newWith(t, fanout.Config{SecurityLogger: l, Targets: []fanout.Target{target},
		Hooks: &fanout.Hooks{DeliveryEnded: func(_ context.Context, r fanout.Result) { told = append(told, r.Target) }}})
	dispatch(t.Context(), d)
	assert.Equal(t, []string{"crm"}, told)
}

func TestSetTargets_ChangesThemThoughASecurityLogPanics(t *testing.T) {
	l := slog.New(misbehaving{"fanout: security", func() { panic("log") }})
	d := newWith(t, fanout.Config{SecurityLogger: l})
	assert.NotPanics(t, func() { _ = d.SetTargets(via("crm", answering(200))) })
	assert.NotPanics(t, func() { d.RemoveTargets("crm") })
}
