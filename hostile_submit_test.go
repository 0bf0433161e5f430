package fanout_test

import (
	"context"
	"log/slog"
	"math"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestWhatFailedIsNamedWhileItsHookHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := make(chan struct{})
		d, err := fanout.New(fanout.Config{
			Targets:  []fanout.Target{via("crm", answering(400))},
			OnResult: func(context.Context, fanout.Result) { <-block },
		})
		require.NoError(t, err)
		submit(t, d)
		var left *fanout.UndeliveredError
		require.ErrorAs(t, d.Close(context.Background()), &left)
		require.Len(t, left.Left, 1)
		assert.Equal(t, fanout.Failed, left.Left[0].Outcome)
		close(block)
		synctest.Wait()
	})
}

// fickle is a context that misbehaves once its request is over.
type fickle struct {
	context.Context
	over      atomic.Bool
	misbehave func()
}

func (f *fickle) Value(key any) any {
	if f.over.Load() {
		f.misbehave()
	}
	return f.Context.Value(key)
}

func TestAContextThatMisbehavesWhenItsRequestIsOverHarmsOnlyItsOwn(t *testing.T) {
	for name, misbehave := range map[string]func(){"panic": func() { panic("over") }, "goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			block := make(chan struct{})
			var results fanouttest.Results
			d := newWith(t, fanout.Config{
				OnResult: results.OnResult, Queue: fanout.NewMemoryQueue(fanout.MemoryLimits{Workers: 1}),
				Targets: []fanout.Target{sending("crm", func(context.Context, *fanout.Request) (*fanout.Response, error) { <-block; return nil, nil })},
			})
			submit(t, d)
			bad := &fickle{Context: t.Context(), misbehave: misbehave}
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

func TestWhoWaitsForRoomGetsItAsSoonAsTheLaneHasSome(t *testing.T) {
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

func TestTwoTargetsThatHangShutOutNobody(t *testing.T) {
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

func TestAHookThatHangsForOneTargetHoldsUpNoOther(t *testing.T) {
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

func TestASubmissionMayBeCopied(t *testing.T) {
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

// raging is a log that panics.
type raging struct{ slog.Handler }

func (raging) Handle(context.Context, slog.Record) error { panic("disk full") }

func TestALogThatPanicsWhileAHookDoesIsContained(t *testing.T) {
	d := newWith(t, fanout.Config{
		Targets: []fanout.Target{via("crm", answering(200))}, Logger: slog.New(raging{slog.Default().Handler()}),
		OnResult: func(context.Context, fanout.Result) { panic("hook") },
	})
	submit(t, d)
}

func TestLimitsMayBeAsLargeAsCanBe(t *testing.T) {
	newWith(t, fanout.Config{Queue: fanout.NewMemoryQueue(fanout.MemoryLimits{MaxDispatches: math.MaxInt})})
}
