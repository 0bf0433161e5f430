package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestHedge_FollowsASlowAttemptAndTheFirstSuccessWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := make(chan string, 2)
		noting := func(then wire) wire {
			return func(r *http.Request) (*http.Response, error) {
				keys <- r.Header.Get("Idempotency-Key")
				return then(r)
			}
		}
		d := newDispatcher(t, hedged(via("crm", turns(noting(hanging), noting(slow(time.Second)))), fanout.Hedge{After: 2 * time.Second}))
		began := time.Now()
		r := dispatch(t.Context(), d)["crm"]
		assert.Equal(t, fanout.Delivered, r.Outcome)
		assert.Equal(t, 3*time.Second, time.Since(began))
		require.Len(t, r.Attempts, 2)
		assert.Equal(t, []fanout.AttemptKind{0, fanout.HedgeAttempt}, []fanout.AttemptKind{r.Attempts[0].Kind, r.Attempts[1].Kind})
		require.ErrorIs(t, r.Attempts[0].Err, context.Canceled, "the loser was cut short")
		require.NoError(t, r.Attempts[1].Err)
		assert.Equal(t, r.Payload.ID+":crm.2", r.Attempts[1].RequestID)
		original, hedge := <-keys, <-keys
		assert.Equal(t, original, hedge, "the same key on both")
		state, _ := d.BreakerState("crm")
		assert.Equal(t, fanout.BreakerClosed, state)
	})
}

func TestHedge_ThatFailsNeverBeatsAHealthyOriginal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, hedge := range map[string]wire{
			"refused": answering(400), "down": answering(503), "broken": func(*http.Request) (*http.Response, error) { return nil, errors.New("lost") },
			"panic": func(*http.Request) (*http.Response, error) { panic("oops") },
		} {
			d := newDispatcher(t, hedged(via("crm", turns(slow(3*time.Second), hedge)), fanout.Hedge{After: time.Second}))
			began := time.Now()
			r := dispatch(t.Context(), d)["crm"]
			assert.Equal(t, fanout.Delivered, r.Outcome, name)
			assert.Equal(t, 200, r.Response.StatusCode, name)
			assert.Equal(t, 3*time.Second, time.Since(began), name)
			assert.Len(t, r.Attempts, 2, name)
		}
	})
}

func TestHedge_IsNotMadeAfterAFailureWhichIsForTheRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := dispatch(t.Context(), newDispatcher(t, hedged(via("crm", answering(503, 200)), fanout.Hedge{After: time.Hour})))["crm"]
		assert.Equal(t, fanout.Delivered, r.Outcome)
		assert.Equal(t, []int{503, 200}, statusesOf(r))
		assert.Zero(t, r.Attempts[1].Kind)
	})
}

func TestHedge_ThatFailsLikeItsOriginalIsFollowedByTheRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := dispatch(t.Context(), newDispatcher(t, hedged(via("crm", turns(delayed(2*time.Second, answering(503)), delayed(3*time.Second, answering(500)), answering(201))), fanout.Hedge{After: time.Second})))["crm"]
		assert.Equal(t, fanout.Delivered, r.Outcome)
		assert.Equal(t, []int{503, 500, 201}, statusesOf(r))
		assert.Equal(t, r.Payload.ID+":crm.3", r.Attempts[2].RequestID)
	})
}

func TestHedge_KeepsToTheAttemptCapTheBudgetAndSafety(t *testing.T) {
	for name, test := range map[string]struct {
		policy fanout.Policy
		method string
	}{
		"one attempt":            {fanout.Policy{Retry: fanout.Retry{MaxAttempts: 1}}, "POST"},
		"neither safe nor keyed": {fanout.Policy{Idempotency: fanout.Idempotency{Header: "-"}}, "POST"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				target := with(via("crm", slow(3*time.Second)), test.policy)
				target.Method = test.method
				r := dispatch(t.Context(), newDispatcher(t, hedged(target, fanout.Hedge{After: time.Second})))["crm"]
				assert.Len(t, r.Attempts, 1)
			})
		})
	}
	t.Run("the budget", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			target := hedged(with(via("crm", slow(3*time.Second)), fanout.Policy{Retry: fanout.Retry{Budget: 2, BudgetRefill: -1}}), fanout.Hedge{After: time.Second})
			d := newDispatcher(t, target)
			made := 0
			for range 5 {
				made += len(dispatch(t.Context(), d)["crm"].Attempts)
			}
			assert.Equal(t, 7, made, "two hedges, for two tokens")
		})
	})
}

func TestHedge_WaitsForAQuantileOfWhatWasMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var takes time.Duration
		d := newDispatcher(t, hedged(via("crm", func(r *http.Request) (*http.Response, error) {
			return slow(takes)(r)
		}), fanout.Hedge{Quantile: 0.9}))
		for i := range 100 {
			takes = time.Duration(i%10+1) * 10 * time.Millisecond
			dispatch(t.Context(), d)
		}
		takes = time.Minute
		r := dispatch(t.Context(), d)["crm"]
		require.GreaterOrEqual(t, len(r.Attempts), 2)
		assert.Equal(t, 90*time.Millisecond, r.Attempts[1].Start.Sub(r.Attempts[0].Start))
	})
}

