package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/auth"
)

func TestAuthenticator_ThatFailsSendsNothing(t *testing.T) {
	var sent bool
	target := via("crm", func(*http.Request) (*http.Response, error) { sent = true; return answer(200, ""), nil })
	target.Auth = fanout.AuthenticatorFunc(func(context.Context, *http.Request) error { return errors.New("no token") })
	r := dispatch(t.Context(), newDispatcher(t, target))["crm"]
	assert.Equal(t, fanout.Rejected, r.Outcome)
	require.EqualError(t, r.Err(), "crm: authentication failed: no token")
	require.ErrorIs(t, r.Err(), fanout.ErrAuth)
	assert.False(t, sent)
}

func TestAuthenticator_ThatBreaksTheRequestDoesNotAccuseTheTarget(t *testing.T) {
	for name, auth := range map[string]fanout.AuthenticatorFunc{
		"header":   func(_ context.Context, r *http.Request) error { r.Header.Set("Authorization", "token\n"); return nil },
		"deadline": func(ctx context.Context, _ *http.Request) error { <-ctx.Done(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				target := via("crm", answering(200))
				target.Auth = auth
				r := deliverTo(t, target, fanout.Policy{})
				assert.Equal(t, fanout.Rejected, r.Outcome)
				require.ErrorIs(t, r.Err(), fanout.ErrAuth)
				assert.Empty(t, r.Attempts)
			})
		})
	}
}

func TestAuthenticator_CannotTouchWhatIsShared(t *testing.T) {
	header := http.Header{}
	for i := range 17 {
		header.Add("X-A", fmt.Sprint(i))
	}
	var mu sync.Mutex
	wrong := 0
	target := via("crm", func(r *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("X-B") != r.Header["X-A"][17] || r.URL.RawQuery != "key="+r.Header.Get("X-B") {
			wrong++
		}
		return answer(200, ""), nil
	})
	target.Header = header
	target.Auth = fanout.AuthenticatorFunc(func(_ context.Context, r *http.Request) error {
		id := r.Header.Get(fanout.RequestIDHeader)
		r.Header.Set("X-B", id)
		r.Header.Add("X-A", id)
		r.URL.RawQuery = "key=" + id
		return nil
	})
	d := newDispatcher(t, target)
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() { dispatch(t.Context(), d) })
	}
	all.Wait()
	assert.Zero(t, wrong)
}

func TestAuthenticator_ItsAddressIsInNoError(t *testing.T) {
	target := via("crm", answering(200))
	target.Auth = fanout.AuthenticatorFunc(func(context.Context, *http.Request) error {
		return fmt.Errorf("token: %w", &url.Error{Op: "Post", URL: "https://auth.example/?secret=s3cr3t", Err: io.ErrUnexpectedEOF})
	})
	r := deliverTo(t, target, keyed)
	require.EqualError(t, r.Err(), "crm: authentication failed: token: Post: unexpected EOF")
	require.ErrorIs(t, r.Err(), io.ErrUnexpectedEOF)
}

func TestAuthenticator_RequestForATokenIsNotTakenForTheTargets(t *testing.T) {
	endpoint := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer endpoint.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	gone := listener(t, func(*net.TCPConn) {})
	crm := fanout.Target{Name: "crm", URL: "https://" + gone, Transport: transport}
	crm.Auth = auth.Tokens(auth.TokenSourceFunc(func(ctx context.Context) (auth.Token, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint.URL, http.NoBody)
		if err != nil {
			return auth.Token{}, err
		}
		answer, err := (&http.Client{Transport: transport}).Do(r)
		if err != nil {
			return auth.Token{}, err
		}
		return auth.Token{Value: auth.NewSecret("t-1")}, answer.Body.Close()
	}))
	r := deliverTo(t, crm, fanout.Policy{AttemptTimeout: 100 * time.Millisecond, Idempotency: fanout.Idempotency{Header: "-"}})
	assert.Equal(t, fanout.Failed, r.Outcome, "the handshake with the target never ended, so nothing was sent to it")
}

// renewable is an Authenticator that counts how often it is used and renewed.
type renewable struct {
	renewals, uses int
	err            error
}

func (r *renewable) Refresh(context.Context, *http.Request) error      { r.renewals++; return r.err }
func (r *renewable) Authenticate(context.Context, *http.Request) error { r.uses++; return nil }

func TestRefresher_RenewsStaleCredentialsOnceAndTheRequestIsRepeated(t *testing.T) {
	for _, test := range []struct {
		name     string
		statuses []int
		attempts int
		renewals int
	}{
		{"accepted at last", []int{401, 200}, 2, 1},
		{"refused again", []int{401}, 2, 1},
		{"between other failures", []int{500, 401, 500}, 3, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				auth := &renewable{}
				target := via("crm", answering(test.statuses...))
				target.Auth = auth
				r := dispatch(t.Context(), newDispatcher(t, target))["crm"]
				assert.Len(t, r.Attempts, test.attempts)
				assert.Equal(t, test.renewals, auth.renewals)
				assert.Equal(t, test.attempts, auth.uses)
			})
		})
	}
}

func TestRefresher_ThatFailsEndsTheDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := via("crm", answering(401))
		target.Auth = &renewable{err: errors.New("token endpoint down")}
		r := dispatch(t.Context(), newDispatcher(t, target))["crm"]
		assert.Equal(t, fanout.Failed, r.Outcome)
		require.ErrorIs(t, r.Err(), fanout.ErrAuth)
		require.ErrorContains(t, r.Err(), "token endpoint down")
		require.ErrorContains(t, r.Err(), "401 Unauthorized")
	})
}

// wrappedAuth is an Authenticator that adds to another one.
type wrappedAuth struct{ fanout.Authenticator }

