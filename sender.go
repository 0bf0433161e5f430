package fanout

import (
	"context"
	"net/http"
	"net/url"
)

// Sender carries a payload to a target that is not a URL: a gRPC client, an
// SDK, SMTP, a broker. It is called once per attempt, concurrently for different
// dispatches, and behind the same policies as an HTTP target.
//
// Send must return when its context ends: the context carries the attempt's
// deadline, and Dispatch waits for Send. A nil error means delivered, unless the
// response has a status that says otherwise. An error may be retried and, since
// nothing tells whether it came before or after the effect, ends in [Unknown];
// say more with [Refused], [Permanent], [NotSent] or a [*StatusError].
type Sender interface {
	Send(context.Context, *Request) (*Response, error)
}

// SenderFunc is a function that is a [Sender].
type SenderFunc func(context.Context, *Request) (*Response, error)

// Send calls f.
func (f SenderFunc) Send(ctx context.Context, r *Request) (*Response, error) { return f(ctx, r) }

// Request is what one attempt sends.
type Request struct {
	Target         string
	DispatchID     string
	CorrelationID  string
	IdempotencyKey string // the same on all attempts; empty if the target takes none
	RequestID      string // of this attempt
	Attempt        int    // from 1

	// Payload is the value given to Dispatch, nil if that was bytes. It is
	// shared by all targets and must not be changed.
	Payload any
	// Method and URL are those of an HTTP target; URL is nil for a [Sender].
	Method string
	URL    *url.URL
	// Header is the payload's. A [Target.Prepare] may add to it; HTTP targets
	// send it over [Target.Header].
	Header http.Header
	// ContentType describes Body. Body is shared by all attempts and targets: it
	// may be replaced by a Prepare, and must not be written to.
	ContentType string
	Body        []byte

	// Earlier has the results of the targets in [Target.After] and, for a
	// compensation, that of the target to undo. They must not be changed.
	Earlier Results
}

// Authenticator adds credentials to an HTTP request. Package auth has those that are
// common. It is called for every attempt, within the attempt's timeout and after all
// other headers are set, so that tokens are fresh. It may change the header only. An
// error ends the delivery with [ErrAuth]; nothing was sent.
//
// An Authenticator may have further abilities. They are looked for in the Authenticator
// itself and, if it wraps another one and has a method Unwrap() Authenticator, in what
// that returns, and so on.
//
//   - [Refresher]: its credentials can be renewed.
//   - Check() error: [New] calls it, and refuses the target if it returns an error.
//     An error is for what can never work, for example an empty name of a header.
//
// If the credentials cannot be had now but may be had soon, for example because a
// token endpoint is down, let the error have a method TryLater() bool that returns true.
// A delivery taken by [Dispatcher.Submit], and a compensation, then wait and try again,
// as they do for an open breaker.
type Authenticator interface {
	Authenticate(context.Context, *http.Request) error
}

// Refresher is an [Authenticator] whose credentials can be renewed, such as a
// token. If an attempt is answered with 401, Refresh is called before the next
// one, as part of it, and then Authenticate. That happens once in a delivery: a
// second 401 ends it. Deliveries do not wait for each other here: a Refresher
// that several need at once should renew once for all of them.
//
// The request is the one that was answered with 401. Its header has the credentials that
// were refused, so that a Refresher sees whether they are still the latest. It must not be
// changed, and its body has been sent. An error of Refresh ends the delivery as one of
// Authenticate does.
type Refresher interface {
	Authenticator
	Refresh(ctx context.Context, refused *http.Request) error
}

// AuthenticatorFunc is a function that is an [Authenticator].
type AuthenticatorFunc func(context.Context, *http.Request) error

// Authenticate calls f.
func (f AuthenticatorFunc) Authenticate(ctx context.Context, r *http.Request) error { return f(ctx, r) }

// Signer signs each attempt at an HTTP target, after [Target.Auth], so that the
// target can tell who sent it. Package webhook has one.
//
// Unlike elsewhere, the request's Header is the whole header as it is about to be
// sent, credentials included; its Body is the body as it is sent, empty for GET and HEAD.
// The Header is the signer's own copy, and what the signer adds to it is sent; other
// changes to the request have no effect. An error ends the delivery with [ErrAuth].
//
// A Signer may have a method Check() error, as an [Authenticator] may. It is looked for
// in what the method Unwrap() Signer returns, too.
type Signer interface {
	Sign(context.Context, *Request) error
}

// SignerFunc is a function that is a [Signer].
type SignerFunc func(context.Context, *Request) error

// Sign calls f.
func (f SignerFunc) Sign(ctx context.Context, r *Request) error { return f(ctx, r) }

// checker is an [Authenticator] or [Signer] that can be found useless before it is used.
type checker interface{ Check() error }

// ability finds an optional ability of part, which is an [Authenticator] or a [Signer],
// or of what part wraps.
func ability[Ability, Part any](part Part) (Ability, bool) {
	for {
		if able, ok := any(part).(Ability); ok {
			return able, true
		}
		wrapper, ok := any(part).(interface{ Unwrap() Part })
		if !ok {
			var none Ability
			return none, false
		}
		part = wrapper.Unwrap()
	}
}
