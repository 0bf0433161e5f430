package fanout_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

// onceEach has no retries, so that one dispatch is one attempt.
func onceEach(b fanout.Breaker) fanout.Policy {
	return fanout.Policy{Retry: fanout.Retry{MaxAttempts: 1}, Breaker: b}
}

// stateOf is the state of the breaker of the target "crm".
func stateOf(t *testing.T, d *fanout.Dispatcher) fanout.BreakerState {
	t.Helper()
	state, known := d.BreakerState("crm")
	require.True(t, known)
	return state
}

func TestBreaker_OpensProbesAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		status := 500
		d := newDispatcher(t, with(via("crm", func(*http.Request) (*http.Response, error) { return answer(status, ""), nil }), onceEach(fanout.Breaker{})))
		for range 4 {
			dispatch(t.Context(), d)
		}
		assert.Equal(t, fanout.BreakerClosed, stateOf(t, d))
		dispatch(t.Context(), d)
		assert.Equal(t, fanout.BreakerOpen, stateOf(t, d), "five failures in a row")
		r := dispatch(t.Context(), d)["crm"]
		assert.Equal(t, fanout.Rejected, r.Outcome)
		require.ErrorIs(t, r.Err(), fanout.ErrBreakerOpen)

		time.Sleep(6 * time.Second)
		assert.Equal(t, fanout.BreakerHalfOpen, stateOf(t, d))
		dispatch(t.Context(), d)
		assert.Equal(t, fanout.BreakerOpen, stateOf(t, d), "the probe failed")

		time.Sleep(6 * time.Second)
		status = 200
		dispatch(t.Context(), d)
		assert.Equal(t, fanout.BreakerClosed, stateOf(t, d), "the probe succeeded")
	})
}

// cancelKey is where a context holds the function that cancels it.
type cancelKey struct{}

func TestBreaker_CountsAnAttemptForTheTargetAgainstItOrNotAtAll(t *testing.T) {
	type vote string
	const against, neither, inFavour vote = "against", "neither", "in favour"
	for _, test := range []struct {
		name string
		wire wire
		want vote
	}{
		{"500", answering(500), against},
		{"501", answering(501), against},
		{"429", answering(429), against},
		{"408", answering(408), against},
		{"broken connection", func(*http.Request) (*http.Response, error) { return nil, errors.New("EOF") }, against},
		{"attempt timeout", hanging, against},
		{"200", answering(200), inFavour},
		{"307", answering(307), inFavour},
		{"400", answering(400), inFavour},
		{"401", answering(401), inFavour},
		{"404", answering(404), inFavour},
		{"409", answering(409), inFavour},
		{"panic of ours", func(*http.Request) (*http.Response, error) { panic("ours") }, neither},
		{"caller's cancel", func(r *http.Request) (*http.Response, error) {
			r.Context().Value(cancelKey{}).(func())()
			return nil, r.Context().Err()
		}, neither},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				next := inTurn(answering(500), answering(500), test.wire, answering(500))
				d := newDispatcher(t, with(via("crm", func(r *http.Request) (*http.Response, error) { return next()(r) }),
					onceEach(fanout.Breaker{ConsecutiveFailures: 3, FailureRatio: -1})))
				once := func() fanout.BreakerState {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					dispatch(context.WithValue(ctx, cancelKey{}, (func())(cancel)), d)
					return stateOf(t, d)
				}
				once()
				once()
				opened := 0
				for i := 1; i <= 4 && opened == 0; i++ {
					if once() == fanout.BreakerOpen {
						opened = i
					}
				}
				assert.Equal(t, map[vote]int{against: 1, neither: 2, inFavour: 4}[test.want], opened)
			})
		})
	}
}

func TestBreaker_OpensByTheRatioOfFailuresInItsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		half := inTurn(500, 200, 500, 200, 500, 200, 500, 200, 500, 200, 500, 200, 500, 200, 500, 200, 500, 200, 500, 200)
		d := newDispatcher(t, with(via("crm", func(*http.Request) (*http.Response, error) { return answer(half(), ""), nil }), onceEach(fanout.Breaker{})))
		for range 19 {
			dispatch(t.Context(), d)
		}
		assert.Equal(t, fanout.BreakerClosed, stateOf(t, d), "not enough evidence")
		dispatch(t.Context(), d)
		assert.Equal(t, fanout.BreakerClosed, stateOf(t, d), "a success never opens it")
	})
	synctest.Test(t, func(t *testing.T) {
		status := 200
		d := newDispatcher(t, with(via("crm", func(*http.Request) (*http.Response, error) { return answer(status, ""), nil }),
			onceEach(fanout.Breaker{ConsecutiveFailures: -1, MinCalls: 4})))
		for range 100 {
			dispatch(t.Context(), d)
		}
		time.Sleep(2 * time.Minute)
		status = 500
		for range 3 {
			dispatch(t.Context(), d)
		}
		assert.Equal(t, fanout.BreakerClosed, stateOf(t, d))
		dispatch(t.Context(), d)
		assert.Equal(t, fanout.BreakerOpen, stateOf(t, d), "the hundred successes are outside of the window")
	})
}

