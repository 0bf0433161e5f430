package fanout

import (
	"crypto/tls"
	"io"
	"net"
	"reflect"

	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fanout-go/fanout/internal/panics"
	"github.com/fanout-go/fanout/internal/redact"
)

// Why a delivery ended without success. Every [TargetError] wraps one of these, the error
// of the caller's context, or a [*PanicError] or [ErrGoexit] of user code.
var (
	// ErrAttemptsExhausted: the last of [Retry.MaxAttempts] failed.
	ErrAttemptsExhausted = errors.New("given up")
	// ErrRetryBudget: the target's [Retry.Budget] is spent, so the target is
	// failing far more often than it succeeds.
	ErrRetryBudget = errors.New("retry budget exhausted")
	// ErrNotRetried: a retry would not help against the last failure.
	ErrNotRetried = errors.New("not retried")
	// ErrNotIdempotent: a retry could take effect twice. The request may have reached the
	// target, its method is not idempotent (RFC 9110, section 9.2.2), and it has no
	// idempotency key.
	ErrNotIdempotent = errors.New("not retried, neither idempotent nor keyed")
	// ErrNoTimeLeft: the next attempt would have started after the deadline. If the target
	// asked for a long pause, [StatusError.RetryAfter] has it.
	ErrNoTimeLeft = errors.New("no time left to retry")

	// ErrTimeout: [Policy.Timeout] ended the delivery. It matches
	// [context.DeadlineExceeded].
	ErrTimeout error = timeoutError("timeout")

	// ErrBreakerOpen: the target's circuit breaker is open, or it is half-open and all its
	// probes are running. The attempt was not sent.
	ErrBreakerOpen = errors.New("circuit breaker open")
	// ErrBulkheadFull: [Bulkhead.MaxConcurrent] attempts are running, and no place was free
	// within [Bulkhead.MaxWait], or too many attempts wait already. The attempt was not
	// sent.
	ErrBulkheadFull = errors.New("bulkhead full")
	// ErrRateLimited: the target's [RateLimit] allows no attempt within [RateLimit.MaxWait]
	// or the time that is left. The attempt was not sent.
	ErrRateLimited = errors.New("rate limited")
	// ErrFull: the queue has no room for what was submitted.
	ErrFull = errors.New("queue full")
	// ErrClosed: the [Dispatcher] was closed before the dispatch began or, if it was
	// submitted, before it ended. The outcome says whether anything was sent.
	ErrClosed = errors.New("dispatcher closed")
	// ErrPrepare: [Target.Prepare] failed, or made a request that cannot be sent. Nothing
	// was sent.
	ErrPrepare = errors.New("prepare failed")
	// ErrUnknownTarget: no target of this name is configured, and there is no
	// [Config.Lookup]. Another process may have such a target.
	ErrUnknownTarget = errors.New("no target of this name is configured")
	// ErrTargetGone: [Config.Lookup] returns it if no target of this name exists any more.
	ErrTargetGone = errors.New("there is no target of this name")
	// ErrLookup: [Config.Lookup] failed, for example because its database is down, or it
	// returned a definition that cannot be used. The payload is not at fault.
	ErrLookup = errors.New("look-up failed")
	// ErrAuth: the target's [Authenticator] or [Signer] failed. The attempt was not sent.
	ErrAuth = errors.New("authentication failed")
	// ErrNotNeeded: a [Quorum] was reached without this target. The outcome says whether
	// anything was sent.
	ErrNotNeeded = errors.New("not needed any more")
	// ErrUnderWay: a [QuorumLeaveRest] was reached without this target, which goes on.
	ErrUnderWay = errors.New("still under way")
	// ErrSkipped: a target in [Target.After] did not succeed, or the saga had failed.
	// Nothing was sent.
	ErrSkipped = errors.New("skipped")
	// ErrCompensated: what the target did was undone, because the saga failed.
	ErrCompensated = errors.New("compensated")
	// ErrCompensationFailed: the saga failed, and it is not certain that what the target did
	// was undone.
	ErrCompensationFailed = errors.New("compensation failed")
	// ErrInvalid: the configuration, a target or the payload cannot be used.
	// The [InvalidError] says which field.
	ErrInvalid = errors.New("invalid")
)

