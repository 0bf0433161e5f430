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

// Authenticator adds credentials to an HTTP request. It is called for every
// attempt, within the attempt's timeout and after all other headers are set, so
// that tokens and signatures are fresh. It may change the header only. An error
// ends the delivery; nothing was sent.
type Authenticator interface {
	Authenticate(context.Context, *http.Request) error
}

// Refresher is an [Authenticator] whose credentials can be renewed, such as a
// token. If an attempt is answered with 401, Refresh is called before the next
// one, as part of it, and then Authenticate. That happens once in a delivery: a
// second 401 ends it. Deliveries do not wait for each other here: a Refresher
// that several need at once does best to renew once for all.
type Refresher interface {
	Authenticator
	Refresh(context.Context) error
}

// AuthenticatorFunc is a function that is an [Authenticator].
type AuthenticatorFunc func(context.Context, *http.Request) error

// Authenticate calls f.
func (f AuthenticatorFunc) Authenticate(ctx context.Context, r *http.Request) error { return f(ctx, r) }
