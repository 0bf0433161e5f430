package fanout

import (
	"context"
	"net/http"
	"net/url"
	"slices"
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

// Answer is a [Sender] that sends nothing and always answers the same: the last
// of a target's fallbacks, such as a default or what is in a cache.
func Answer(r Response) Sender {
	return SenderFunc(func(context.Context, *Request) (*Response, error) {
		own := r
		own.Header, own.Body = r.Header.Clone(), slices.Clone(r.Body)
		return &own, nil
	})
}

// mark is an error with its reach and whether to retry, as the user's code knows it.
type mark struct {
	err   error
	reach reach
	retry bool
}

func (m *mark) Error() string { return m.err.Error() }
func (m *mark) Unwrap() error { return m.err }

// Refused marks a [Sender]'s or classifier's error as the target's own no: the
// outcome is [Failed] rather than [Unknown]. It may be retried.
func Refused(err error) error { return marked(err, refused, true) }

// Permanent marks an error as the target's own no that a retry cannot mend.
func Permanent(err error) error { return marked(err, refused, false) }

// NotSent marks an error that arose before anything can have reached the
// target: the outcome is [Failed], and a retry is always safe.
func NotSent(err error) error { return marked(err, notSent, true) }

func marked(err error, r reach, retry bool) error {
	if err == nil {
		return nil
	}
	return &mark{err, r, retry}
}

// Request is one attempt, as a [Sender], a [Target.Prepare], a [Signer] and hooks see it.
type Request struct {
	Target    string
	Key       string // the idempotency key, the same on all attempts; empty if the target takes none
	RequestID string // of this attempt
	Attempt   int    // from 1

	// Payload is what was dispatched: its IDs, its type, its value. It is shared by all
	// targets and must not be changed.
	Payload *Payload
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
