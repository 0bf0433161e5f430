package fanout

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/fanout-go/fanout/internal/redact"
)

// trial is what happened in one attempt: what was sent and how it ended, or why nothing
// was sent. It is set even if user code panics or calls Goexit.
type trial struct {
	number   int       // number of the attempt
	record   Attempt   // goes into [Result.Attempts]
	unsent   error     // why nothing was sent; nil if something was
	verdict  verdict   // how it ended, if it was sent
	response *Response // nil if there was none
	exchange *exchange // its request, if it was sent
}

// begin sets what is true if user code calls Goexit before anything is sent.
func (tr *trial) begin(number int) { *tr = trial{number: number, unsent: ErrGoexit} }

// send notes that from now on the attempt may take effect. If user code calls Goexit
// after this, nobody knows whether it has.
func (tr *trial) send(a Attempt, x *exchange) {
	*tr = trial{number: tr.number, record: a, exchange: x, verdict: verdict{reach: unanswered, err: ErrGoexit}}
}

// panicked notes that user code panicked.
func (tr *trial) panicked(p any) {
	if tr.unsent != nil {
		tr.unsent = newPanicError(p)
		return
	}
	tr.verdict = verdict{reach: unanswered, err: foreign(newPanicError(p))}
}

// delivers reports whether the target accepted the payload.
func (tr *trial) delivers() bool { return tr.unsent == nil && tr.verdict.reach == delivered }

// turn says which attempt to make.
type turn struct {
	number int
	kind   AttemptKind
	whole  context.Context // limits the attempt; nil means the clock's
}

// verdict says how one attempt ended, and what follows from that.
type verdict struct {
	reach     reach
	err       error         // nil if delivered
	retry     bool          // another attempt could succeed
	throttled bool          // the target asked for fewer requests
	expired   bool          // it denied the credentials, and they can be renewed
	renew     bool          // they are renewed now: it is the first time
	hint      time.Duration // its Retry-After
	vote      vote
}

// judge returns the verdict on an answer and an error.
func judge(t *target, response *Response, err error) verdict {
	var v verdict
	if err != nil {
		v = judgeError(t, err)
	} else {
		v = judgeAnswer(t, response)
	}
	v.err = foreign(v.err)
	return v
}

// judgeAnswer judges an attempt that ended without an error.
func judgeAnswer(t *target, resp *Response) verdict {
	err := answerError(t, resp)
	if err == nil {
		return verdict{reach: delivered, vote: healthy}
	}
	if m, ok := lone[*mark](err); ok {
		return markVerdict(m, err)
	}
	if status, ok := lone[*StatusError](err); ok {
		return statusVerdict(t, status, err)
	}
	return verdict{reach: refused, err: err, retry: true, vote: unhealthy}
}

func answerError(t *target, resp *Response) error {
	switch {
	case resp == nil:
		return nil
	case t.Classify != nil && !resp.incomplete:
		return t.Classify(resp)
	}
	return resp.Err()
}

func markVerdict(m *mark, err error) verdict {
	v := verdict{reach: m.reach, err: err, retry: m.retry, vote: unhealthy}
	if !m.retry {
		v.vote = healthy
	}
	return v
}

func statusVerdict(t *target, status *StatusError, err error) verdict {
	code := status.StatusCode
	v := verdict{reach: refused, err: err, retry: slices.Contains(t.policy.Retry.Statuses, code), hint: status.RetryAfter, vote: healthy}
	switch {
	case slices.Contains(gatewayStatuses, code):
		v.reach = unanswered
	case code == http.StatusConflict && t.keyed():
		// The target still works on an earlier attempt. Nobody knows yet how that one ends.
		v.retry, v.reach = t.conflicts, unanswered
	case code == http.StatusUnauthorized && t.refreshable():
		v.retry, v.expired = true, true
		return v
	case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
		v.throttled = true
	}
	if code != http.StatusConflict && (v.retry || code >= 500) {
		v.vote = unhealthy
	}
	return v
}

