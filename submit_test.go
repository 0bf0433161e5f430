package fanout_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
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
	"go.uber.org/goleak"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

// slow answers after d, or not at all if its context ends before.
func slow(d time.Duration) wire {
	return func(r *http.Request) (*http.Response, error) {
		select {
		case <-time.After(d):
			return answer(200, ""), nil
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}

func submit(t *testing.T, d *fanout.Dispatcher, options ...fanout.SubmitOption) string {
	t.Helper()
	id, err := d.Submit(t.Context(), "hello", options...)
	require.NoError(t, err)
	return id
}

func TestSubmitReturnsAtOnceAndDeliversToAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var results fanouttest.Results
		d := newWith(t, fanout.Config{
			Targets:  []fanout.Target{via("quick", answering(200)), via("slow", slow(5*time.Second)), via("no", answering(400))},
			OnResult: results.OnResult,
		})
		began := time.Now()
		id := submit(t, d)
		assert.Zero(t, time.Since(began))
		got, err := results.Wait(t.Context(), id, "quick", "slow", "no")
		require.NoError(t, err)
		assert.Equal(t, 5*time.Second, time.Since(began))
		for target, outcome := range map[string]fanout.Outcome{"quick": fanout.Delivered, "slow": fanout.Delivered, "no": fanout.Failed} {
			assert.Equal(t, outcome, got[target].Outcome)
			assert.Equal(t, id, got[target].Payload.ID)
		}
	})
}

func TestInvariant9SubmittedWorkOutlivesTheRequestAndKeepsItsValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		var value any
		var correlationID string
		var results fanouttest.Results
		d := newWith(t, fanout.Config{OnResult: results.OnResult, Targets: []fanout.Target{
			sending("ledger", func(ctx context.Context, _ *fanout.Request) (*fanout.Response, error) {
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
					return nil, ctx.Err()
				}
				value, correlationID = ctx.Value(key{}), fanout.CorrelationID(ctx)
				_, hasDeadline := ctx.Deadline()
				assert.True(t, hasDeadline)
				return nil, nil
			}),
			with(via("hangs", hanging), fanout.Policy{Timeout: time.Minute, Retry: fanout.Retry{MaxAttempts: 1}, AttemptTimeout: time.Minute}),
		}})
		ctx, cancel := context.WithTimeout(context.WithValue(fanout.WithCorrelationID(t.Context(), "visit-7"), key{}, "kept"), time.Millisecond)
		began := time.Now()
		id, err := d.Submit(ctx, "hello")
		require.NoError(t, err)
		cancel()
		got, err := results.Wait(t.Context(), id, "ledger", "hangs")
		require.NoError(t, err)
		assert.Equal(t, fanout.Delivered, got["ledger"].Outcome)
		assert.Equal(t, "kept", value)
		assert.Equal(t, "visit-7", correlationID)
		assert.Equal(t, fanout.Unknown, got["hangs"].Outcome)
		require.ErrorIs(t, got["hangs"].Err(), fanout.ErrTimeout)
		assert.Equal(t, time.Minute, time.Since(began), "a deadline of its own")
	})
}

func TestInvariant10AfterCloseNothingRunsAndWhatWasNotDeliveredIsNamed(t *testing.T) {
	hangs := fanouttest.NewTarget(t, fanouttest.Hang())
	others := goleak.IgnoreCurrent()
	d, err := fanout.New(fanout.Config{
		Targets: []fanout.Target{hangs.Target("crm")},
		Queue:   fanout.NewMemoryQueue(fanout.MemoryLimits{Workers: 1}),
	})
	require.NoError(t, err)
	first, second := submit(t, d), submit(t, d)
	require.NoError(t, hangs.Wait(t.Context(), 1))
	over, cancel := context.WithCancel(t.Context())
	cancel()
	err = d.Close(over)
	goleak.VerifyNone(t, others)

	var left *fanout.UndeliveredError
	require.ErrorAs(t, err, &left)
	require.ErrorIs(t, err, context.Canceled)
	outcomes := map[string]fanout.Outcome{}
	for _, u := range left.Left {
		outcomes[u.Payload.ID] = u.Outcome
		assert.Equal(t, 1, strings.Count(u.Err().Error(), "dispatcher closed"), u.Err())
		assert.Equal(t, "hello", u.Payload.Value)
		assert.Equal(t, u.Payload.ID, u.Payload.Key, "so that it can be repeated")
		assert.Equal(t, `"hello"`, string(u.Payload.Body))
	}
	assert.Equal(t, map[string]fanout.Outcome{first: fanout.Unknown, second: fanout.Rejected}, outcomes)
	assert.Equal(t, 1, hangs.Count())
}

func TestCloseDrainsWhatWasSubmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var delivered atomic.Int64
		d, err := fanout.New(fanout.Config{
			Targets:  []fanout.Target{via("crm", slow(time.Second))},
			Queue:    fanout.NewMemoryQueue(fanout.MemoryLimits{Workers: 2}),
			OnResult: func(context.Context, fanout.Result) { delivered.Add(1) },
		})
		require.NoError(t, err)
		for range 10 {
			submit(t, d)
		}
		var closers sync.WaitGroup
		for range 3 {
			closers.Go(func() { assert.NoError(t, d.Close(context.Background())) })
		}
		synctest.Wait()
		_, err = d.Submit(t.Context(), "late")
		require.ErrorIs(t, err, fanout.ErrClosed)
		closers.Wait()
		assert.Equal(t, int64(10), delivered.Load())
		require.NoError(t, d.Close(context.Background()), "again")
	})
}

func TestCloseWithoutADeadlineDrainsForThirtySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := fanout.New(fanout.Config{Targets: []fanout.Target{with(via("crm", hanging), fanout.Policy{Timeout: time.Hour, AttemptTimeout: -1})}})
		require.NoError(t, err)
		submit(t, d)
		began := time.Now()
		var left *fanout.UndeliveredError
		require.ErrorAs(t, d.Close(context.Background()), &left)
		assert.Equal(t, 30*time.Second, time.Since(began))
		require.Len(t, left.Left, 1)
		require.ErrorAs(t, d.Close(context.Background()), &left, "and says so again")
	})
}

func TestASenderThatIgnoresItsContextIsNamedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		d, err := fanout.New(fanout.Config{Targets: []fanout.Target{
			sending("deaf", func(context.Context, *fanout.Request) (*fanout.Response, error) { <-release; return nil, nil }),
		}})
		require.NoError(t, err)
		id := submit(t, d)
		synctest.Wait()
		var left *fanout.UndeliveredError
		require.ErrorAs(t, d.Close(context.Background()), &left)
		require.Len(t, left.Left, 1)
		assert.Equal(t, id, left.Left[0].Payload.ID)
		assert.Equal(t, fanout.Unknown, left.Left[0].Outcome)
		close(release)
	})
}

func TestWhatWasDeliveredIsNotNamedForASlowHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := fanout.New(fanout.Config{
			Targets:  []fanout.Target{via("crm", answering(200))},
			OnResult: func(context.Context, fanout.Result) { time.Sleep(time.Minute) },
		})
		require.NoError(t, err)
		submit(t, d)
		require.NoError(t, d.Close(context.Background()))
		time.Sleep(time.Minute)
	})
}

func TestTheQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newWith(t, fanout.Config{
			Targets: []fanout.Target{via("crm", slow(time.Second)), via("email", slow(time.Second))},
			Queue:   fanout.NewMemoryQueue(fanout.MemoryLimits{MaxDispatches: 4, MaxPerTarget: 3}),
		})
		for range 3 {
			submit(t, d, fanout.To("crm"))
		}
		_, err := d.Submit(t.Context(), "hello", fanout.To("crm"))
		require.ErrorIs(t, err, fanout.ErrFull)
		require.EqualError(t, err, `fanout: queue full: target "crm": 3 deliveries are not done`)
		submit(t, d, fanout.To("email"))
		_, err = d.Submit(t.Context(), "hello", fanout.To("email"))
		require.EqualError(t, err, "fanout: queue full: 4 dispatches are not done")
		time.Sleep(2 * time.Second)
		submit(t, d)
	})
}

