package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestInvalidError_WrapsWhoseFaultItIs(t *testing.T) {
	no := errors.New("has a card number")
	configured := fanout.Config{Targets: []fanout.Target{via("crm", answering(200))}}
	short, strict, placed, other := configured, configured, configured, configured
	short.MaxPayloadBytes = 3
	strict.Validate = func(context.Context, *fanout.Payload) error { return no }
	placed.Validate = func(context.Context, *fanout.Payload) error {
		return &fanout.InvalidError{Field: "Payload.card", Err: no}
	}
	other.Validate = func(context.Context, *fanout.Payload) error { return fanout.ErrInvalid }
	for name, test := range map[string]struct {
		config  fanout.Config
		payload any
		options []fanout.Option
		is      error
		want    string
	}{
		"too large":          {short, "hello", nil, fanout.ErrPayloadTooLarge, "fanout: Payload.Body: too large: 7 bytes, limit 3"},
		"refused":            {strict, "hello", nil, fanout.ErrPayloadRefused, "fanout: Payload: refused: has a card number"},
		"refused in a place": {placed, "hello", nil, fanout.ErrPayloadRefused, "fanout: Payload.card: refused: has a card number"},
		"refused as invalid": {other, "hello", nil, fanout.ErrPayloadRefused, "fanout: Payload: refused: invalid"},
		"key":                {configured, fanout.Payload{Key: "a b"}, nil, fanout.ErrIdempotencyKey, "fanout: Payload.Key: must be 1 to 128 visible ASCII characters"},
		"none configured":    {fanout.Config{}, "hello", nil, fanout.ErrNoTargets, "fanout: Targets: no targets are configured"},
		"none chosen":        {configured, "hello", []fanout.Option{fanout.To()}, fanout.ErrNoTargets, "fanout: Targets: no targets were chosen by the options of the call"},
	} {
		d := newWith(t, test.config)
		_, err := d.Dispatch(t.Context(), test.payload, forDispatch(test.options)...)
		require.EqualError(t, err, test.want, name)
		require.ErrorIs(t, err, fanout.ErrInvalid, name)
		_, submitted := d.Submit(t.Context(), test.payload, forSubmit(test.options)...)
		require.EqualError(t, submitted, test.want, name)
		for _, sentinel := range []error{fanout.ErrPayloadTooLarge, fanout.ErrPayloadRefused, fanout.ErrIdempotencyKey, fanout.ErrNoTargets} {
			assert.Equal(t, sentinel == test.is, errors.Is(err, sentinel), "%s: %v", name, sentinel) //nolint:errorlint // the very one
		}
	}
}

func TestPanicError_HidesAddresses(t *testing.T) {
	leaking := &url.Error{Op: "Post", URL: "https://auth.example/?secret=s3cr3t", Err: io.ErrUnexpectedEOF}
	target := via("crm", answering(200))
	target.Auth = fanout.AuthenticatorFunc(func(context.Context, *http.Request) error { panic(leaking) })
	r := deliverTo(t, target, keyed)
	require.ErrorContains(t, r.Err(), "panic: Post: unexpected EOF")
	require.ErrorIs(t, r.Err(), io.ErrUnexpectedEOF)

	r = deliverTo(t, senderOf(nil, fmt.Errorf("slack: %w", leaking)), once)
	require.ErrorContains(t, r.Err(), "slack: Post: unexpected EOF")
	for _, err := range []error{r.Err(), r.Attempts[0].Err} {
		assert.NotContains(t, err.Error(), "s3cr3t")
	}
}

func TestErrInvalid_OfADispatchWithinASenderIsNotTheOuterOnes(t *testing.T) {
	inner := newDispatcher(t)
	nested := sending("nested", func(ctx context.Context, _ *fanout.Request) (*fanout.Response, error) {
		_, err := inner.Dispatch(ctx, "hello")
		return nil, err
	})
	nested.Retry.MaxAttempts = 1
	_, err := newDispatcher(t, nested, via("crm", answering(200))).Dispatch(t.Context(), "hello")
	require.ErrorContains(t, err, "no targets are configured")
	require.ErrorIs(t, err, fanout.ErrNoTargets, "what it says is not hidden")
	require.NotErrorIs(t, err, fanout.ErrInvalid, "crm was delivered to")
	assert.NotErrorAs(t, err, new(*fanout.RefusedError))
}

func TestErrors_OfPrepareLookupAndQueuesShowNoURL(t *testing.T) {
	secret := &url.Error{Op: "Get", URL: "https://x.example/hook?token=s3cr3t", Err: errors.New("refused")}
	target := via("crm", answering(200))
	target.Prepare = func(context.Context, *fanout.Request) error { return secret }
	_, prepared := newDispatcher(t, target).Dispatch(t.Context(), "hello")
	_, lookedUp := newWith(t, fanout.Config{Lookup: func(context.Context, string) (fanout.Target, error) { return fanout.Target{}, secret }}).
		Dispatch(t.Context(), "hello", fanout.To("x"))
	_, queued := newWith(t, fanout.Config{Queue: refusingQueue{err: secret}, Targets: []fanout.Target{via("crm", answering(200))}}).Submit(t.Context(), "hello")
	for _, err := range []error{prepared, lookedUp, queued} {
		require.ErrorIs(t, err, secret)
		assert.NotContains(t, err.Error(), "s3cr3t")
	}
}

// refusingQueue accepts nothing.
type refusingQueue struct{ err error }

func (refusingQueue) Start(*fanout.Worker) error                        { return nil }
func (q refusingQueue) Submit(context.Context, []fanout.Delivery) error { return q.err }
func (refusingQueue) Close(context.Context) error                       { return nil }

