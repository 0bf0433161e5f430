package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestCredentialsAreAddedToEachAttempt(t *testing.T) {
	key := fanout.NewSecret("k-1")
	for name, test := range map[string]struct {
		auth         fanout.Authenticator
		header, want string
	}{
		"header": {fanout.HeaderAuth("X-Api-Key", key), "X-Api-Key", "k-1"},
		"bearer": {fanout.BearerAuth(key), "Authorization", "Bearer k-1"},
		"basic":  {fanout.BasicAuth("ada", key), "Authorization", "Basic YWRhOmstMQ=="},
	} {
		var got string
		target := via("crm", func(r *http.Request) (*http.Response, error) {
			got = r.Header.Get(test.header)
			return answer(200, ""), nil
		})
		target.Auth = test.auth
		dispatch(t.Context(), newDispatcher(t, target))
		assert.Equal(t, test.want, got, name)
	}
}

func TestCredentialsThatCannotBeHadEndTheDeliveryUnsent(t *testing.T) {
	for want, source := range map[string]fanout.SecretSource{
		"crm: authentication failed: the secret is empty":                                        fanout.NewSecret(""),
		`crm: authentication failed: environment variable "FANOUT_NOT_SET" is not set, or empty`: fanout.EnvSecret("FANOUT_NOT_SET"),
	} {
		target := via("crm", answering(200))
		target.Auth = fanout.BearerAuth(source)
		r := dispatch(t.Context(), newDispatcher(t, target))["crm"]
		assert.Equal(t, fanout.Rejected, r.Outcome)
		require.EqualError(t, r.Err, want)
	}
}

func TestAHeaderThatCannotCarryACredentialIsRefused(t *testing.T) {
	for header, want := range map[string]string{
		"X Api Key":    `fanout: target "crm": Auth: "X Api Key" is not a header name`,
		"host":         `fanout: target "crm": Auth: Host is set by the library or the connection`,
		"Content-Type": `fanout: target "crm": Auth: Content-Type is set by the library or the connection`,
	} {
		crm := via("crm", nil)
		crm.Auth = fanout.HeaderAuth(header, fanout.NewSecret("k-1"))
		_, err := fanout.New(fanout.Config{Targets: []fanout.Target{crm}})
		require.EqualError(t, err, want)
	}
}

// tokens is a token endpoint.
type tokens struct {
	calls atomic.Int64
	ended atomic.Int64 // by their contexts
	takes time.Duration
	lives time.Duration
	err   atomic.Pointer[error]
}

func (s *tokens) Token(ctx context.Context) (fanout.Token, error) {
	n := s.calls.Add(1)
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		s.ended.Add(1)
		return fanout.Token{}, ctx.Err()
	}
	if err := s.err.Load(); err != nil {
		return fanout.Token{}, *err
	}
	token := fanout.Token{Value: fanout.NewSecret(fmt.Sprint("t-", n))}
	if s.lives != 0 {
		token.Expires = time.Now().Add(s.lives)
	}
	return token, nil
}

func (s *tokens) fail(err error) { s.err.Store(&err) }

func withTokens(t fanout.Target, s fanout.TokenSource) fanout.Target {
	t.Auth = fanout.TokenAuth(s)
	return t
}

func all(n int, do func()) {
	var group sync.WaitGroup
	for range n {
		group.Go(do)
	}
	group.Wait()
}

var unbounded = fanout.Policy{Bulkhead: fanout.Bulkhead{MaxConcurrent: -1}}

func TestAThousandDispatchesFetchOneToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{takes: time.Second, lives: time.Hour}
		d := newDispatcher(t, with(withTokens(via("crm", answering(200)), source), unbounded))
		deliver := func() { assert.Equal(t, fanout.Delivered, dispatch(t.Context(), d)["crm"].Outcome) }
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

func TestATokenEndpointThatIsDownFailsAllAtOnceAndIsNotStormed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{takes: time.Second}
		source.fail(&url.Error{Op: "Post", URL: "https://id.example/token?secret=x", Err: errors.New("connection refused")})
		d := newDispatcher(t, with(withTokens(via("crm", answering(200)), source), unbounded))
		began := time.Now()
		all(1000, func() {
			r := dispatch(t.Context(), d)["crm"]
			assert.Equal(t, fanout.Rejected, r.Outcome)
			assert.EqualError(t, r.Err, "crm: authentication failed: no token: Post: connection refused")
		})
		assert.Equal(t, time.Second, time.Since(began), "in parallel")
		dispatch(t.Context(), d)
		assert.EqualValues(t, 1, source.calls.Load(), "left alone for a second")
		state, _ := d.BreakerState("crm")
		assert.Equal(t, fanout.BreakerClosed, state)

		source.err.Store(nil)
		time.Sleep(time.Second)
		assert.Equal(t, fanout.Delivered, dispatch(t.Context(), d)["crm"].Outcome)
	})
}

