package auth_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/auth"
)

// tokens is a fake token endpoint.
type tokens struct {
	calls atomic.Int64
	ended atomic.Int64 // fetches that were ended by their contexts
	takes time.Duration
	lives time.Duration
	err   atomic.Pointer[error]
}

func (s *tokens) Token(ctx context.Context) (auth.Token, error) {
	n := s.calls.Add(1)
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		s.ended.Add(1)
		return auth.Token{}, ctx.Err()
	}
	if err := s.err.Load(); err != nil {
		return auth.Token{}, *err
	}
	token := auth.Token{Value: auth.NewSecret(fmt.Sprint("t-", n))}
	if s.lives != 0 {
		token.Expires = time.Now().Add(s.lives)
	}
	return token, nil
}

func (s *tokens) fail(err error) { s.err.Store(&err) }

// unbounded lets any number of attempts be made at once.
var unbounded = fanout.Policy{Bulkhead: fanout.Bulkhead{MaxConcurrent: -1}}

func TestTokens_AreFetchedOnceForAThousandDispatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{takes: time.Second, lives: time.Hour}
		d := newDispatcher(t, with(crm(answering(200), auth.Tokens(source)), unbounded))
		deliver := func() { assert.Equal(t, fanout.Delivered, dispatch(t.Context(), d).Outcome) }
		all(1000, deliver)
		assert.EqualValues(t, 1, source.calls.Load())

		time.Sleep(59*time.Minute + 30*time.Second) // it is about to expire
		began := time.Now()
		var slow atomic.Int64
		all(1000, func() {
			began := time.Now()
			deliver()
			if time.Since(began) > 0 {
				slow.Add(1)
			}
		})
		assert.EqualValues(t, 2, source.calls.Load())
		assert.EqualValues(t, 1, slow.Load(), "one fetches the next while the others use the old one")
		assert.Equal(t, time.Second, time.Since(began))

		time.Sleep(2 * time.Hour) // it has expired
		all(1000, deliver)
		assert.EqualValues(t, 3, source.calls.Load())
	})
}

func TestTokens_EndpointThatIsDownFailsAllAtOnceAndIsNotStormed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{takes: time.Second}
		source.fail(&url.Error{Op: "Post", URL: "https://id.example/token?secret=x", Err: errors.New("connection refused")})
		d := newDispatcher(t, with(crm(answering(200), auth.Tokens(source)), unbounded))
		began := time.Now()
		all(1000, func() {
			r := dispatch(t.Context(), d)
			assert.Equal(t, fanout.Rejected, r.Outcome)
			assert.EqualError(t, r.Err(), "crm: authentication failed: no token: Post: connection refused")
		})
		assert.Equal(t, time.Second, time.Since(began), "in parallel")
		dispatch(t.Context(), d)
		assert.EqualValues(t, 1, source.calls.Load(), "left alone for a second")
		state, _ := d.BreakerState("crm")
		assert.Equal(t, fanout.BreakerClosed, state)

		source.err.Store(nil)
		time.Sleep(time.Second)
		assert.Equal(t, fanout.Delivered, dispatch(t.Context(), d).Outcome)
	})
}

func TestTokens_OldOneIsUsedWhileTheNextCannotBeHad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{lives: time.Hour}
		d := newDispatcher(t, crm(answering(200), auth.Tokens(source)))
		dispatch(t.Context(), d)
		source.fail(errors.New("down"))
		time.Sleep(59*time.Minute + 30*time.Second)
		for range 10 {
			assert.Equal(t, fanout.Delivered, dispatch(t.Context(), d).Outcome)
		}
		assert.EqualValues(t, 2, source.calls.Load())
	})
}

func TestTokens_AreWaitedForNoLongerThanTheContextLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{takes: 3 * time.Second}
		d := newDispatcher(t, crm(answering(200), auth.Tokens(source)))
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		patient := make(chan fanout.Result)
		go func() { patient <- dispatch(t.Context(), d) }()
		r := dispatch(short, d)
		assert.Equal(t, fanout.Rejected, r.Outcome)
		require.ErrorIs(t, r.Err(), context.DeadlineExceeded)
		assert.Equal(t, fanout.Delivered, (<-patient).Outcome, "whoever asked first going away harms nobody")
		assert.EqualValues(t, 1, source.calls.Load())
	})
}

