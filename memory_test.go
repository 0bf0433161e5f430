package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestMemoryQueue_IsBounded(t *testing.T) {
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

func TestMemoryQueue_LimitsMayBeAsLargeAsCanBe(t *testing.T) {
	newWith(t, fanout.Config{Queue: fanout.NewMemoryQueue(fanout.MemoryLimits{MaxDispatches: math.MaxInt})})
}

func TestMemoryQueue_OptionalTargetWithoutRoomIsLeftOutAndReported(t *testing.T) {
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

func TestMemoryQueue_WaitsForRoomIfAskedTo(t *testing.T) {
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

func TestMemoryQueue_WaitForRoomEndsAsSoonAsTheTargetHasSome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newWith(t, fanout.Config{
			Targets: []fanout.Target{via("fast", slow(time.Second)), via("slow", slow(9*time.Second))},
			Queue:   fanout.NewMemoryQueue(fanout.MemoryLimits{MaxPerTarget: 1, MaxWait: 5 * time.Second}),
		})
		submit(t, d)
		began := time.Now()
		submit(t, d, fanout.To("fast"))
		assert.Equal(t, time.Second, time.Since(began))
	})
}

func TestMemoryQueue_TargetThatHangsHoldsUpNoOther(t *testing.T) {
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

func TestMemoryQueue_TwoTargetsThatHangShutOutNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := fanout.Policy{Timeout: time.Minute, AttemptTimeout: -1, Retry: fanout.Retry{MaxAttempts: 1}}
		d, err := fanout.New(fanout.Config{Targets: []fanout.Target{with(via("a", hanging), hangs), with(via("b", hanging), hangs), via("fine", answering(200))}})
		require.NoError(t, err)
		for range 512 {
			submit(t, d, fanout.To("a"))
			submit(t, d, fanout.To("b"))
		}
		for range 100 {
			submit(t, d, fanout.To("fine"))
			synctest.Wait()
		}
		_, err = d.Submit(t.Context(), "hello", fanout.To("a"))
		require.ErrorIs(t, err, fanout.ErrFull)
		require.Error(t, d.Close(t.Context()))
	})
}

func TestMemoryQueue_WaitsOutAShortOutage(t *testing.T) {
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

func TestMemoryQueue_LongOutageLeavesRoomForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := with(via("crm", answering(500)), fanout.Policy{Breaker: fanout.Breaker{OpenFor: time.Hour}, Retry: fanout.Retry{MaxAttempts: 1}})
		d := newWith(t, fanout.Config{Targets: []fanout.Target{down}, Queue: fanout.NewMemoryQueue(fanout.MemoryLimits{MaxPerTarget: 20})})
		for range 100 {
			submit(t, d) // which is never refused
			synctest.Wait()
		}
	})
}

func TestMemoryQueue_DeliveryItRejectsIsOptionalIfItsTargetIs(t *testing.T) {
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

// Whenever Close comes, each accepted delivery has one end: OnResult, or a name in
// the error.
func TestMemoryQueue_ReportsOrNamesEveryAcceptedDeliveryOnce(t *testing.T) {
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

// faultyContext is a context that misbehaves once its request is over.
type faultyContext struct {
	context.Context
	over      atomic.Bool
	misbehave func()
}

func (f *faultyContext) Value(key any) any {
	if f.over.Load() {
		f.misbehave()
	}
	return f.Context.Value(key)
}

func TestMemoryQueue_ContextThatMisbehavesHarmsOnlyItsOwnDelivery(t *testing.T) {
	for name, misbehave := range map[string]func(){"panic": func() { panic("over") }, "goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			block := make(chan struct{})
			var results fanouttest.Results
			d := newWith(t, fanout.Config{
				OnResult: results.OnResult, Queue: fanout.NewMemoryQueue(fanout.MemoryLimits{Workers: 1}),
				Targets: []fanout.Target{sending("crm", func(context.Context, *fanout.Request) (*fanout.Response, error) { <-block; return nil, nil })},
			})
			submit(t, d)
			bad := &faultyContext{Context: t.Context(), misbehave: misbehave}
			id, err := d.Submit(bad, "hello")
			require.NoError(t, err)
			last := submit(t, d)
			bad.over.Store(true)
			close(block)
			for _, id := range []string{id, last} {
				_, err := results.Wait(t.Context(), id)
				require.NoError(t, err)
			}
			got, err := results.Wait(t.Context(), last)
			require.NoError(t, err)
			assert.Equal(t, fanout.Delivered, got["crm"].Outcome)
		})
	}
}

// reusedContext panics once it was given back to its pool.
type reusedContext struct {
	context.Context
	reused *atomic.Bool
}

func (r reusedContext) Value(k any) any {
	if r.reused.Load() {
		panic("reused")
	}
	return r.Context.Value(k)
}

// tracing is a log handler that looks into the context, as those do that write trace IDs.
type tracing struct{ dead *atomic.Int32 }

func (tracing) Enabled(context.Context, slog.Level) bool { return true }
func (m tracing) Handle(ctx context.Context, r slog.Record) error {
	_ = ctx.Value(cancelKey{})
	if r.Message == "fanout: dead letter" {
		m.dead.Add(1)
	}
	return nil
}
func (m tracing) WithAttrs([]slog.Attr) slog.Handler { return m }
func (m tracing) WithGroup(string) slog.Handler      { return m }

func TestMemoryQueue_TellsTheDeadLetterOfAContextThatPanics(t *testing.T) {
	var reused atomic.Bool
	var dead, told atomic.Int32
	gate := make(chan struct{})
	q := fanout.NewMemoryQueue(fanout.MemoryLimits{Workers: 1})
	d := newWith(t, fanout.Config{
		Queue: q, Logger: slog.New(tracing{&dead}),
		Targets: []fanout.Target{sending("crm", func(context.Context, *fanout.Request) (*fanout.Response, error) { <-gate; return nil, nil })},
		OnDeadLetter: func(ctx context.Context, _ fanout.Result) {
			_ = ctx.Value(cancelKey{}) // as a tracer does
			told.Add(1)
		},
	})
	submit(t, d)
	_, err := d.Submit(reusedContext{t.Context(), &reused}, "hello")
	require.NoError(t, err)
	reused.Store(true)
	close(gate)
	require.NoError(t, d.Close(t.Context()))
	assert.Equal(t, int32(1), told.Load(), "OnDeadLetter")
	assert.Equal(t, int32(1), dead.Load(), "log")
}