func TestAnOldTokenIsUsedWhileTheNextCannotBeHad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{lives: time.Hour}
		d := newDispatcher(t, withTokens(via("crm", answering(200)), source))
		dispatch(t.Context(), d)
		source.fail(errors.New("down"))
		time.Sleep(59*time.Minute + 30*time.Second)
		for range 10 {
			assert.Equal(t, fanout.Delivered, dispatch(t.Context(), d)["crm"].Outcome)
		}
		assert.EqualValues(t, 2, source.calls.Load())
	})
}

func TestWhoWaitsForATokenWaitsNoLongerThanItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{takes: 3 * time.Second}
		d := newDispatcher(t, withTokens(via("crm", answering(200)), source))
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		patient := make(chan fanout.Result)
		go func() { patient <- dispatch(t.Context(), d)["crm"] }()
		r := dispatch(short, d)["crm"]
		assert.Equal(t, fanout.Rejected, r.Outcome)
		require.ErrorIs(t, r.Err, context.DeadlineExceeded)
		assert.Equal(t, fanout.Delivered, (<-patient).Outcome, "whoever asked first going away harms nobody")
		assert.EqualValues(t, 1, source.calls.Load())
	})
}

func TestAFetchGoesOnThoughNobodyWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{takes: 3 * time.Second}
		d := newDispatcher(t, withTokens(via("crm", answering(200)), source))
		for range 300 {
			hurried, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			assert.Equal(t, fanout.Rejected, dispatch(hurried, d)["crm"].Outcome)
			cancel()
		}
		time.Sleep(3 * time.Second)
		assert.Equal(t, fanout.Delivered, dispatch(t.Context(), d)["crm"].Outcome)
		assert.EqualValues(t, 1, source.calls.Load(), "callers that leave storm no endpoint, and starve nobody")
	})
}

func TestAFetchThatNobodyWaitsForEndsWithItsDispatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{takes: 5 * time.Second}
		auth := fanout.TokenAuth(source)
		crm := via("crm", answering(200))
		crm.Auth = auth
		first, other := newDispatcher(t, crm), newDispatcher(t, crm)
		hurried, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		dispatch(hurried, first)
		waits := make(chan fanout.Outcome)
		go func() { waits <- dispatch(t.Context(), other)["crm"].Outcome }()
		synctest.Wait()
		require.NoError(t, first.Close(t.Context()))
		assert.Equal(t, fanout.Delivered, <-waits, "another dispatcher waits for it")

		auth = fanout.TokenAuth(source)
		crm.Auth = auth
		last := newDispatcher(t, crm)
		hurried, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		dispatch(hurried, last)
		began := time.Now()
		require.NoError(t, last.Close(t.Context()))
		synctest.Wait()
		assert.Zero(t, time.Since(began))
		assert.EqualValues(t, 1, source.ended.Load())
	})
}

func TestAFetchThatWasGivenUpIsJoinedByNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		crm := withTokens(via("crm", answering(200)), fanout.TokenSourceFunc(func(ctx context.Context) (fanout.Token, error) {
			if calls.Add(1) > 1 {
				return fanout.Token{Value: fanout.NewSecret("t-2")}, nil
			}
			<-ctx.Done()
			time.Sleep(time.Second) // and takes its time to end
			return fanout.Token{}, ctx.Err()
		}))
		first, other := newDispatcher(t, crm), newDispatcher(t, crm)
		hurried, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		dispatch(hurried, first)
		require.NoError(t, first.Close(t.Context()))
		synctest.Wait()
		for range 2 {
			assert.Equal(t, fanout.Delivered, dispatch(t.Context(), other)["crm"].Outcome)
			time.Sleep(2 * time.Second)
		}
	})
}

func TestATokenThatHasExpiredAlreadyIsNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{lives: -time.Second}
		d := newDispatcher(t, withTokens(via("crm", answering(200)), source))
		for range 100 {
			require.EqualError(t, dispatch(t.Context(), d)["crm"].Err, "crm: authentication failed: no token: it has expired already")
		}
		assert.EqualValues(t, 1, source.calls.Load(), "a clock that is wrong storms nobody")
	})
}