func (w wrappedAuth) Unwrap() fanout.Authenticator { return w.Authenticator }

// wrappedSigner is a Signer that adds to another one.
type wrappedSigner struct{ fanout.Signer }

func (w wrappedSigner) Unwrap() fanout.Signer { return w.Signer }

// renewing is an Authenticator whose credentials are renewed by a number.
type renewing struct {
	number  string
	refused []string
}

func (a *renewing) Authenticate(_ context.Context, r *http.Request) error {
	r.Header.Set("Authorization", "Bearer t-"+a.number)
	return nil
}

func (a *renewing) Refresh(_ context.Context, refused *http.Request) error {
	a.refused = append(a.refused, refused.Header.Get("Authorization"))
	a.number = "2"
	return nil
}

func TestRefresher_IsToldWhichRequestWasRefusedThroughDecoratorsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, wrap := range map[string]func(fanout.Authenticator) fanout.Authenticator{
			"itself":  func(a fanout.Authenticator) fanout.Authenticator { return a },
			"wrapped": func(a fanout.Authenticator) fanout.Authenticator { return wrappedAuth{wrappedAuth{a}} },
		} {
			auth := &renewing{number: "1"}
			crm := via("crm", func(r *http.Request) (*http.Response, error) {
				if r.Header.Get("Authorization") == "Bearer t-1" {
					return answer(401, ""), nil
				}
				return answer(200, ""), nil
			})
			crm.Auth = wrap(auth)
			r := dispatch(t.Context(), newDispatcher(t, crm))["crm"]
			assert.Equal(t, fanout.Delivered, r.Outcome, name)
			assert.Equal(t, []string{"Bearer t-1"}, auth.refused, name)
		}
		crm := via("crm", answering(401))
		crm.Auth = wrappedAuth{}
		_, err := fanout.New(fanout.Config{Targets: []fanout.Target{crm}})
		require.NoError(t, err, "what wraps nothing has no further ability")
	})
}

// neverWorks is an Authenticator and Signer whose check always fails.
type neverWorks struct {
	fanout.Authenticator
	fanout.Signer
}

func (neverWorks) Check() error { return errors.New("can never work") }

func TestCheck_IsFoundThroughDecorators(t *testing.T) {
	authenticated, signed := via("crm", nil), via("hook", nil)
	authenticated.Auth, signed.Sign = wrappedAuth{neverWorks{}}, wrappedSigner{neverWorks{}}
	for want, target := range map[string]fanout.Target{
		`fanout: target "crm": Auth: can never work`:  authenticated,
		`fanout: target "hook": Sign: can never work`: signed,
	} {
		_, err := fanout.New(fanout.Config{Targets: []fanout.Target{target}})
		require.EqualError(t, err, want)
	}
}

func TestSigner_WhoseSignatureCannotBeMadeEndsTheDeliveryUnsent(t *testing.T) {
	for want, signer := range map[string]fanout.SignerFunc{
		"hook: authentication failed: signature: HSM is away": func(context.Context, *fanout.Request) error {
			return errors.New("HSM is away")
		},
		"hook: authentication failed: signature: X-Bad: value has a control character": func(_ context.Context, r *fanout.Request) error {
			r.Header.Set("X-Bad", "a\nb")
			return nil
		},
		"hook: authentication failed: signature: the signer removed the header": func(_ context.Context, r *fanout.Request) error {
			r.Header = nil
			return nil
		},
	} {
		r := dispatch(t.Context(), newDispatcher(t, signed(via("hook", answering(200)), signer)))["hook"]
		assert.Equal(t, fanout.Rejected, r.Outcome)
		require.EqualError(t, r.Err(), want)
	}
}

func TestSigner_SeesTheRequestAsItIsSent(t *testing.T) {
	var seen fanout.Request
	get := via("hook", answering(200))
	get.Method, get.URL = http.MethodGet, "https://hook.example/a?b=c"
	get.Prepare = func(_ context.Context, r *fanout.Request) error {
		r.Header.Set("X-Prepared", "yes")
		return nil
	}
	get.Auth = fanout.AuthenticatorFunc(func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer t-1")
		return nil
	})
	dispatch(t.Context(), newDispatcher(t, signed(get, fanout.SignerFunc(func(_ context.Context, r *fanout.Request) error {
		seen = *r
		assert.Equal(t, "yes", r.Header.Get("X-Prepared"))
		assert.Equal(t, "Bearer t-1", r.Header.Get("Authorization"))
		assert.Equal(t, r.RequestID, r.Header.Get(fanout.RequestIDHeader))
		r.URL.Path = "/elsewhere"
		return nil
	}))))
	assert.Empty(t, seen.Body, "a GET sends none")
	assert.Equal(t, "GET", seen.Method)
	assert.Equal(t, 1, seen.Attempt)
}

func TestSigner_AddsToAHeaderOfItsOwnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []http.Header
		statuses := inTurn(503, 200)
		hook := with(via("hook", func(r *http.Request) (*http.Response, error) {
			got = append(got, r.Header.Clone())
			return answer(statuses(), ""), nil
		}), fanout.Policy{Retry: fanout.Retry{ThrottledBackoff: -1}})
		hook.Header = http.Header{"X-Tenant": {"7"}}
		dispatch(t.Context(), newDispatcher(t, signed(hook, fanout.SignerFunc(func(_ context.Context, r *fanout.Request) error {
			r.Header.Add("X-Tenant", "8")
			r.Header.Add("X-Signature", r.RequestID)
			return nil
		}))))
		require.Len(t, got, 2)
		for _, h := range got {
			assert.Equal(t, []string{"7", "8"}, h["X-Tenant"], "what an attempt adds is not seen by the next one")
			assert.Equal(t, []string{h.Get(fanout.RequestIDHeader)}, h["X-Signature"])
		}
	})
}