func TestBreaker_CountsSlowFailuresWhileTheWindowMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, with(via("crm", hanging), fanout.Policy{
			AttemptTimeout: 20 * time.Second, Retry: fanout.Retry{MaxAttempts: 1},
		}))
		for range 5 {
			dispatch(t.Context(), d)
		}
		assert.Equal(t, fanout.BreakerOpen, stateOf(t, d))
	})
}

func TestBreaker_OfOneProcessDoesNotProbeInStepWithTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const fleet = 50
		var all []*fanout.Dispatcher
		for range fleet {
			d := newDispatcher(t, with(via("crm", answering(500)), onceEach(fanout.Breaker{ConsecutiveFailures: 1, OpenFor: 10 * time.Second})))
			dispatch(t.Context(), d)
			all = append(all, d)
		}
		halfOpen := func() (n int) {
			for _, d := range all {
				if stateOf(t, d) == fanout.BreakerHalfOpen {
					n++
				}
			}
			return n
		}
		time.Sleep(10*time.Second - 1)
		assert.Zero(t, halfOpen())
		time.Sleep(500 * time.Millisecond)
		assert.NotContains(t, []int{0, fleet}, halfOpen())
		time.Sleep(time.Second)
		assert.Equal(t, fleet, halfOpen())
	})
}

func TestBreaker_AdmitsOnlyItsProbesWhileHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := inTurn(answering(500), wire(func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return answer(200, ""), nil
		}))
		d := newDispatcher(t, with(via("crm", func(r *http.Request) (*http.Response, error) { return next()(r) }),
			onceEach(fanout.Breaker{ConsecutiveFailures: 1, Probes: 2})))
		dispatch(t.Context(), d)
		time.Sleep(6 * time.Second)
		outcomes := make(chan fanout.Outcome, 5)
		for range cap(outcomes) {
			go func() { outcomes <- dispatch(t.Context(), d)["crm"].Outcome }()
		}
		counts := map[fanout.Outcome]int{}
		for range cap(outcomes) {
			counts[<-outcomes]++
		}
		assert.Equal(t, map[fanout.Outcome]int{fanout.Delivered: 2, fanout.Rejected: 3}, counts)
		assert.Equal(t, fanout.BreakerClosed, stateOf(t, d))
	})
}

func TestBreaker_ThatOpensEndsARetryingDeliveryAndKeepsTheLastError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, with(via("crm", answering(500)), fanout.Policy{Breaker: fanout.Breaker{ConsecutiveFailures: 2}}))
		r := dispatch(t.Context(), d)["crm"]
		assert.Equal(t, fanout.Failed, r.Outcome)
		assert.Len(t, r.Attempts, 2)
		require.ErrorIs(t, r.Err(), fanout.ErrBreakerOpen)
		require.EqualError(t, r.Err(), "crm: circuit breaker open after 2 attempts: 500 Internal Server Error")
	})
}

func TestBreaker_CanBeSwitchedOff(t *testing.T) {
	for name, off := range map[string]fanout.Breaker{
		"never open": {OpenFor: -1},
		"no rule":    {ConsecutiveFailures: -1, FailureRatio: -1},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDispatcher(t, with(via("crm", answering(500)), onceEach(off)))
			for range 100 {
				require.ErrorIs(t, dispatch(t.Context(), d)["crm"].Err(), fanout.ErrAttemptsExhausted)
			}
			assert.Equal(t, fanout.BreakerClosed, stateOf(t, d))
		})
	}
}

func TestBreaker_OpensThoughCallersAreLessPatientThanTheAttemptTimeout(t *testing.T) {
	for name, c := range map[string]struct {
		until func(context.Context) (context.Context, context.CancelFunc)
		want  fanout.BreakerState
	}{
		"a deadline": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 2*time.Second)
		}, fanout.BreakerOpen},
		"a deadline with a cause": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(ctx, 2*time.Second, errors.New("the page is late"))
		}, fanout.BreakerOpen},
		"a cancel": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(2*time.Second, cancel)
			return ctx, cancel
		}, fanout.BreakerClosed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDispatcher(t, via("crm", hanging))
				for range 5 {
					ctx, cancel := c.until(t.Context())
					results := dispatch(ctx, d)
					cancel()
					assert.Equal(t, fanout.Unknown, results["crm"].Outcome)
				}
				assert.Equal(t, c.want, stateOf(t, d))
			})
		})
	}
}