// What can be wrong with a dispatch although the calling code is right. An [InvalidError]
// wraps one of these. A server that takes payloads from others can choose its answer by
// them:
//
//	switch {
//	case errors.Is(err, fanout.ErrPayloadTooLarge): // 413: the sender's fault
//	case errors.Is(err, fanout.ErrNoTargets): // 503: the operator's fault
//	}
var (
	// ErrPayloadTooLarge: the encoded payload is longer than [Config.MaxPayloadBytes], or
	// than the queue allows.
	ErrPayloadTooLarge = errors.New("too large")
	// ErrPayloadRefused: [Config.Validate] or [Target.Validate] panicked or returned an
	// error, which is wrapped too.
	ErrPayloadRefused = errors.New("refused")
	// ErrIdempotencyKey: [Payload.Key] cannot be sent in a header.
	ErrIdempotencyKey = errors.New("must be 1 to 128 visible ASCII characters")
	// ErrNoTargets: no targets are configured, or the options of the call chose none.
	ErrNoTargets = errors.New("no targets")
)

// What went wrong in one attempt.
var (
	// ErrAttemptTimeout: there was no complete answer within [Policy.AttemptTimeout]. It
	// matches [context.DeadlineExceeded].
	ErrAttemptTimeout error = timeoutError("attempt timeout")
	// ErrAddressBlocked: the target's [Guard] blocked the address. The attempt was not sent.
	ErrAddressBlocked = errors.New("address blocked")
	// ErrCertificateRefused: the target denied our client certificate, or requires one, and
	// said so by a TLS alert. Under TLS 1.3 the alert comes after the request was sent, but
	// the target has not read the request then. See [TLS].
	ErrCertificateRefused = errors.New("client certificate refused")
	// ErrResponseTooLarge: the answer's body, decompressed, is longer than
	// [Policy.MaxResponseBytes].
	ErrResponseTooLarge = errors.New("response too large")
	// ErrGoexit: user code ended its goroutine with runtime.Goexit, as
	// testing.T.FailNow does.
	ErrGoexit = errors.New("user code called runtime.Goexit")
)

// timeoutError is a time limit of this package that has passed.
type timeoutError string

func (e timeoutError) Error() string { return string(e) }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Unwrap() error   { return context.DeadlineExceeded }

// InvalidError reports input that was refused before anything was sent. It matches
// [ErrInvalid].
type InvalidError struct {
	Where  string // file, line and column, if the field is in a file
	Target string // empty if the error is not about a target
	Field  string // path of the field, such as "Retry.MaxAttempts"
	Err    error
}

func (e *InvalidError) Error() string {
	var b strings.Builder
	b.WriteString("fanout: ")
	if e.Where != "" {
		b.WriteString(e.Where + ": ")
	}
	if e.Target != "" {
		fmt.Fprintf(&b, "target %q: ", e.Target)
	}
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	return b.String() + fmt.Sprint(e.Err)
}

// Unwrap returns [ErrInvalid] and the cause.
func (e *InvalidError) Unwrap() []error { return []error{ErrInvalid, e.Err} }

// RefusedError reports a dispatch that did not begin: nothing was sent or queued. It
// wraps the cause: one or several [*InvalidError], [ErrClosed], [ErrFull], [ErrLookup],
// or a queue's error.
type RefusedError struct{ Err error }

// Error returns the cause's text.
func (e *RefusedError) Error() string {
	if text := e.Err.Error(); strings.HasPrefix(text, "fanout: ") {
		return text
	}
	return "fanout: " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *RefusedError) Unwrap() error { return e.Err }

// StatusError is an HTTP answer that is not a success. It never holds the body.
type StatusError struct {
	StatusCode int
	// RetryAfter is the pause that the target asked for (RFC 9110, section 10.2.3); zero if
	// it asked for none.
	RetryAfter time.Duration
}

func (e *StatusError) Error() string {
	s := strings.TrimSpace(strconv.Itoa(e.StatusCode) + " " + http.StatusText(e.StatusCode))
	if e.RetryAfter > 0 {
		s += ", retry after " + e.RetryAfter.String()
	}
	return s
}

// PanicError is a panic in user code, such as a [Sender], a hook, a transport or a
// payload's MarshalJSON.
type PanicError struct {
	Value any
	Stack []byte // of the goroutine that panicked, as runtime/debug.Stack gives it
	Where string // the function and line of user code that panicked
}

// newPanicError must be called by the deferred function that recovered value.
func newPanicError(value any) *PanicError {
	return &PanicError{Value: value, Stack: debug.Stack(), Where: panics.Site()}
}