func TestHedge_GivesEverythingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := hedged(with(via("crm", turns(hanging, slow(time.Second))), fanout.Policy{Bulkhead: fanout.Bulkhead{MaxConcurrent: 2, MaxQueue: -1}}), fanout.Hedge{After: time.Second})
		d := newDispatcher(t, target)
		for range 20 {
			require.Equal(t, fanout.Delivered, dispatch(t.Context(), d)["crm"].Outcome)
			s := d.Snapshot(t.Context()).Targets[0]
			require.Zero(t, s.InFlight)
		}
	})
}

func TestHedge_EndsWithItsOriginalOnTheCallersCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, hedged(via("crm", hanging), fanout.Hedge{After: time.Second}))
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		began := time.Now()
		r := dispatch(ctx, d)["crm"]
		assert.Equal(t, 2*time.Second, time.Since(began))
		assert.Equal(t, fanout.Unknown, r.Outcome)
		assert.Len(t, r.Attempts, 2)
		require.ErrorIs(t, r.Err(), context.DeadlineExceeded)
	})
}

// expiring is an Authenticator that can be renewed, and that takes its time on the nth call.
type expiring struct {
	calls   atomic.Int32
	slow    int32
	fails   error
	refused []string
}

func (e *expiring) Authenticate(_ context.Context, r *http.Request) error {
	call := e.calls.Add(1)
	r.Header.Set("Authorization", fmt.Sprint("token ", call))
	if call == e.slow {
		time.Sleep(2 * time.Second)
		return e.fails
	}
	return nil
}

func (e *expiring) Refresh(_ context.Context, refused *http.Request) error {
	e.refused = append(e.refused, refused.Header.Get("Authorization"))
	return nil
}

func TestHedge_WhoseFirstAttemptIsNotSentLosesNoTokenAndNoNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The second attempt's Auth fails after its hedge was sent.
		auth := &expiring{slow: 2, fails: errors.New("no credentials")}
		target := hedged(via("a", answering(503)), fanout.Hedge{After: time.Second})
		target.Auth = auth
		target.Retry = fanout.Retry{MaxAttempts: 5, Budget: 3, BudgetRefill: -1, ThrottledBackoff: time.Millisecond, InitialBackoff: time.Millisecond}
		target.Breaker.OpenFor = -1
		r := dispatch(t.Context(), newDispatcher(t, target))["a"]
		assert.Len(t, r.Attempts, 4, "the first, and one for each of three tokens")
		seen := map[string]bool{}
		for _, a := range r.Attempts {
			assert.False(t, seen[a.RequestID], a.RequestID)
			seen[a.RequestID] = true
		}
	})
}

func TestHedge_BesideA401DoesNotKeepTheCredentialsFromBeingRenewed(t *testing.T) {
	for name, c := range map[string]struct{ first, hedge int }{
		"the first is refused": {401, 503},
		"the hedge is refused": {503, 401},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				auth := &expiring{}
				target := hedged(via("a", func(r *http.Request) (*http.Response, error) {
					switch r.Header.Get("X-Request-Id")[len(r.Header.Get("X-Request-Id"))-1] {
					case '1':
						time.Sleep(3 * time.Second)
						return answer(c.first, ""), nil
					case '2':
						time.Sleep(time.Second)
						return answer(c.hedge, ""), nil
					}
					return answer(200, ""), nil
				}), fanout.Hedge{After: time.Second})
				target.Auth = auth
				target.Retry = fanout.Retry{MaxAttempts: 4, ThrottledBackoff: time.Millisecond}
				r := dispatch(t.Context(), newDispatcher(t, target))["a"]
				assert.Equal(t, fanout.Delivered, r.Outcome, "%v", r.Err())
				want := "token 1"
				if c.hedge == 401 {
					want = "token 2"
				}
				assert.Equal(t, []string{want}, auth.refused, "what was answered with 401")
			})
		})
	}
}

type countingRefresh struct{ refreshed atomic.Int32 }

func (c *countingRefresh) Authenticate(context.Context, *http.Request) error { return nil }
func (c *countingRefresh) Refresh(context.Context, *http.Request) error {
	c.refreshed.Add(1)
	return nil
}

func TestHedge_NoneIsMadeOfAnAttemptThatRenewsItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := &countingRefresh{}
		target := hedged(via("a", turns(answering(401), delayed(3*time.Second, answering(200)))), fanout.Hedge{After: time.Second})
		target.Auth = auth
		target.Retry = fanout.Retry{MaxAttempts: 4}
		r := dispatch(t.Context(), newDispatcher(t, target))["a"]
		assert.Equal(t, fanout.Delivered, r.Outcome)
		assert.Equal(t, int32(1), auth.refreshed.Load())
	})
}