func TestAnOptionalTargetWithoutRoomIsLeftOutAndReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		analytics := with(via("analytics", hanging), fanout.Policy{Timeout: time.Second})
		analytics.Optional = true
		var results fanouttest.Results
		var dead []string
		d := newWith(t, fanout.Config{
			Targets: []fanout.Target{via("crm", answering(200)), analytics}, OnResult: results.OnResult,
			OnDeadLetter: func(_ context.Context, r fanout.Result) {
				if errors.Is(r.Err(), fanout.ErrFull) {
					dead = append(dead, r.Payload.ID+" "+r.Target)
				}
			},
			Queue: fanout.NewMemoryQueue(fanout.MemoryLimits{MaxPerTarget: 1}),
		})
		submit(t, d)
		synctest.Wait()
		id := submit(t, d)
		got, err := results.Wait(t.Context(), id, "crm", "analytics")
		require.NoError(t, err)
		assert.Equal(t, fanout.Delivered, got["crm"].Outcome)
		assert.Equal(t, fanout.Rejected, got["analytics"].Outcome)
		synctest.Wait()
		assert.Equal(t, []string{id + " analytics"}, dead)
	})
}

func TestSubmitWaitsForRoomIfAskedTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newWith(t, fanout.Config{
			Targets: []fanout.Target{via("crm", slow(time.Second))},
			Queue:   fanout.NewMemoryQueue(fanout.MemoryLimits{MaxDispatches: 1, MaxWait: 1500 * time.Millisecond}),
		})
		began := time.Now()
		submit(t, d)
		submit(t, d)
		assert.Equal(t, time.Second, time.Since(began))

		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := d.Submit(ctx, "hello")
		require.ErrorIs(t, err, fanout.ErrFull)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestATargetThatHangsHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var results fanouttest.Results
		targets := []fanout.Target{with(via("hangs", hanging), fanout.Policy{Timeout: 5 * time.Second, AttemptTimeout: -1})}
		targets[0].Optional = true
		for i := range 9 {
			targets = append(targets, via(fmt.Sprint("fine-", i), slow(10*time.Millisecond)))
		}
		d := newWith(t, fanout.Config{Targets: targets, OnResult: results.OnResult})
		for range 2000 {
			id := submit(t, d)
			time.Sleep(11 * time.Millisecond)
			over, cancel := context.WithCancel(t.Context())
			cancel()
			got, _ := results.Wait(over, id)
			for i := range 9 {
				require.Equal(t, 10*time.Millisecond, got[fmt.Sprint("fine-", i)].Duration)
			}
		}
	})
}

func TestHooksAreContained(t *testing.T) {
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
			assert.Equal(t, name == "panic", strings.Contains(log.String(), "TestHooksAreContained"), "with its stack")
		})
	}
}

func TestHooksMaySubmit(t *testing.T) {
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

func TestTargetsGivenInTheCallCanBeSubmittedTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var results fanouttest.Results
		d := newWith(t, fanout.Config{OnResult: results.OnResult})
		got, err := results.Wait(t.Context(), submit(t, d, fanout.ToTargets(via("webhook", answering(200)))))
		require.NoError(t, err)
		assert.Equal(t, fanout.Delivered, got["webhook"].Outcome)
	})
}

func TestWhatCannotBeSubmittedIsRefused(t *testing.T) {
	d := newDispatcher(t, via("crm", answering(200)))
	_, err := d.Submit(t.Context(), make(chan int))
	require.ErrorIs(t, err, fanout.ErrInvalid)
	_, err = d.Submit(t.Context(), "hello", fanout.To("nobody"))
	require.ErrorIs(t, err, fanout.ErrInvalid)
	var none context.Context
	_, err = d.Submit(none, "hello")
	require.EqualError(t, err, "fanout: Context: nil")
	_, err = fanout.New(fanout.Config{Queue: fanout.NewMemoryQueue(fanout.MemoryLimits{Workers: -1})})
	require.EqualError(t, err, "fanout: MemoryLimits.Workers: -1 is negative")
}