func TestTokens_FetchGoesOnThoughNobodyWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{takes: 3 * time.Second}
		d := newDispatcher(t, crm(answering(200), auth.Tokens(source)))
		for range 300 {
			hurried, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			assert.Equal(t, fanout.Rejected, dispatch(hurried, d).Outcome)
			cancel()
		}
		time.Sleep(3 * time.Second)
		assert.Equal(t, fanout.Delivered, dispatch(t.Context(), d).Outcome)
		assert.EqualValues(t, 1, source.calls.Load(), "callers that leave storm no endpoint, and starve nobody")
	})
}

func TestTokens_FetchEndsWithItsDispatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{takes: 5 * time.Second}
		shared := crm(answering(200), auth.Tokens(source))
		first, other := newDispatcher(t, shared), newDispatcher(t, shared)
		hurried, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		dispatch(hurried, first)
		waits := make(chan fanout.Outcome)
		go func() { waits <- dispatch(t.Context(), other).Outcome }()
		synctest.Wait()
		assert.EqualValues(t, 1, source.calls.Load(), "the other one waits for the same fetch")
		began := time.Now()
		require.NoError(t, first.Close(t.Context()))
		synctest.Wait()
		assert.Zero(t, time.Since(began))
		assert.EqualValues(t, 1, source.ended.Load(), "nothing of a dispatcher runs after Close")
		assert.Equal(t, fanout.Delivered, <-waits, "another dispatcher begins a fetch of its own")
		assert.EqualValues(t, 2, source.calls.Load())
	})
}

func TestTokens_FetchThatWasGivenUpIsJoinedByNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		shared := crm(answering(200), auth.Tokens(auth.TokenSourceFunc(func(ctx context.Context) (auth.Token, error) {
			if calls.Add(1) > 1 {
				return auth.Token{Value: auth.NewSecret("t-2")}, nil
			}
			<-ctx.Done()
			time.Sleep(time.Second) // it is slow to end
			return auth.Token{}, ctx.Err()
		})))
		first, other := newDispatcher(t, shared), newDispatcher(t, shared)
		hurried, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		dispatch(hurried, first)
		require.NoError(t, first.Close(t.Context()))
		synctest.Wait()
		for range 2 {
			assert.Equal(t, fanout.Delivered, dispatch(t.Context(), other).Outcome)
			time.Sleep(2 * time.Second)
		}
	})
}

func TestTokens_ExpiredAlreadyAreNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{lives: -time.Second}
		d := newDispatcher(t, crm(answering(200), auth.Tokens(source)))
		for range 100 {
			require.EqualError(t, dispatch(t.Context(), d).Err(), "crm: authentication failed: no token: it has expired already")
		}
		assert.EqualValues(t, 1, source.calls.Load(), "a clock that is wrong storms nobody")
	})
}

func TestTokens_ThatCannotBeHadAreWaitedForByWhatIsSubmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{}
		source.fail(errors.New("down"))
		ended := make(chan fanout.Result, 1)
		d := newWith(t, fanout.Config{
			Targets:  []fanout.Target{crm(answering(200), auth.Tokens(source))},
			OnResult: func(_ context.Context, r fanout.Result) { ended <- r },
		})
		_, err := d.Submit(t.Context(), "hello")
		require.NoError(t, err)
		time.Sleep(10 * time.Second)
		assert.Empty(t, ended)
		source.err.Store(nil)
		time.Sleep(10 * time.Second)
		require.Len(t, ended, 1)
		assert.Equal(t, fanout.Delivered, (<-ended).Outcome)
	})
}

func TestTokens_AnotherIsFetchedOnceAfterA401(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{}
		revoked := "Bearer t-1"
		d := newDispatcher(t, with(crm(func(r *http.Request) (*http.Response, error) {
			if r.Header.Get("Authorization") == revoked {
				return answer(401), nil
			}
			return answer(200), nil
		}, auth.Tokens(source)), unbounded))
		require.Equal(t, fanout.Delivered, dispatch(t.Context(), d).Outcome, "fetches, is refused, fetches again")
		_ = dispatch(t.Context(), d)
		time.Sleep(time.Minute)
		revoked = "Bearer t-2"
		all(100, func() {
			r := dispatch(t.Context(), d)
			assert.Equal(t, fanout.Delivered, r.Outcome)
			assert.LessOrEqual(t, len(r.Attempts), 2)
		})
		assert.EqualValues(t, 3, source.calls.Load())
	})
}

