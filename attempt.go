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

// trial is one attempt as a value: what was sent and what came of it, or why nothing
// was sent. It holds whatever user code does: a panic and a Goexit are trials too.
type trial struct {
	number   int       // of the attempt
	record   Attempt   // what the result tells of it
	unsent   error     // why nothing was sent; nil if something was
	verdict  verdict   // what it came to
	response *Response // nil if there was none
	exchange *exchange // its request
}

// begin says what is known as long as nothing more is.
func (tr *trial) begin(number int) { *tr = trial{number: number, unsent: ErrGoexit} }

// send says that from here on the attempt may take effect.
func (tr *trial) send(a Attempt, x *exchange) {
	*tr = trial{number: tr.number, record: a, exchange: x, verdict: verdict{reach: unanswered, err: ErrGoexit}}
}

// panicked says what user code did instead of returning.
func (tr *trial) panicked(p any) {
	if tr.unsent != nil {
		tr.unsent = newPanicError(p)
		return
	}
	tr.verdict = verdict{reach: unanswered, err: foreign(newPanicError(p))}
}

// delivers reports whether the target took it.
func (tr *trial) delivers() bool { return tr.unsent == nil && tr.verdict.reach == delivered }

// turn says which attempt is to be made.
type turn struct {
	number int
	kind   AttemptKind
	whole  context.Context // bounds it; nil is what bounds the delivery
}

// verdict is what one attempt came to.
type verdict struct {
	reach     reach
	err       error         // nil if delivered
	retry     bool          // a further attempt could mend it
	throttled bool          // the target asked for less
	expired   bool          // it took the credentials for stale, and they can be renewed
	renew     bool          // so they are: it is the first time
	hint      time.Duration // its Retry-After
	vote      vote
}

// judge says what an attempt came to, of which the target's answer and error are all
// that is known.
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

// judgeAnswer judges an answer that was read whole.
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
	case code == http.StatusBadGateway, code == http.StatusGatewayTimeout:
		// A gateway gave up on the target; whether the target acted it cannot know.
		v.reach = unanswered
	case code == http.StatusConflict && t.keyed():
		// An earlier attempt is being worked on; how it ends is not known.
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

// certificateAlerts are those of RFC 8446, section 6.2, that are about certificates.
var certificateAlerts = []uint64{42, 43, 44, 45, 46, 48, 49, 116}

// certificateRefused finds such an alert, by its number, since crypto/tls keeps its
// type to itself.
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

// connectVerdict knows the errors of a transport that never had a connection.
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

// clock is the deadlines of the deliveries in one dispatch that share their
// timeouts: one context for all the first attempts that start with the dispatch,
// because they did not have to queue, and one for the whole, made when a
// delivery first has to wait for something.
type clock struct {
	ctx                     context.Context // of the dispatch: its end is the caller's doing
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
	if c.attemptTimeout < 0 || (c.timeout > 0 && c.timeout <= c.attemptTimeout) { // the whole delivery's serves
		c.first, c.cancelFirst = c.total(), func() {}
	} else {
		c.first, c.cancelFirst = withTimeout(ctx, c.attemptTimeout, ErrAttemptTimeout)
	}
	return c
}

// total bounds a whole delivery.
func (c *clock) total() context.Context {
	c.makeWhole.Do(func() {
		c.whole, c.cancelWhole = c.ctx, func() {}
		if c.timeout > 0 {
			c.whole, c.cancelWhole = context.WithDeadlineCause(c.ctx, c.started.Add(c.timeout), ErrTimeout)
		}
	})
	return c.whole
}

// late reports whether a delivery has queued for its goroutine, or for what its
// Prepare did, so that it has no share in the first attempts' context.
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
