package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestSetTargets_AddsReplacesAndRemovesWhileRunning(t *testing.T) {
	d := newDispatcher(t, via("a", answering(200)), via("b", answering(200)))
	require.NoError(t, d.SetTargets(via("c", answering(200)), via("a", answering(404))))
	results := dispatch(t.Context(), d)
	assert.Equal(t, []string{"a", "b", "c"}, names(results))
	assert.Equal(t, fanout.Failed, results["a"].Outcome)

	d.RemoveTargets("b", "nobody")
	assert.Equal(t, []string{"a", "c"}, names(dispatch(t.Context(), d)))
	_, err := d.Dispatch(t.Context(), "hello", fanout.To("b"))
	require.ErrorIs(t, err, fanout.ErrInvalid)
}

func TestSetTargets_ThatCannotBeUsedChangesNothing(t *testing.T) {
	d := newDispatcher(t, via("a", answering(200)))
	require.ErrorIs(t, d.SetTargets(via("b", answering(200)), fanout.Target{Name: "c"}), fanout.ErrInvalid)
	require.ErrorIs(t, d.SetTargets(via("b", answering(200)), via("b", answering(200))), fanout.ErrInvalid)
	assert.Equal(t, []string{"a"}, names(dispatch(t.Context(), d)))
}

func TestSetTargets_LeavesWhatIsUnderWayWithTheOldDefinition(t *testing.T) {
	arrived, proceed := make(chan struct{}), make(chan struct{})
	d := newDispatcher(t, via("crm", func(*http.Request) (*http.Response, error) {
		close(arrived)
		<-proceed
		return answer(201, ""), nil
	}))
	under := make(chan fanout.Results)
	go func() { under <- dispatch(t.Context(), d) }()
	<-arrived
	require.NoError(t, d.SetTargets(via("crm", answering(204))))
	assert.Equal(t, 204, dispatch(t.Context(), d)["crm"].Response.StatusCode)
	d.RemoveTargets("crm")
	close(proceed)
	assert.Equal(t, 201, (<-under)["crm"].Response.StatusCode)
}

func TestSetTargets_KeepsTheBreakerIfThePolicyStays(t *testing.T) {
	once := fanout.Policy{Retry: fanout.Retry{MaxAttempts: 1}, Breaker: fanout.Breaker{ConsecutiveFailures: 1}}
	d := newDispatcher(t, with(via("crm", answering(500)), once))
	dispatch(t.Context(), d)
	require.NoError(t, d.SetTargets(with(via("crm", answering(200)), once)))
	assert.Equal(t, fanout.BreakerOpen, stateOf(t, d))

	moved := with(via("crm", answering(200)), once)
	moved.URL = "https://new.example"
	require.NoError(t, d.SetTargets(moved))
	assert.Equal(t, fanout.BreakerClosed, stateOf(t, d), "it is another host")

	once.Breaker.ConsecutiveFailures = 2
	require.NoError(t, d.SetTargets(with(via("crm", answering(200)), once)))
	assert.Equal(t, fanout.BreakerClosed, stateOf(t, d))
}

func TestSetTargets_MayBeCalledDuringDispatches(t *testing.T) {
	d := newDispatcher(t, via("a", answering(200)))
	var all sync.WaitGroup
	for i := range 4 {
		name := fmt.Sprint("b", i)
		all.Go(func() {
			for range 100 {
				assert.NoError(t, d.SetTargets(via(name, answering(200)))) //nolint:testifylint // not the test's goroutine
				dispatch(t.Context(), d)
				d.RemoveTargets(name)
			}
		})
	}
	all.Wait()
	assert.Equal(t, []string{"a"}, names(dispatch(t.Context(), d)))
}

func TestSetTargets_IsRefusedAfterClose(t *testing.T) {
	d := newDispatcher(t)
	require.NoError(t, d.Close(t.Context()))
	require.ErrorIs(t, d.SetTargets(via("a", answering(200))), fanout.ErrClosed)
}

func TestTargetNames_AreInDefinitionOrder(t *testing.T) {
	d := newDispatcher(t, via("b", answering(200)), via("a", answering(200)))
	require.NoError(t, d.SetTargets(via("c", answering(200))))
	d.RemoveTargets("b")
	assert.Equal(t, []string{"a", "c"}, d.TargetNames())
}