func TestTokens_RenewalThatIsSlowHoldsNobodyUpForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{lives: time.Hour}
		d := newDispatcher(t, with(crm(answering(200), auth.Tokens(source)), unbounded))
		dispatch(t.Context(), d)
		time.Sleep(59*time.Minute + 30*time.Second)
		source.takes = time.Minute
		began := time.Now()
		all(100, func() { assert.Equal(t, fanout.Delivered, dispatch(t.Context(), d).Outcome) })
		assert.Equal(t, time.Second, time.Since(began), "then the old one is used")
		assert.EqualValues(t, 2, source.calls.Load())
	})
}

func TestTokens_ThatExpireDuringTheirRenewalAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{lives: 10 * time.Second}
		d := newDispatcher(t, crm(answering(200), auth.Tokens(source)))
		dispatch(t.Context(), d)
		time.Sleep(9500 * time.Millisecond)
		source.takes = 3 * time.Second
		assert.Equal(t, fanout.Delivered, dispatch(t.Context(), d).Outcome)
		assert.EqualValues(t, 2, source.calls.Load())
	})
}

func TestTokens_EndpointThatHangsIsAskedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{takes: time.Hour}
		d := newDispatcher(t, with(crm(answering(200), auth.Tokens(source)), fanout.Policy{Timeout: time.Minute, AttemptTimeout: time.Minute, Breaker: fanout.Breaker{Window: time.Hour}}))
		began := time.Now()
		r := dispatch(t.Context(), d)
		require.ErrorIs(t, r.Err(), fanout.ErrAuth)
		assert.Equal(t, 10*time.Second, time.Since(began))
		synctest.Wait()
		source.takes = 0
		time.Sleep(time.Second)
		assert.Equal(t, fanout.Delivered, dispatch(t.Context(), d).Outcome)
	})
}

func TestTokens_RefusedEachTimeCostOneASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{}
		d := newDispatcher(t, with(crm(answering(401), auth.Tokens(source)), unbounded))
		for range 5 {
			all(100, func() { assert.Equal(t, fanout.Failed, dispatch(t.Context(), d).Outcome) })
			time.Sleep(time.Second)
		}
		assert.EqualValues(t, 6, source.calls.Load(), "the first one, and one a second")
	})
}

func TestTokens_SourceMayPanicOrEndItsGoroutine(t *testing.T) {
	panics := func(context.Context) (auth.Token, error) { panic("oops") }
	r := dispatch(t.Context(), newDispatcher(t, crm(answering(200), auth.Tokens(auth.TokenSourceFunc(panics)))))
	assert.Equal(t, fanout.Rejected, r.Outcome)
	var panicked *fanout.PanicError
	require.ErrorAs(t, r.Err(), &panicked)
	assert.Contains(t, panicked.Where, "TestTokens_SourceMayPanic")

	ends := func(context.Context) (auth.Token, error) {
		runtime.Goexit()
		return auth.Token{}, nil
	}
	r = dispatch(t.Context(), newDispatcher(t, crm(answering(200), auth.Tokens(auth.TokenSourceFunc(ends)))))
	assert.Equal(t, fanout.Rejected, r.Outcome)
	require.ErrorIs(t, r.Err(), fanout.ErrGoexit)
}

func TestTokens_SourceThatIgnoresItsContextHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deaf := func(context.Context) (auth.Token, error) {
			time.Sleep(time.Minute)
			return auth.Token{}, nil
		}
		patient := with(crm(answering(200), auth.Tokens(auth.TokenSourceFunc(deaf))), fanout.Policy{AttemptTimeout: 20 * time.Second})
		began := time.Now()
		r := dispatch(t.Context(), newDispatcher(t, patient))
		require.EqualError(t, r.Err(), "crm: authentication failed: no token: none within 10s: context deadline exceeded")
		assert.Equal(t, 10*time.Second, time.Since(began))
		time.Sleep(time.Minute)
	})
}

// tenant wraps an authenticator and adds a header.
type tenant struct{ fanout.Authenticator }

func (d tenant) Authenticate(ctx context.Context, r *http.Request) error {
	r.Header.Set("X-Tenant", "7")
	return d.Authenticator.Authenticate(ctx, r)
}

func (d tenant) Unwrap() fanout.Authenticator { return d.Authenticator }