// judgeError judges an attempt that ended without an answer.
func judgeError(t *target, err error) verdict {
	err = redact.URL(err)
	var panicked *PanicError
	if errors.As(err, &panicked) || errors.Is(err, ErrGoexit) {
		return verdict{reach: unanswered, err: err}
	}
	if ours(err, ErrAddressBlocked) {
		return verdict{reach: notSent, err: err}
	}
	if t.endpoint != nil {
		if said := certificateRefused(err); said != nil {
			return verdict{reach: refused, err: said, vote: unhealthy}
		}
		if v, ok := connectVerdict(err); ok {
			return v
		}
	}
	if m, ok := lone[*mark](err); ok {
		return markVerdict(m, err)
	}
	if status, ok := lone[*StatusError](err); ok {
		return statusVerdict(t, status, err)
	}
	return verdict{reach: unanswered, err: err, retry: !errors.Is(err, ErrResponseTooLarge), vote: unhealthy}
}

// certificateAlerts are the TLS alerts about certificates (RFC 8446, section 6.2).
var certificateAlerts = []uint64{42, 43, 44, 45, 46, 48, 49, 116}

// certificateRefused finds such an alert by its number, because crypto/tls does not
// export its type.
func certificateRefused(err error) error {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return nil
	}
	alert := reflect.ValueOf(op.Err)
	if alert.Kind() != reflect.Uint8 || !slices.Contains(certificateAlerts, alert.Uint()) {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrCertificateRefused, op)
}

// connectVerdict recognizes the errors of a transport that could not connect.
func connectVerdict(err error) (verdict, bool) {
	var (
		certificate *tls.CertificateVerificationError
		dns         *net.DNSError
		op          *net.OpError
	)
	switch {
	case errors.As(err, &certificate):
		return verdict{reach: notSent, err: err, vote: unhealthy}, true
	case errors.As(err, &dns), errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect"):
		return verdict{reach: notSent, err: err, retry: true, vote: unhealthy}, true
	}
	return verdict{}, false
}

// clock holds the deadlines of the deliveries in one dispatch that have the same
// timeouts. The first attempts that start with the dispatch, because they need not wait,
// share the context first. The context of the whole delivery is made only when one of
// them has to wait.
type clock struct {
	ctx                     context.Context // of the dispatch: its end says nothing about a target
	started                 time.Time
	timeout, attemptTimeout time.Duration
	first                   context.Context
	cancelFirst             context.CancelFunc
	makeWhole               sync.Once
	whole                   context.Context
	cancelWhole             context.CancelFunc
	next                    *clock
}

func startClock(ctx context.Context, t *target) *clock {
	c := &clock{ctx: ctx, started: time.Now(), timeout: t.policy.Timeout, attemptTimeout: t.policy.AttemptTimeout}
	if c.attemptTimeout < 0 || (c.timeout > 0 && c.timeout <= c.attemptTimeout) { // the whole delivery ends earlier
		c.first, c.cancelFirst = c.total(), func() {}
	} else {
		c.first, c.cancelFirst = withTimeout(ctx, c.attemptTimeout, ErrAttemptTimeout)
	}
	return c
}

// total returns the context that limits a whole delivery.
func (c *clock) total() context.Context {
	c.makeWhole.Do(func() {
		c.whole, c.cancelWhole = c.ctx, func() {}
		if c.timeout > 0 {
			c.whole, c.cancelWhole = context.WithDeadlineCause(c.ctx, c.started.Add(c.timeout), ErrTimeout)
		}
	})
	return c.whole
}

// late reports whether a delivery begins so late that it must not use the first attempts'
// context. For example, with an attempt timeout of 10 s that is after 1 s.
func (c *clock) late(now time.Time) bool {
	return c.attemptTimeout > 0 && now.Sub(c.started) > c.attemptTimeout/10
}

func (c *clock) fits(t *target) bool {
	return c.timeout == t.policy.Timeout && c.attemptTimeout == t.policy.AttemptTimeout
}

func (c *clock) stop() {
	c.cancelFirst()
	if c.cancelWhole != nil {
		c.cancelWhole()
	}
}

func withTimeout(ctx context.Context, timeout time.Duration, cause error) (context.Context, context.CancelFunc) {
	if timeout < 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, timeout, cause)
}
