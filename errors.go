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

// Why a delivery ended without success. Every [TargetError] wraps one of
// these or, when the caller's context or the total timeout ended it, the
// context's error.
var (
	// ErrAttemptsExhausted: the last of [Retry.MaxAttempts] failed.
	ErrAttemptsExhausted = errors.New("given up")
	// ErrRetryBudget: the target's [Retry.Budget] is spent, so the target is
	// failing far more often than it succeeds.
	ErrRetryBudget = errors.New("retry budget exhausted")
	// ErrNotRetried: the last failure is one that a retry cannot mend.
	ErrNotRetried = errors.New("not retried")
	// ErrNotIdempotent: the request may have reached the target, its method is
	// not idempotent (RFC 9110, section 9.2.2) and it carries no idempotency key.
	ErrNotIdempotent = errors.New("not retried, neither idempotent nor keyed")
	// ErrNoTimeLeft: the next attempt would have started after the deadline.
	// A Retry-After that was too long is in [StatusError.RetryAfter].
	ErrNoTimeLeft = errors.New("no time left to retry")

	// ErrTimeout: [Policy.Timeout] ended the delivery. It matches
	// [context.DeadlineExceeded].
	ErrTimeout error = timeoutError("timeout")

	// ErrBreakerOpen: the target's circuit breaker is open, or half-open with
	// all its probes under way. Nothing was sent.
	ErrBreakerOpen = errors.New("circuit breaker open")
	// ErrBulkheadFull: [Bulkhead.MaxConcurrent] attempts are under way and the
	// queue behind them is full or did not move within [Bulkhead.MaxWait].
	ErrBulkheadFull = errors.New("bulkhead full")
	// ErrRateLimited: the target's [RateLimit] allows no attempt within
	// [RateLimit.MaxWait] or the time that is left.
	ErrRateLimited = errors.New("rate limited")
	// ErrFull: the queue has no room for what was submitted.
	ErrFull = errors.New("queue full")
	// ErrClosed: the [Dispatcher] was closed before the dispatch began or, if it
	// was submitted, before it ended: the outcome tells whether anything was sent.
	ErrClosed = errors.New("dispatcher closed")
	// ErrPrepare: the target's [Target.Prepare] failed, or made a request that cannot be
	// sent. Nothing was sent.
	ErrPrepare = errors.New("prepare failed")
	// ErrUnknownTarget: no target of this name is configured, and there is no
	// [Config.Lookup]. Another process may know it.
	ErrUnknownTarget = errors.New("no target of this name is configured")
	// ErrTargetGone is what a [Config.Lookup] returns if there is no target of this name,
	// or not any more.
	ErrTargetGone = errors.New("there is no target of this name")
	// ErrLookup: [Config.Lookup] failed, as its database is down, or found a definition
	// that cannot be used. It says nothing about the payload.
	ErrLookup = errors.New("look-up failed")
	// ErrAuth: the target's [Authenticator] or [Signer] failed. Nothing was sent.
	ErrAuth = errors.New("authentication failed")
	// ErrNotNeeded: by [Quorum], others had succeeded. It may have been sent: the
	// outcome tells.
	ErrNotNeeded = errors.New("not needed any more")
	// ErrUnderWay: by [QuorumLeaveRest], others had succeeded, and this goes on.
	ErrUnderWay = errors.New("still under way")
	// ErrSkipped: a target that this one comes after did not succeed, or the saga
	// had failed. Nothing was sent.
	ErrSkipped = errors.New("skipped")
	// ErrCompensated: what the target did was undone, because the saga failed.
	ErrCompensated = errors.New("compensated")
	// ErrCompensationFailed: what the target did, or may have done, was to be undone,
	// and was not, or nobody knows.
	ErrCompensationFailed = errors.New("compensation failed")
	// ErrInvalid: the configuration, a target or the payload cannot be used.
	// The [InvalidError] says which field.
	ErrInvalid = errors.New("invalid")
)

// What can be wrong with a dispatch though its configuration and the code that calls it
// are right. An [InvalidError] wraps one of these, so that whoever takes payloads from
// others can tell whose fault it is:
//
//	switch {
//	case errors.Is(err, fanout.ErrPayloadTooLarge): // 413: the sender's
//	case errors.Is(err, fanout.ErrNoTargets): // 503: the operator's
//	}
var (
	// ErrPayloadTooLarge: the payload, as it is sent, has more than
	// [Config.MaxPayloadBytes], or more than the queue takes.
	ErrPayloadTooLarge = errors.New("too large")
	// ErrPayloadRefused: [Config.Validate] or [Target.Validate] returned an error,
	// which is wrapped too, or panicked.
	ErrPayloadRefused = errors.New("refused")
	// ErrIdempotencyKey: [Payload.Key] cannot be sent in a header.
	ErrIdempotencyKey = errors.New("must be 1 to 128 visible ASCII characters")
	// ErrNoTargets: no targets are configured, or the options of the call chose none.
	ErrNoTargets = errors.New("no targets")
)

