package fanout_test

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func signed(t fanout.Target, s fanout.Signer) fanout.Target {
	t.Sign = s
	return t
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
}
