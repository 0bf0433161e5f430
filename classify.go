package fanout

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/fanout-go/fanout/internal/redact"
)

// verdict is what one attempt came to.
type verdict struct {
	reach     reach
	err       error         // nil if delivered
	retry     bool          // a further attempt could mend it
	throttled bool          // the target asked for less
	expired   bool          // it took the credentials for stale, and they can be renewed
	hint      time.Duration // its Retry-After
	vote      vote
}

// reach is how far an attempt got.
type reach uint8

const (
	unanswered reach = iota // it may have taken effect
	notSent                 // nothing can have reached the target
	refused                 // the target said no
	delivered
)

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

// Err is nil for a success (2xx, or no status at all) and a [*StatusError] for
// any other. A [Target.Classify] calls it for what it does not decide itself.
func (r *Response) Err() error {
	if r.StatusCode == 0 || r.StatusCode/100 == 2 {
		return nil
	}
	return &StatusError{StatusCode: r.StatusCode, RetryAfter: parseRetryAfter(r.Header.Get("Retry-After"), time.Now())}
}

// classifyAnswer judges an answer that was read whole.
func classifyAnswer(t *target, resp *Response) verdict {
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

// lone finds an error that is not one of several: in the joined errors of a
// dispatch, what is true of one target is not true of all.
func lone[T error](err error) (found T, ok bool) {
	for err != nil {
		if found, ok = err.(T); ok { //nolint:errorlint // it walks itself
			return found, true
		}
		inner, wraps := err.(interface{ Unwrap() error })
		if !wraps {
			break
		}
		err = inner.Unwrap()
	}
	return found, false
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

// classifyError judges an attempt that ended without an answer.
func classifyError(t *target, err error) verdict {
	err = redact.URL(err)
	var panicked *PanicError
	if errors.As(err, &panicked) || errors.Is(err, ErrGoexit) {
		return verdict{reach: unanswered, err: err}
	}
	if errors.Is(err, ErrAddressBlocked) {
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

// parseRetryAfter reads both forms of RFC 9110, section 10.2.3: seconds and an
// HTTP-date. What is neither, and what lies in the past, is zero.
func parseRetryAfter(value string, now time.Time) time.Duration {
	if value == "" {
		return 0
	}
	if isDigits(value) {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(maxDuration/time.Second) {
			return maxDuration
		}
		return time.Duration(seconds) * time.Second
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return max(0, date.Sub(now))
}

const maxDuration time.Duration = 1<<63 - 1

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