// Error returns the panic's value and place. The whole stack is in Stack.
func (e *PanicError) Error() string {
	value := e.Value
	if err, ok := value.(error); ok {
		value = redact.URL(err)
	}
	return fmt.Sprintf("panic: %v (%s)", value, e.Where)
}

// Unwrap returns the panic's value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// errorIn sets the target's name in every InvalidError in err.
func errorIn(name string, err error) error {
	return mapInvalid(err, func(e *InvalidError) { e.Target = name })
}

// mapInvalid returns err with change applied to copies of all its InvalidErrors.
func mapInvalid(err error, change func(*InvalidError)) error {
	switch e := err.(type) { //nolint:errorlint // the tree is rebuilt, node by node
	case *InvalidError:
		changed := *e
		change(&changed)
		return &changed
	case interface{ Unwrap() []error }:
		var all []error
		for _, inner := range e.Unwrap() {
			all = append(all, mapInvalid(inner, change))
		}
		return join(all...)
	}
	return err
}

// join is errors.Join, but returns a single error as it is.
func join(errs ...error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

func invalid(field, format string, args ...any) error {
	return &InvalidError{Field: field, Err: fmt.Errorf(format, args...)}
}

// notNegative refuses a negative value where it has no meaning.
func notNegative[T int | float64 | time.Duration](field string, v T) error {
	if v < 0 {
		return invalid(field, "%v is negative", v)
	}
	return nil
}

// longestDuration is the longest valid duration. With it, sums do not overflow.
const longestDuration = 365 * 24 * time.Hour

func notTooLong(field string, d time.Duration) error {
	if d > longestDuration {
		return invalid(field, "%v is more than a year", d)
	}
	return nil
}

func finite(field string, v float64) error {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return invalid(field, "%v is not a number to use", v)
	}
	return nil
}

// lone finds an error of type T in err and what it wraps, but not in joined errors: what
// is true of one target of a dispatch is not true of all.
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

// foreign hides from errors.Is and errors.As how far another dispatch got. For example,
// if a Sender returns a [*RefusedError] of its own dispatcher, our dispatch must not look
// refused.
func foreign(err error) error {
	if err == nil || (!errors.Is(err, ErrInvalid) && !has[progress](err)) {
		return err
	}
	return &foreignError{err}
}

// progress is an error that says how far a dispatch got.
type progress interface {
	error
	ofDispatch()
}

func (*RefusedError) ofDispatch() {}
func (*InvalidError) ofDispatch() {}

type foreignError struct{ err error }

func (e *foreignError) Error() string { return e.err.Error() }

// Is finds every error except ErrInvalid.
func (e *foreignError) Is(target error) bool {
	return target != ErrInvalid && errors.Is(e.err, target)
}

// As finds every type except those that say how far a dispatch got.
func (e *foreignError) As(target any) bool {
	wanted := reflect.TypeOf(target).Elem()
	return !wanted.Implements(reflect.TypeFor[progress]()) && errors.As(e.err, target)
}

// ours reports whether target is what happened in this dispatch. Of joined errors it
// follows only the first, which says what happened. The others say why, and may come from
// another dispatcher.
func ours(err, target error) bool {
	for err != nil {
		if err == target { //nolint:errorlint // step by step
			return true
		}
		switch e := err.(type) { //nolint:errorlint // step by step
		case *foreignError:
			err = e.err
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		case interface{ Unwrap() []error }:
			err = e.Unwrap()[0]
		default:
			return false
		}
	}
	return false
}