func TestDrainingKeepsItsConnections(t *testing.T) {
	crm := fanouttest.NewTarget(t, fanouttest.Delay(20*time.Millisecond, fanouttest.Status(200)))
	var results fanouttest.Results
	d, err := fanout.New(fanout.Config{
		Targets: []fanout.Target{crm.Target("crm")}, OnResult: results.OnResult,
		Queue: fanout.NewMemoryQueue(fanout.MemoryLimits{Workers: 1}),
	})
	require.NoError(t, err)
	first, second := submit(t, d), submit(t, d)
	require.NoError(t, d.Close(context.Background()))
	for _, id := range []string{first, second} {
		got, err := results.Wait(t.Context(), id)
		require.NoError(t, err)
		assert.Len(t, got["crm"].Attempts, 1)
		assert.Equal(t, fanout.Delivered, got["crm"].Outcome, "%v", got["crm"].Err())
	}
}

// Whenever Close comes, each accepted delivery has one end: OnResult, or a name in
// the error.
func TestEveryAcceptedDeliveryIsReportedOrNamedOnce(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			var mu sync.Mutex
			ends := map[string]int{}
			end := func(p *fanout.Payload, target string) {
				mu.Lock()
				defer mu.Unlock()
				ends[p.ID+" "+target]++
			}
			optional := via("optional", slow(time.Duration(random.IntN(50))*time.Millisecond))
			optional.Optional = true
			d, err := fanout.New(fanout.Config{
				Targets: []fanout.Target{via("required", slow(time.Duration(random.IntN(50))*time.Millisecond)), optional},
				Queue: fanout.NewMemoryQueue(fanout.MemoryLimits{
					MaxDispatches: 1 + random.IntN(20), MaxPerTarget: 1 + random.IntN(10), Workers: 1 + random.IntN(3),
					MaxWait: time.Duration(random.IntN(20)) * time.Millisecond,
				}),
				OnResult: func(_ context.Context, r fanout.Result) { end(r.Payload, r.Target) },
			})
			require.NoError(t, err)

			var accepted []string
			var submitters sync.WaitGroup
			for range 5 {
				pause := time.Duration(random.IntN(10)) * time.Millisecond
				submitters.Go(func() {
					for range 20 {
						id, err := d.Submit(context.Background(), "hello")
						mu.Lock()
						if err == nil {
							accepted = append(accepted, id+" required", id+" optional")
						}
						mu.Unlock()
						time.Sleep(pause)
					}
				})
			}
			time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
			limit, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(100))*time.Millisecond)
			defer cancel()
			var left *fanout.UndeliveredError
			if errors.As(d.Close(limit), &left) {
				for _, u := range left.Left {
					end(u.Payload, u.Target)
				}
			}
			submitters.Wait()
			assert.Len(t, ends, len(accepted), "seed %d", seed)
			for _, delivery := range accepted {
				assert.Equal(t, 1, ends[delivery], "seed %d: %s", seed, delivery)
			}
		})
	}
}

func TestAShortOutageIsRiddenOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var results fanouttest.Results
		up := time.Now().Add(10 * time.Second)
		d := newWith(t, fanout.Config{OnResult: results.OnResult, Targets: []fanout.Target{via("crm", func(*http.Request) (*http.Response, error) {
			if time.Now().Before(up) {
				return answer(500, ""), nil
			}
			return answer(200, ""), nil
		})}})
		var ids []string
		for range 200 {
			ids = append(ids, submit(t, d))
		}
		delivered := 0
		for _, id := range ids {
			got, err := results.Wait(t.Context(), id)
			require.NoError(t, err)
			if got["crm"].Outcome == fanout.Delivered {
				delivered++
			}
		}
		// The first few used up their attempts, or the budget, before the circuit opened.
		assert.Greater(t, delivered, 130)
	})
}

func TestALongOutageLeavesRoomForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := with(via("crm", answering(500)), fanout.Policy{Breaker: fanout.Breaker{OpenFor: time.Hour}, Retry: fanout.Retry{MaxAttempts: 1}})
		d := newWith(t, fanout.Config{Targets: []fanout.Target{down}, Queue: fanout.NewMemoryQueue(fanout.MemoryLimits{MaxPerTarget: 20})})
		for range 100 {
			submit(t, d) // which is never refused
			synctest.Wait()
		}
	})
}

func TestWhatTheQueueRejectsIsOptionalIfItsTargetIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := fanout.New(fanout.Config{
			Targets: []fanout.Target{optional(via("analytics", hanging)), via("crm", answering(200))},
			Queue:   fanout.NewMemoryQueue(fanout.MemoryLimits{MaxPerTarget: 2, Workers: 1}),
		})
		require.NoError(t, err)
		submit(t, d)
		submit(t, d)
		over, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var left *fanout.UndeliveredError
		require.ErrorAs(t, d.Close(over), &left)
		require.Len(t, left.Left, 2)
		for _, u := range left.Left {
			assert.True(t, u.Optional)
		}
	})
}

func TestSubmittedResultsAreInDefinitionOrder(t *testing.T) {
	var results fanouttest.Results
	d := newWith(t, fanout.Config{OnResult: results.OnResult, Targets: []fanout.Target{via("zeta", answering(200)), via("mid", answering(200)), via("alpha", answering(200))}})
	got, err := results.Wait(t.Context(), submit(t, d), "zeta", "mid", "alpha")
	require.NoError(t, err)
	assert.Equal(t, []string{"zeta", "mid", "alpha"}, names(got))
}

func TestWhatWasLeftIsRepeatedWithItsKeys(t *testing.T) {
	var keys []string
	var left *fanout.Payload
	statuses := inTurn(400, 200)
	var results fanouttest.Results
	d := newWith(t, fanout.Config{
		OnResult: results.OnResult, OnDeadLetter: func(_ context.Context, r fanout.Result) { left = r.Payload },
		Targets: []fanout.Target{via("crm", func(r *http.Request) (*http.Response, error) {
			keys = append(keys, r.Header.Get("Idempotency-Key")+" "+r.Header.Get("X-Tenant")+" "+r.Header.Get("X-Correlation-Id"))
			return answer(statuses(), ""), nil
		})},
	})
	id, err := d.Submit(t.Context(), fanout.Payload{Value: "hello", Header: http.Header{"X-Tenant": {"acme"}}})
	require.NoError(t, err)
	require.NoError(t, d.Close(t.Context()))
	again := newWith(t, fanout.Config{Targets: []fanout.Target{via("crm", func(r *http.Request) (*http.Response, error) {
		keys = append(keys, r.Header.Get("Idempotency-Key")+" "+r.Header.Get("X-Tenant")+" "+r.Header.Get("X-Correlation-Id"))
		return answer(200, ""), nil
	})}})
	_, err = again.Dispatch(t.Context(), left, fanout.To("crm"))
	require.NoError(t, err)
	want := id + ":crm acme " + id
	assert.Equal(t, []string{want, want}, keys)
}

func TestWhileDrainingNothingWaitsForATargetThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var results fanouttest.Results
		down := with(via("crm", answering(500)), fanout.Policy{Breaker: fanout.Breaker{OpenFor: time.Hour}, Retry: fanout.Retry{MaxAttempts: 1}, Timeout: -1, AttemptTimeout: -1})
		d, err := fanout.New(fanout.Config{Targets: []fanout.Target{down}, OnResult: results.OnResult})
		require.NoError(t, err)
		for range 20 {
			submit(t, d)
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
		defer cancel()
		require.NoError(t, d.Close(ctx), "all was told as failed")
	})
}