func TestClassOf_MadeUpStatusIsNoClassOfItsOwn(t *testing.T) {
	for status, want := range map[int]fanout.Class{404: "404", 599: "599", 600: "_OTHER", 999: "_OTHER", 99: "_OTHER", -1: "_OTHER"} {
		assert.Equal(t, want, fanout.ClassOf(&fanout.StatusError{StatusCode: status}))
	}
}

func TestClassOf_ADispatchIsWhatItsFailuresHaveInCommon(t *testing.T) {
	saga := func(status int) []fanout.Target {
		var j callLog
		return []fanout.Target{j.step("pay", answering(200), answering(200)), after(j.step("ship", answering(status), nil), "pay"), after(via("mail", answering(200)), "ship")}
	}
	for name, c := range map[string]struct {
		targets []fanout.Target
		want    fanout.Class
	}{
		"one":                        {[]fanout.Target{via("a", answering(400)), via("b", answering(200))}, "400"},
		"two alike":                  {[]fanout.Target{via("a", answering(400)), via("b", answering(400))}, "400"},
		"two that differ":            {[]fanout.Target{via("a", answering(400)), via("b", answering(422))}, fanout.ClassSeveral},
		"what a saga failed with":    {saga(422), "422"},
		"an optional one is no part": {[]fanout.Target{via("a", answering(400)), {Name: "b", URL: "http://b.example", Transport: answering(422), Optional: true}}, "400"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newDispatcher(t, c.targets...).Dispatch(t.Context(), "hello")
			assert.Equal(t, c.want, fanout.ClassOf(err))
		})
	}
	undone := &fanout.DispatchError{Failures: []*fanout.TargetError{{Reason: fanout.ErrCompensated}}}
	assert.Equal(t, fanout.ClassCompensated, fanout.ClassOf(undone), "if nothing else is known")
}

func TestClassOf_WhatAQuorumDidNotWaitForHasAClass(t *testing.T) {
	assert.Equal(t, fanout.ClassNotNeeded, fanout.ClassOf(&fanout.TargetError{Reason: fanout.ErrNotNeeded}))
	assert.Equal(t, fanout.ClassUnderWay, fanout.ClassOf(&fanout.TargetError{Reason: fanout.ErrUnderWay}))
}

// classless panics when it is asked for its class.
type classless struct{ class *fanout.Class }

func (c *classless) Error() string            { return "no" }
func (c *classless) ErrorClass() fanout.Class { return *c.class }

func TestClassOf_AnErrorThatPanicsIsOther(t *testing.T) {
	var none *classless
	r := deliverTo(t, senderOf(nil, none), unkeyed)
	assert.Equal(t, fanout.Unknown, r.Outcome)
	assert.Equal(t, fanout.ClassOther, fanout.ClassOf(r.Err()))
}

func TestErrInvalid_OfADispatchWithinUserCodeIsNotTheOuterOnes(t *testing.T) {
	inner := newDispatcher(t)
	nested := func(ctx context.Context) error { _, err := inner.Dispatch(ctx, "x"); return err }
	auth := via("crm", answering(200))
	auth.Auth = fanout.AuthenticatorFunc(func(ctx context.Context, _ *http.Request) error { return nested(ctx) })
	panics := sending("crm", func(ctx context.Context, _ *fanout.Request) (*fanout.Response, error) { panic(nested(ctx)) })
	prepPanics := via("crm", answering(200))
	prepPanics.Prepare = func(ctx context.Context, _ *fanout.Request) error { panic(nested(ctx)) }
	for name, target := range map[string]fanout.Target{"auth": auth, "panic": panics, "prepare panics": prepPanics} {
		t.Run(name, func(t *testing.T) {
			results, err := newDispatcher(t, target, via("other", answering(200))).Dispatch(t.Context(), "hello")
			assert.Equal(t, fanout.Delivered, results["other"].Outcome)
			require.NotErrorIs(t, err, fanout.ErrInvalid)
			require.NotErrorAs(t, err, new(*fanout.RefusedError), "other was delivered to")
		})
	}
	t.Run("cause of the caller's context", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		target := sending("crm", func(context.Context, *fanout.Request) (*fanout.Response, error) {
			cancel(nested(t.Context()))
			return nil, errors.New("no")
		})
		_, err := newDispatcher(t, target, via("other", answering(200))).Dispatch(ctx, "hello")
		assert.NotErrorAs(t, err, new(*fanout.RefusedError))
	})
	t.Run("lookup", func(t *testing.T) {
		_, err := newWith(t, fanout.Config{Lookup: func(ctx context.Context, _ string) (fanout.Target, error) { return fanout.Target{}, nested(ctx) }}).
			Dispatch(t.Context(), "x", fanout.To("y"))
		assert.NotErrorIs(t, err, fanout.ErrInvalid, "a look-up that fails says nothing about the input")
	})
}

func TestErrAddressBlocked_OfADispatchWithinASenderIsNotTheOuterOnes(t *testing.T) {
	var charged atomic.Int32
	blocked := fanout.Target{Name: "hook", URL: "http://127.0.0.1:9/", Guard: &fanout.Guard{}}
	inner := newDispatcher(t, sending("charge", func(context.Context, *fanout.Request) (*fanout.Response, error) { charged.Add(1); return nil, nil }), blocked)
	outer := newDispatcher(t, sending("crm", func(ctx context.Context, _ *fanout.Request) (*fanout.Response, error) {
		_, err := inner.Dispatch(ctx, "x")
		return nil, err
	}))
	results, err := outer.Dispatch(t.Context(), "x")
	require.Error(t, err)
	assert.NotZero(t, charged.Load())
	assert.Equal(t, fanout.Unknown, results["crm"].Outcome, "it took effect in part")
}