func TestWhatIsSubmittedWaitsForATokenThatCannotBeHad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{}
		source.fail(errors.New("down"))
		ended := make(chan fanout.Result, 1)
		d := newWith(t, fanout.Config{
			Targets:  []fanout.Target{withTokens(via("crm", answering(200)), source)},
			OnResult: func(_ context.Context, _ *fanout.Submission, r fanout.Result) { ended <- r },
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

func TestAuthThatCannotWorkIsRefused(t *testing.T) {
	for want, auth := range map[string]fanout.Authenticator{
		"its secret is nil":                                   fanout.BearerAuth(nil),
		"its source of tokens is nil":                         fanout.TokenAuth(nil),
		"the user name has a colon, which ends it (RFC 7617)": fanout.BasicAuth("a:b", fanout.NewSecret("x")),
	} {
		crm := via("crm", nil)
		crm.Auth = auth
		_, err := fanout.New(fanout.Config{Targets: []fanout.Target{crm}})
		require.EqualError(t, err, `fanout: target "crm": Auth: `+want)
	}
}

func TestAfterA401AnotherTokenIsFetchedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{}
		revoked := "Bearer t-1"
		d := newDispatcher(t, with(withTokens(via("crm", func(r *http.Request) (*http.Response, error) {
			if r.Header.Get("Authorization") == revoked {
				return answer(401, ""), nil
			}
			return answer(200, ""), nil
		}), source), unbounded))
		require.Equal(t, fanout.Delivered, dispatch(t.Context(), d)["crm"].Outcome, "fetches, is refused, fetches again")
		_ = dispatch(t.Context(), d)
		time.Sleep(time.Minute)
		revoked = "Bearer t-2"
		all(100, func() {
			r := dispatch(t.Context(), d)["crm"]
			assert.Equal(t, fanout.Delivered, r.Outcome)
			assert.LessOrEqual(t, len(r.Attempts), 2)
		})
		assert.EqualValues(t, 3, source.calls.Load())
	})
}

func TestARenewalThatIsSlowHoldsNobodyUpForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{lives: time.Hour}
		d := newDispatcher(t, with(withTokens(via("crm", answering(200)), source), unbounded))
		dispatch(t.Context(), d)
		time.Sleep(59*time.Minute + 30*time.Second)
		source.takes = time.Minute
		began := time.Now()
		all(100, func() { assert.Equal(t, fanout.Delivered, dispatch(t.Context(), d)["crm"].Outcome) })
		assert.Equal(t, time.Second, time.Since(began), "then the old one is used")
		assert.EqualValues(t, 2, source.calls.Load())
	})
}

func TestATokenThatExpiresDuringItsRenewalIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{lives: 10 * time.Second}
		d := newDispatcher(t, withTokens(via("crm", answering(200)), source))
		dispatch(t.Context(), d)
		time.Sleep(9500 * time.Millisecond)
		source.takes = 3 * time.Second
		assert.Equal(t, fanout.Delivered, dispatch(t.Context(), d)["crm"].Outcome)
		assert.EqualValues(t, 2, source.calls.Load())
	})
}

func TestATokenEndpointThatHangsIsAskedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{takes: time.Hour}
		d := newDispatcher(t, with(withTokens(via("crm", answering(200)), source), fanout.Policy{Timeout: time.Minute, AttemptTimeout: time.Minute, Breaker: fanout.Breaker{Window: time.Hour}}))
		began := time.Now()
		r := dispatch(t.Context(), d)["crm"]
		require.ErrorIs(t, r.Err, fanout.ErrAuth)
		assert.Equal(t, 10*time.Second, time.Since(began))
		source.takes = 0
		time.Sleep(time.Second)
		assert.Equal(t, fanout.Delivered, dispatch(t.Context(), d)["crm"].Outcome)
	})
}

func TestATargetThatRefusesEveryTokenCostsOneASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &tokens{}
		d := newDispatcher(t, with(withTokens(via("crm", answering(401)), source), unbounded))
		for range 5 {
			all(100, func() { assert.Equal(t, fanout.Failed, dispatch(t.Context(), d)["crm"].Outcome) })
			time.Sleep(time.Second)
		}
		assert.EqualValues(t, 6, source.calls.Load(), "the first one, and one a second")
	})
}

func TestTheRequestForATokenIsNotTakenForTheTargets(t *testing.T) {
	endpoint := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer endpoint.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	gone := listener(t, func(*net.TCPConn) {})
	crm := fanout.Target{Name: "crm", URL: "https://" + gone, Transport: transport}
	crm.Auth = fanout.TokenAuth(fanout.TokenSourceFunc(func(ctx context.Context) (fanout.Token, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint.URL, http.NoBody)
		if err != nil {
			return fanout.Token{}, err
		}
		answer, err := (&http.Client{Transport: transport}).Do(r)
		if err != nil {
			return fanout.Token{}, err
		}
		return fanout.Token{Value: fanout.NewSecret("t-1")}, answer.Body.Close()
	}))
	r := to(t, crm, fanout.Policy{AttemptTimeout: 100 * time.Millisecond, Idempotency: fanout.Idempotency{Header: "-"}})
	assert.Equal(t, fanout.Failed, r.Outcome, "the handshake with the target never ended, so nothing was sent to it")
}

func TestATokenSourceMayPanic(t *testing.T) {
	d := newDispatcher(t, withTokens(via("crm", answering(200)), fanout.TokenSourceFunc(func(context.Context) (fanout.Token, error) { panic("oops") })))
	r := dispatch(t.Context(), d)["crm"]
	assert.Equal(t, fanout.Rejected, r.Outcome)
	var panicked *fanout.PanicError
	require.ErrorAs(t, r.Err, &panicked)
}