func isOurs(target error) func(error) bool {
	return func(err error) bool { return ours(err, target) }
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func has[T error](err error) bool {
	var found T
	return errors.As(err, &found)
}

// endOf returns why a delivery's context ended: [ErrTimeout], or the error of the
// caller's context with its cause.
func endOf(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	switch {
	case errors.Is(cause, ErrTimeout), errors.Is(err, cause):
		return cause
	default:
		return fmt.Errorf("%w: %w", err, foreign(cause))
	}
}

// Class is a short name for an error, for metrics, logs, and OpenTelemetry's error.type.
// It is one of the constants, or an HTTP status such as "503". So targets cannot add new
// classes. It is empty if there is no error.
type Class string

// The classes of errors. In addition, every HTTP status is a class.
const (
	ClassTimeout          Class = "timeout"
	ClassCanceled         Class = "canceled"
	ClassDNS              Class = "dns"
	ClassConnect          Class = "connect"
	ClassCertificate      Class = "certificate"
	ClassConnection       Class = "connection" // an open connection that broke
	ClassResponseTooLarge Class = "response_too_large"
	ClassPanic            Class = "panic"
	ClassGoexit           Class = "goexit"
	ClassBreakerOpen      Class = "breaker_open"
	ClassBulkheadFull     Class = "bulkhead_full"
	ClassRateLimited      Class = "rate_limited"
	ClassQueueFull        Class = "queue_full"
	ClassClosed           Class = "closed"
	ClassAddressBlocked   Class = "address_blocked"
	ClassAuth             Class = "auth"
	ClassPrepare          Class = "prepare"
	ClassInvalid          Class = "invalid"
	ClassUnknownTarget    Class = "unknown_target"
	ClassTargetGone       Class = "target_gone"
	ClassLookup           Class = "lookup"
	ClassSkipped          Class = "skipped"
	ClassCompensated      Class = "compensated"
	ClassNotNeeded        Class = "not_needed" // a quorum was reached without it
	ClassUnderWay         Class = "under_way"  // a quorum was reached without it, and it goes on
	ClassSeveral          Class = "several"    // targets failed for different reasons
	ClassOther            Class = "_OTHER"
)

// ClassOf returns the class of an error. For a [*TargetError] it is the class of the last
// attempt's error, if there was one. For a [*DispatchError] it is the class that all its
// failures share, or [ClassSeveral]. An error of another package can name its class by a
// method ErrorClass() Class, as the errors do that a durable queue reads from its
// database.
func ClassOf(err error) (class Class) {
	if err == nil {
		return ""
	}
	defer func() { // for example, an error may be a nil pointer
		if recover() != nil {
			class = ClassOther
		}
	}()
	if known, ok := lone[classified](err); ok {
		return known.ErrorClass()
	}
	if status, ok := lone[*StatusError](err); ok {
		if status.StatusCode < 100 || status.StatusCode > 599 { // so that a hostile target cannot add classes
			return ClassOther
		}
		return Class(strconv.Itoa(status.StatusCode))
	}
	for _, c := range errorClasses {
		if c.matches(err) {
			return c.class
		}
	}
	return ClassOther
}

// classified is an error that names its own class, such as a [*TargetError].
type classified interface {
	error
	ErrorClass() Class
}

// errorClasses are tried in this order. The most specific class comes first.
var errorClasses = []struct {
	class   Class
	matches func(error) bool
}{
	{ClassAuth, isOurs(ErrAuth)}, // which function failed is more specific than how
	{ClassPrepare, isOurs(ErrPrepare)},
	{ClassLookup, isOurs(ErrLookup)},
	{ClassPanic, has[*PanicError]},
	{ClassGoexit, is(ErrGoexit)},
	{ClassBreakerOpen, is(ErrBreakerOpen)},
	{ClassBulkheadFull, is(ErrBulkheadFull)},
	{ClassRateLimited, is(ErrRateLimited)},
	{ClassQueueFull, is(ErrFull)},
	{ClassTargetGone, is(ErrTargetGone)},
	{ClassUnknownTarget, is(ErrUnknownTarget)},
	{ClassInvalid, is(ErrInvalid)},
	{ClassSkipped, is(ErrSkipped)},
	{ClassCompensated, is(ErrCompensated)},
	{ClassNotNeeded, is(ErrNotNeeded)},
	{ClassUnderWay, is(ErrUnderWay)},
	{ClassClosed, is(ErrClosed)},
	{ClassAddressBlocked, is(ErrAddressBlocked)},
	{ClassResponseTooLarge, is(ErrResponseTooLarge)},
	{ClassCertificate, func(err error) bool {
		return has[*tls.CertificateVerificationError](err) || errors.Is(err, ErrCertificateRefused)
	}},
	{ClassDNS, has[*net.DNSError]},
	{ClassTimeout, isTimeout},
	{ClassCanceled, is(context.Canceled)},
	{ClassConnect, func(err error) bool {
		var op *net.OpError
		return errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect")
	}},
	{ClassConnection, func(err error) bool {
		return has[*net.OpError](err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
	}},
}

// isTimeout also recognizes time limits of the system, such as that of a dial.
func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || (errors.As(err, &timeout) && timeout.Timeout())
}
