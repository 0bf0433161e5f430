package fanout

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strconv"
)

// ErrorClass is a short name for what went wrong, for metrics, logs and error.type
// of OpenTelemetry: one of a small set, and nothing a target can make up. It is
// the HTTP status, such as "503", or one of
//
//	timeout, canceled, dns, connect, certificate, connection, response_too_large,
//	panic, goexit, breaker_open, bulkhead_full, rate_limited, queue_full, closed,
//	address_blocked, auth, invalid, skipped, compensated
//
// and "_OTHER" for the rest; it is empty for nil. Of a [*TargetError] it names what
// the last attempt met, if there was one. An error that a queue has kept, and has read
// again, names its class by a method ErrorClass() string.
func ErrorClass(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := lone[*TargetError](err); ok {
		return e.class()
	}
	if status, ok := lone[*StatusError](err); ok {
		return statusClass(status.StatusCode)
	}
	if kept, ok := lone[keptError](err); ok {
		return kept.ErrorClass()
	}
	for _, c := range errorClasses {
		if c.matches(err) {
			return c.name
		}
	}
	return otherClass
}

type keptError interface {
	error
	ErrorClass() string
}

const otherClass, canceledClass = "_OTHER", "canceled"

func (e *TargetError) class() string {
	last := ErrorClass(e.Err)
	if last == "" || (last == canceledClass && errors.Is(e.Reason, ErrTimeout)) {
		return ErrorClass(e.Reason)
	}
	return last
}

// statusClass keeps a hostile target from making up classes.
func statusClass(code int) string {
	if code < 100 || code > 599 {
		return otherClass
	}
	return strconv.Itoa(code)
}

// errorClasses are tried in this order: what says most comes first.
var errorClasses = []struct {
	name    string
	matches func(error) bool
}{
	{"panic", has[*PanicError]},
	{"goexit", is(ErrGoexit)},
	{"breaker_open", is(ErrBreakerOpen)},
	{"bulkhead_full", is(ErrBulkheadFull)},
	{"rate_limited", is(ErrRateLimited)},
	{"queue_full", is(ErrFull)},
	{"auth", is(ErrAuth)},
	{"invalid", is(ErrInvalid)},
	{"skipped", is(ErrSkipped)},
	{"compensated", is(ErrCompensated)},
	{"closed", is(ErrClosed)},
	{"address_blocked", is(ErrAddressBlocked)},
	{"response_too_large", is(ErrResponseTooLarge)},
	{"certificate", func(err error) bool {
		return has[*tls.CertificateVerificationError](err) || errors.Is(err, ErrCertificateRefused)
	}},
	{"dns", has[*net.DNSError]},
	{"timeout", isTimeout},
	{canceledClass, is(context.Canceled)},
	{"connect", func(err error) bool {
		var op *net.OpError
		return errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect")
	}},
	{"connection", func(err error) bool {
		return has[*net.OpError](err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
	}},
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func has[T error](err error) bool {
	var found T
	return errors.As(err, &found)
}

// isTimeout knows the system's own time limits too, such as that of a dial.
func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || (errors.As(err, &timeout) && timeout.Timeout())
}
