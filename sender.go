package fanout

import (
	"context"
	"net/http"
	"net/url"
	"slices"
)

// Sender delivers a payload to a target that is not a URL, for example by a gRPC client,
// an SDK, SMTP or a message broker. It has the same policies as an HTTP target. Send is
// called once per attempt, and from several goroutines.
//
// Send must return when its context ends, because Dispatch waits for it. The context has
// the deadline of the attempt. A nil error means delivered, unless the response has a
// status that is not a success, or [Target.Classify] returns an error. After any other
// error the target may have acted: the attempt may be retried, and the outcome is
// [Unknown]. If you know more, return an error of [Refused], [Permanent] or [NotSent], or
// a [*StatusError].
type Sender interface {
	Send(context.Context, *Request) (*Response, error)
}

// SenderFunc is a function that is a [Sender].
type SenderFunc func(context.Context, *Request) (*Response, error)

// Send calls f.
func (f SenderFunc) Send(ctx context.Context, r *Request) (*Response, error) { return f(ctx, r) }

// Answer returns a [Sender] that sends nothing and always gives the same answer. It can
// be the last of a target's fallbacks, with a default or a cached value. Each answer is a
// copy.
func Answer(r Response) Sender {
	return SenderFunc(func(context.Context, *Request) (*Response, error) {
		own := r
		own.Header, own.Body = r.Header.Clone(), slices.Clone(r.Body)
		return &own, nil
	})
}

// mark is an error whose reach and retry the user's code has set.
type mark struct {
	err   error
	reach reach
	retry bool
}

func (m *mark) Error() string { return m.err.Error() }
func (m *mark) Unwrap() error { return m.err }

// Refused marks an error of a [Sender] or a [Target.Classify] as a denial by the target.
// The outcome is then [Failed] and not [Unknown]. The attempt may be retried. A nil err
// gives nil.
func Refused(err error) error { return marked(err, refused, true) }

// Permanent marks an error as a denial by the target that is not retried. A nil err gives
// nil.
func Permanent(err error) error { return marked(err, refused, false) }

// NotSent marks an error that happened before anything can have reached the target. The
// outcome is then [Failed], and a retry is always safe. A nil err gives nil.
func NotSent(err error) error { return marked(err, notSent, true) }

func marked(err error, r reach, retry bool) error {
	if err == nil {
		return nil
	}
	return &mark{err, r, retry}
}

// Request is one attempt. A [Sender], a [Target.Prepare], a [Signer] and hooks get it.
type Request struct {
	Target    string
	Key       string // the idempotency key, the same on all attempts; empty if the target takes none
	RequestID string // different for each attempt
	Attempt   int    // 1 for the first attempt

	// Payload is what was dispatched. All targets share it, and it must not be changed.
	Payload *Payload
	// Method and URL are those of an HTTP target. For a [Sender], URL is nil.
	Method string
	URL    *url.URL
	// Header is the payload's. A [Target.Prepare] may add to it. For an HTTP target it
	// replaces fields of the same name in [Target.Header].
	Header http.Header
	// ContentType describes Body. All attempts and targets share the bytes of Body: a
	// Prepare may set another Body, but nobody may write to this one.
	ContentType string
	Body        []byte

	// Earlier has the results of the targets in [Target.After]. For a compensation it also
	// has the result to undo. They must not be changed.
	Earlier Results
}

// Authenticator adds credentials to an HTTP request. Package auth has the common kinds.
// It is called for every attempt, within the attempt's timeout and after all other
// headers are set, so that tokens are fresh. It may change only the header. If it returns
// an error, the attempt is not sent, and the delivery ends with [ErrAuth].
//
// An Authenticator may have the abilities below. If it wraps another one and has a method
// Unwrap() Authenticator, the abilities of that one are found too, and so on.
//
//   - [Refresher]: its credentials can be renewed.
//   - Check() error: [New] calls it, and refuses the target if it returns an error. An
//     error is for what can never work, for example an empty name of a header.
//
// Sometimes credentials cannot be had now but may be had soon, for example because a
// token endpoint is down. Let the error then have a method TryLater() bool that returns
// true. A delivery in the queue in memory, and a compensation, then wait and try again,
// as they do for an open breaker.
type Authenticator interface {
	Authenticate(context.Context, *http.Request) error
}

// Refresher is an [Authenticator] whose credentials can be renewed, such as a token.
// After an answer with 401, the next attempt calls Refresh and then Authenticate. That
// happens once in a delivery: a second 401 ends it. Several deliveries may call Refresh
// at the same time; let the first call renew for all of them.
//
// The request is the one that got the 401. Its header has the credentials that the target
// denied, so that Refresh can see whether newer ones exist already. It must not be
// changed, and its body was sent. If Refresh returns an error, the delivery ends with
// [ErrAuth].
type Refresher interface {
	Authenticator
	Refresh(ctx context.Context, refused *http.Request) error
}

// AuthenticatorFunc is a function that is an [Authenticator].
type AuthenticatorFunc func(context.Context, *http.Request) error

// Authenticate calls f.
func (f AuthenticatorFunc) Authenticate(ctx context.Context, r *http.Request) error { return f(ctx, r) }

// Signer signs each attempt to an HTTP target, after [Target.Auth], so that the target
// can verify who sent it. Package webhook has one.
//
// The request differs from those that others get. Its Header is the whole header that is
// about to be sent, credentials included. Its Body is the body that is sent, empty for
// GET and HEAD. The Header is the signer's own copy, and its changes are sent; other
// changes to the request have no effect. If Sign returns an error, the delivery ends with
// [ErrAuth].
//
// A Signer may have a method Check() error, as an [Authenticator] may, and a method
// Unwrap() Signer that returns the one it wraps.
type Signer interface {
	Sign(context.Context, *Request) error
}

// SignerFunc is a function that is a [Signer].
type SignerFunc func(context.Context, *Request) error

// Sign calls f.
func (f SignerFunc) Sign(ctx context.Context, r *Request) error { return f(ctx, r) }

// checker is an [Authenticator] or [Signer] that can report an error before it is used.
type checker interface{ Check() error }