func TestLookup_FindsTargetsThatAreNotConfigured(t *testing.T) {
	hook := fanouttest.NewSender()
	d := newWith(t, fanout.Config{Lookup: func(_ context.Context, name string) (fanout.Target, error) {
		if name == "customer 7" {
			return hook.Target(""), nil
		}
		return fanout.Target{}, fanout.ErrTargetGone
	}})
	for range 2 {
		results, err := d.Dispatch(t.Context(), "entry", fanout.To("customer 7"))
		require.NoError(t, err)
		assert.Equal(t, fanout.Delivered, results["customer 7"].Outcome)
	}
	_, err := d.Dispatch(t.Context(), "entry", fanout.To("customer 8"))
	require.ErrorIs(t, err, fanout.ErrInvalid)
	require.ErrorIs(t, err, fanout.ErrTargetGone)
	require.EqualError(t, err, `fanout: target "customer 8": Name: there is no target of this name`)
	assert.Equal(t, 2, hook.Count())
}

func TestLookup_ThatFailsIsNoFaultOfTheInput(t *testing.T) {
	down := errors.New("connection refused")
	d := newWith(t, fanout.Config{Lookup: func(_ context.Context, name string) (fanout.Target, error) {
		switch name {
		case "imposter":
			return fanouttest.NewSender().Target("other"), nil
		case "crash":
			panic("no database")
		case "unusable":
			return fanout.Target{URL: "ftp://example.com"}, nil
		}
		return fanout.Target{}, down
	}})
	for name, want := range map[string]string{
		"customer 8": `fanout: target "customer 8": look-up failed: connection refused`,
		"imposter":   `fanout: target "imposter": look-up failed: found a target named "other"`,
		"crash":      `fanout: target "crash": look-up failed: panic: no database`,
		"unusable":   `fanout: target "unusable": look-up failed: what it found cannot be used: URL: scheme is neither http nor https`,
	} {
		_, err := d.Dispatch(t.Context(), "entry", fanout.To(name))
		require.ErrorIs(t, err, fanout.ErrLookup)
		require.NotErrorIs(t, err, fanout.ErrInvalid)
		require.ErrorContains(t, err, want)
		var refused *fanout.RefusedError
		require.ErrorAs(t, err, &refused)
	}
}

func TestLookup_SeesTheQueuesOptionsAndHasALimitedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []fanout.QueueOption
		d := newWith(t, fanout.Config{Queue: &manualQueue{}, Lookup: func(ctx context.Context, name string) (fanout.Target, error) {
			if seen = fanout.QueueOptions(ctx); seen == nil {
				<-ctx.Done()
				return fanout.Target{}, ctx.Err()
			}
			return via(name, answering(200)), nil
		}})
		tx := fanout.QueueOption{Name: "InTx", Value: "a transaction"}
		_, err := d.Submit(t.Context(), "entry", fanout.To("hook"), fanout.ForQueue(tx))
		require.NoError(t, err)
		assert.Equal(t, []fanout.QueueOption{tx}, seen)
		began := time.Now()
		_, err = d.Submit(t.Context(), "entry", fanout.To("hook"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 10*time.Second, time.Since(began))
	})
}

func TestLookup_ThatFailsInARoundPostponesTheDelivery(t *testing.T) {
	for name, c := range map[string]struct {
		lookup    error
		postponed bool
		class     fanout.Class
	}{
		"its database is down":     {errors.New("connection refused"), true, fanout.ClassLookup},
		"there is no such target":  {fanout.ErrTargetGone, false, fanout.ClassTargetGone},
		"wrapped, no such target ": {errors.Join(errors.New("customer 7 left"), fanout.ErrTargetGone), false, fanout.ClassTargetGone},
	} {
		t.Run(name, func(t *testing.T) {
			q := &manualQueue{}
			newWith(t, fanout.Config{Queue: q, Lookup: func(context.Context, string) (fanout.Target, error) { return fanout.Target{}, c.lookup }})
			results, err := q.worker.Deliver(t.Context(), &fanout.Delivery{Payload: &fanout.Payload{ID: "o-1"}, Targets: []string{"hook"}}, fanout.Round{})
			require.NoError(t, err)
			require.Len(t, results, 1)
			assert.Equal(t, fanout.Rejected, results[0].Outcome)
			assert.Equal(t, c.postponed, fanout.Postponed(results[0].Err()))
			assert.Equal(t, c.class, fanout.ClassOf(results[0].Err()))
			assert.NotErrorIs(t, results[0].Err(), fanout.ErrInvalid)
		})
	}
}