func TestTokens_KeepTheirAbilitiesInADecorator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{}
		refuses := func(r *http.Request) (*http.Response, error) {
			assert.Equal(t, "7", r.Header.Get("X-Tenant"))
			if r.Header.Get("Authorization") == "Bearer t-1" {
				return answer(401), nil
			}
			return answer(200), nil
		}
		assert.Equal(t, fanout.Delivered, dispatch(t.Context(), newDispatcher(t, crm(refuses, tenant{auth.Tokens(source)}))).Outcome)
		assert.EqualValues(t, 2, source.calls.Load())
		_, err := fanout.New(fanout.Config{Targets: []fanout.Target{crm(nil, tenant{auth.Tokens(nil)})}})
		require.EqualError(t, err, `fanout: target "crm": Auth: its source of tokens is nil`)
	})
}

func TestTokens_ThatWereNotRenewedAreRenewedSoonAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{lives: time.Hour}
		d := newDispatcher(t, crm(answering(200), auth.Tokens(source)))
		dispatch(t.Context(), d)
		time.Sleep(59*time.Minute + 30*time.Second)
		source.fail(errors.New("down"))
		dispatch(t.Context(), d)
		source.err.Store(nil)
		dispatch(t.Context(), d)
		assert.EqualValues(t, 2, source.calls.Load(), "left alone for a second")
		time.Sleep(time.Second)
		dispatch(t.Context(), d)
		assert.EqualValues(t, 3, source.calls.Load())
		time.Sleep(30 * time.Minute)
		dispatch(t.Context(), d)
		assert.EqualValues(t, 3, source.calls.Load(), "not before it is due again")
	})
}

// authorization returns what an attempt with this context sends.
func authorization(ctx context.Context, t *testing.T, tokens fanout.Authenticator) *http.Request {
	t.Helper()
	r := &http.Request{Header: http.Header{}}
	require.NoError(t, tokens.Authenticate(ctx, r))
	return r
}

func TestTokens_RenewalTakesHalfOfTheTimeThatIsLeft(t *testing.T) {
	for name, test := range map[string]struct {
		left, takes, waits time.Duration
		want               string
	}{
		"little is left, and it is slow":  {time.Second, time.Minute, time.Second / 2, "Bearer t-1"},
		"little is left, and it is quick": {time.Second, time.Second / 4, time.Second / 4, "Bearer t-2"},
		"much is left, and it is slow":    {time.Hour, time.Minute, time.Second, "Bearer t-1"},
		"no end, and it is slow":          {0, time.Minute, time.Second, "Bearer t-1"},
		"no end, and it is quick":         {0, time.Second / 4, time.Second / 4, "Bearer t-2"},
	} {
		synctest.Test(t, func(t *testing.T) {
			source := &tokens{lives: time.Hour}
			shared := auth.Tokens(source)
			authorization(t.Context(), t, shared)
			time.Sleep(59*time.Minute + 30*time.Second)
			source.takes = test.takes
			ctx, cancel := context.WithCancel(t.Context())
			if test.left > 0 {
				ctx, cancel = context.WithTimeout(t.Context(), test.left)
			}
			defer cancel()
			began := time.Now()
			assert.Equal(t, test.want, authorization(ctx, t, shared).Header.Get("Authorization"), name)
			assert.Equal(t, test.waits, time.Since(began), name)
			time.Sleep(time.Minute) // the fetch ends
		})
	}
}

func TestTokens_AreNotFetchedForA401WhileTheEndpointIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{lives: time.Hour}
		shared := auth.Tokens(source)
		authorization(t.Context(), t, shared)
		time.Sleep(59*time.Minute + 30*time.Second)
		source.fail(errors.New("down"))
		old := authorization(t.Context(), t, shared)
		for range 2 {
			require.EqualError(t, shared.Refresh(t.Context(), old), "no token: down")
		}
		assert.EqualValues(t, 2, source.calls.Load(), "only the renewal failed")
		source.err.Store(nil)
		time.Sleep(time.Second)
		require.NoError(t, shared.Refresh(t.Context(), old))
		assert.Equal(t, "Bearer t-3", authorization(t.Context(), t, shared).Header.Get("Authorization"))
	})
}

func TestTokens_ContextOfAFetchEndsWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended <-chan struct{}
		shared := auth.Tokens(auth.TokenSourceFunc(func(ctx context.Context) (auth.Token, error) {
			ended = ctx.Done()
			return auth.Token{Value: auth.NewSecret("t-1")}, nil
		}))
		began := time.Now()
		authorization(t.Context(), t, shared)
		<-ended
		assert.Zero(t, time.Since(began), "not only when the time for a fetch is over")
	})
}
