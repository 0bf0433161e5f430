package fanout

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strconv"
)

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
func ClassOf(err error) Class {
	if err == nil {
		return ""
	}
	if known, ok := lone[classified](err); ok {
		return known.ErrorClass()
	}
	if status, ok := lone[*StatusError](err); ok {
		return statusClass(status.StatusCode)
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

// statusClass prevents a hostile target from inventing classes.
func statusClass(code int) Class {
	if code < 100 || code > 599 {
		return ClassOther
	}
	return Class(strconv.Itoa(code))
}

// errorClasses are tried in this order. The most specific class comes first.
var errorClasses = []struct {
	class   Class
	matches func(error) bool
}{
	{ClassPanic, has[*PanicError]},
	{ClassGoexit, is(ErrGoexit)},
	{ClassBreakerOpen, is(ErrBreakerOpen)},
	{ClassBulkheadFull, is(ErrBulkheadFull)},
	{ClassRateLimited, is(ErrRateLimited)},
	{ClassQueueFull, is(ErrFull)},
	{ClassAuth, is(ErrAuth)},
	{ClassPrepare, is(ErrPrepare)},
	{ClassLookup, is(ErrLookup)},
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