// What went wrong in one attempt.
var (
	// ErrAttemptTimeout: no complete answer within [Policy.AttemptTimeout]. It
	// matches [context.DeadlineExceeded].
	ErrAttemptTimeout error = timeoutError("attempt timeout")
	// ErrAddressBlocked: the target's [Guard] blocked the address. Nothing was sent.
	ErrAddressBlocked = errors.New("address blocked")
	// ErrCertificateRefused: the target did not take our client certificate, or wants
	// one, and says so by a TLS alert. Under TLS 1.3 it does so when the request is out,
	// which it then does not read. See [TLS].
	ErrCertificateRefused = errors.New("client certificate refused")
	// ErrResponseTooLarge: the answer, decompressed, exceeds
	// [Policy.MaxResponseBytes].
	ErrResponseTooLarge = errors.New("response too large")
	// ErrGoexit: user code ended its goroutine with runtime.Goexit, as
	// testing.T.FailNow does.
	ErrGoexit = errors.New("user code called runtime.Goexit")
)

// timeoutError is the end of a time limit of ours.
type timeoutError string

func (e timeoutError) Error() string { return string(e) }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Unwrap() error   { return context.DeadlineExceeded }

// InvalidError reports input that was refused before anything was sent.
// It matches [ErrInvalid].
type InvalidError struct {
	Where  string // file, line and column, if it stands in a file
	Target string // empty if the fault is not in a target
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

// RefusedError reports a dispatch that was not begun: nothing was sent, and nothing was
// queued. It wraps the cause: one or several [*InvalidError], [ErrClosed], [ErrFull],
// [ErrLookup], or what a queue could not do.
type RefusedError struct{ Err error }

// Error is the cause's.
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
	// RetryAfter is how long the target asked to be left alone
	// (RFC 9110, section 10.2.3); zero if it did not say.
	RetryAfter time.Duration
}

func (e *StatusError) Error() string {
	s := strings.TrimSpace(strconv.Itoa(e.StatusCode) + " " + http.StatusText(e.StatusCode))
	if e.RetryAfter > 0 {
		s += ", retry after " + e.RetryAfter.String()
	}
	return s
}

// PanicError is a panic in user code: a [Sender], a hook, a transport or a
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

// Error gives the panic's value and place; the whole stack is in Stack.
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

// errorIn names the target in every InvalidError that err holds.
func errorIn(name string, err error) error {
	return mapInvalid(err, func(e *InvalidError) { e.Target = name })
}

// mapInvalid returns err with change made to copies of all its InvalidErrors.
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

// join is errors.Join, but leaves a single error as it is.
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

// longestDuration bounds what is not negative, so that sums do not overflow.
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

// foreign keeps an error of user code from being taken for one of this dispatch: user code
// may use a dispatcher of its own, whose errors say how far that one got.
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

// Is finds all but ErrInvalid.
func (e *foreignError) Is(target error) bool {
	return target != ErrInvalid && errors.Is(e.err, target)
}

// As finds all but what says how far a dispatch got.
func (e *foreignError) As(target any) bool {
	wanted := reflect.TypeOf(target).Elem()
	return !wanted.Implements(reflect.TypeFor[progress]()) && errors.As(e.err, target)
}

// ours finds what an error of this dispatch is. Of errors that are joined, the first says
// what it is; the others, which say why, may be those of another dispatcher.
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

// endOf says why a delivery's context ended: [ErrTimeout], or the caller's own
// doing, with its cause if it gave one.
func endOf(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	switch {
	case errors.Is(cause, ErrTimeout), errors.Is(err, cause):
		return cause
	default:
		return fmt.Errorf("%w: %w", err, foreign(cause))
	}
}

// Class is a short name for what went wrong. It is used in metrics, in logs, and as
// OpenTelemetry's error.type. It is one of the constants or an HTTP status such as "503",
// so that a target cannot invent classes. It is empty if there is no error.
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
	ClassUnderWay         Class = "under_way"  // a quorum was reached, and it goes on
	ClassSeveral          Class = "several"    // targets failed for different reasons
	ClassOther            Class = "_OTHER"
)

// ClassOf returns the class of an error. For a [*TargetError] it is the class of what the
// last attempt met, if there was one. For a [*DispatchError] it is the class that all its
// failures share, or [ClassSeveral]. An error of another package can name its class by a
// method ErrorClass() Class. For example, the errors that a durable queue has stored and
// read again do that.
func ClassOf(err error) (class Class) {
	if err == nil {
		return ""
	}
	defer func() { // such as a nil pointer in an error that is not nil
		if recover() != nil {
			class = ClassOther
		}
	}()
	if known, ok := lone[classified](err); ok {
		return known.ErrorClass()
	}
	if status, ok := lone[*StatusError](err); ok {
		if status.StatusCode < 100 || status.StatusCode > 599 { // a hostile target invents no classes
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

// classified is an error that names its class itself, such as a [*TargetError].
type classified interface {
	error
	ErrorClass() Class
}

// errorClasses are tried in this order. The most specific class comes first.
var errorClasses = []struct {
	class   Class
	matches func(error) bool
}{
	{ClassAuth, isOurs(ErrAuth)}, // what user code met comes after what called it
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
