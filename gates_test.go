package fanout_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestGates_OfTargetsInTheCallAreKeptWhileUsedAndThenForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t)
		webhook := func(name string) fanout.Option {
			return fanout.ToTargets(with(via(name, answering(500)), fanout.Policy{
				Retry:   fanout.Retry{MaxAttempts: 1},
				Breaker: fanout.Breaker{ConsecutiveFailures: 1, OpenFor: time.Hour},
			}))
		}
		dispatch(t.Context(), d, webhook("customer"))
		require.ErrorIs(t, dispatch(t.Context(), d, webhook("customer"))["customer"].Err(), fanout.ErrBreakerOpen)
		state, known := d.BreakerState("customer")
		assert.True(t, known)
		assert.Equal(t, fanout.BreakerOpen, state)

		for range 4 {
			time.Sleep(8 * time.Minute)
			require.ErrorIs(t, dispatch(t.Context(), d, webhook("customer"))["customer"].Err(), fanout.ErrBreakerOpen)
		}
		time.Sleep(30 * time.Minute)
		dispatch(t.Context(), d, webhook("another"))
		_, known = d.BreakerState("customer")
		assert.True(t, known, "its breaker is open for an hour")
		time.Sleep(time.Hour)
		dispatch(t.Context(), d, webhook("another"))
		_, known = d.BreakerState("customer")
		assert.False(t, known)
	})
}

func TestGates_AreSharedByATargetInTheCallAndTheConfiguredOneOfItsName(t *testing.T) {
	d := newDispatcher(t, with(via("crm", answering(500)), fanout.Policy{
		Retry: fanout.Retry{MaxAttempts: 1}, Breaker: fanout.Breaker{ConsecutiveFailures: 1},
	}))
	dispatch(t.Context(), d)
	r := dispatch(t.Context(), d, fanout.ToTargets(via("crm", answering(200))))["crm"]
	require.ErrorIs(t, r.Err(), fanout.ErrBreakerOpen)
}

// panicsAt panics when it is asked for a value for the nth time.
type panicsAt struct {
	context.Context
	left *atomic.Int32
}

func (p panicsAt) Value(any) any {
	if p.left.Add(-1) == 0 {
		panic("reused")
	}
	return nil
}

func TestGates_AreForgottenThoughAContextPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, via("z", answering(200)))
		leaked := 0
		for n := int32(1); n < 12; n++ {
			name := fmt.Sprint("x", n)
			func() {
				defer func() { _ = recover() }()
				var left atomic.Int32
				left.Store(n)
				dispatch(panicsAt{t.Context(), &left}, d, fanout.ToTargets(via(name, answering(200))))
			}()
		}
		time.Sleep(time.Hour)
		dispatch(t.Context(), d, fanout.ToTargets(via("other", answering(200))))
		for n := int32(1); n < 12; n++ {
			if _, known := d.BreakerState(fmt.Sprint("x", n)); known {
				leaked++
			}
		}
		assert.Zero(t, leaked)
	})
}
