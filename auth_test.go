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

// wrapped is an Authenticator that adds to another one.
type wrapped struct{ fanout.Authenticator }

func (w wrapped) Unwrap() fanout.Authenticator { return w.Authenticator }

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
	for name, wrap := range map[string]func(fanout.Authenticator) fanout.Authenticator{
		"itself":  func(a fanout.Authenticator) fanout.Authenticator { return a },
		"wrapped": func(a fanout.Authenticator) fanout.Authenticator { return wrapped{wrapped{a}} },
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
	crm.Auth = wrapped{}
	_, err := fanout.New(fanout.Config{Targets: []fanout.Target{crm}})
	require.NoError(t, err, "what wraps nothing has no further ability")
}

type useless struct {
	fanout.Authenticator
	fanout.Signer
}

func (useless) Check() error { return errors.New("can never work") }

func TestCheck_IsFoundThroughDecorators(t *testing.T) {
	authenticated, signed := via("crm", nil), via("hook", nil)
	authenticated.Auth, signed.Sign = wrapped{useless{}}, wrappedSigner{useless{}}
	for want, target := range map[string]fanout.Target{
		`fanout: target "crm": Auth: can never work`:  authenticated,
		`fanout: target "hook": Sign: can never work`: signed,
	} {
		_, err := fanout.New(fanout.Config{Targets: []fanout.Target{target}})
		require.EqualError(t, err, want)
	}
}

// away is an error that may be over in a while, or not.
type away bool

func (away) Error() string    { return "away" }
func (a away) TryLater() bool { return bool(a) }

func TestTryLater_HasWhatIsSubmittedWait(t *testing.T) {
	for later, want := range map[away]fanout.Outcome{true: fanout.Delivered, false: fanout.Rejected} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			crm := via("crm", answering(200))
			crm.Auth = fanout.AuthenticatorFunc(func(context.Context, *http.Request) error {
				if time.Since(began) < 5*time.Second {
					return later
				}
				return nil
			})
			ended := make(chan fanout.Result, 1)
			d := newWith(t, fanout.Config{Targets: []fanout.Target{crm}, OnResult: func(_ context.Context, r fanout.Result) { ended <- r }})
			_, err := d.Submit(t.Context(), "hello")
			require.NoError(t, err)
			assert.Equal(t, want, (<-ended).Outcome)
		})
	}
}
