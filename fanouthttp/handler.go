package fanouthttp

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/fanout-go/fanout"
)

// Config says how a [Handler] treats requests. The zero Config works.
type Config struct {
	// Wait makes the inbound request wait for the results. It waits at most for the
	// longest [fanout.Policy.Timeout] of its targets, so the server's WriteTimeout and
	// the time that its Shutdown gets must be longer. When the client disconnects, the
	// deliveries under way are cut short: a handler around this one that replaces the
	// request's context by [context.WithoutCancel] lets them go on. Default false: the
	// body is given to [fanout.Dispatcher.Submit], and the answer comes at once.
	Wait bool
	// MaxBytes bounds the inbound body. Default 1 MiB; negative means no bound.
	MaxBytes int64
	// ForwardHeader names the inbound headers to pass on. Headers that belong to the
	// connection, and credentials (Authorization, Proxy-Authorization, Cookie), are
	// never passed on, and [NewHandler] refuses their names. Content-Type,
	// Content-Encoding, Idempotency-Key and X-Correlation-Id are always passed on.
	// Default none.
	ForwardHeader []string
	// Validate looks at a request before anything is sent. The request's body has been
	// read; it is given as it came, compressed if there is a Content-Encoding. An error
	// is answered with 422 and its text as the detail or, if it wraps a [*Problem] with
	// a status from 400 to 599, with that. Default none.
	Validate func(r *http.Request, body []byte) error
	// Options says where a request goes. Default: to all configured targets.
	Options func(*http.Request) []fanout.Option
	// RetryAfter is the Retry-After of a 503, in whole seconds, rounded up: 1500 ms is
	// sent as 2. Default 1 s; negative means none.
	RetryAfter time.Duration
}

// Handler turns each inbound POST, PUT or PATCH into one dispatch of its body.
//
// It answers 202 with a [Receipt] when the body is accepted for delivery in the
// background or, with [Config.Wait], with a [Report] when all deliveries have ended:
// 200 if all required targets got it, and 502 if one did not. The body, its content
// type and encoding, and the Idempotency-Key are passed on, and so is the correlation
// ID, which is on the answer too. Other headers are passed on if
// [Config.ForwardHeader] names them.
//
// What is refused is answered with a [Problem]:
//
//   - 400: the body cannot be read, or the request cannot be passed on
//   - 405: another method
//   - 413: the body is longer than [Config.MaxBytes], or than the dispatcher or its
//     queue takes
//   - 415: there is a body, and no content type
//   - 422, or the status of its Problem: [Config.Validate] refuses it
//   - 422 without a reason: [fanout.Config.Validate] or [fanout.Target.Validate]
//     refuses it
//   - 503 with a Retry-After: there is no room, the dispatcher is closed, or there are no
//     targets to send it to
type Handler struct {
	dispatcher *fanout.Dispatcher
	config     Config
	forward    []string // canonical
}

// NewHandler returns a handler that sends through the dispatcher, which stays the
// caller's to close: after the server's Shutdown, since a closed dispatcher answers
// with 503. The error is a [*fanout.InvalidError] that names the field: Dispatcher if that
// is nil, or ForwardHeader if it has a name that is no header's or is never passed on.
func NewHandler(dispatcher *fanout.Dispatcher, config Config) (*Handler, error) {
	if dispatcher == nil {
		return nil, invalid("Dispatcher", errors.New("nil"))
	}
	forward, err := forwardable(config.ForwardHeader)
	if err != nil {
		return nil, err
	}
	config.ForwardHeader = nil // it is the caller's
	return &Handler{dispatcher: dispatcher, config: config, forward: forward}, nil
}

func invalid(field string, err error) error {
	return &fanout.InvalidError{Where: "fanouthttp.NewHandler", Field: field, Err: err}
}

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fanout.CorrelationMiddleware(http.HandlerFunc(h.serve)).ServeHTTP(w, r)
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) {
	payload, problem := h.read(w, r)
	if problem != nil {
		h.refuse(w, *problem)
		return
	}
	var options []fanout.Option
	if h.config.Options != nil {
		options = h.config.Options(r)
	}
	if h.config.Wait {
		h.dispatch(w, r, payload, options)
	} else {
		h.submit(w, r, payload, options)
	}
}

func (h *Handler) submit(w http.ResponseWriter, r *http.Request, payload fanout.Payload, options []fanout.Option) {
	id, err := h.dispatcher.Submit(r.Context(), payload, forSubmit(options)...)
	if err != nil {
		h.refuse(w, problemOf(err))
		return
	}
	writeJSON(w, http.StatusAccepted, "application/json", Receipt{DispatchID: id, CorrelationID: fanout.CorrelationID(r.Context())})
}

func (h *Handler) dispatch(w http.ResponseWriter, r *http.Request, payload fanout.Payload, options []fanout.Option) {
	results, err := h.dispatcher.Dispatch(r.Context(), payload, forDispatch(options)...)
	status := http.StatusOK
	if err != nil {
		if !errors.As(err, new(*fanout.DispatchError)) {
			h.refuse(w, problemOf(err))
			return
		}
		status = http.StatusBadGateway
	}
	writeJSON(w, status, "application/json", NewReport(fanout.CorrelationID(r.Context()), results))
}

func forSubmit(options []fanout.Option) []fanout.SubmitOption {
	all := make([]fanout.SubmitOption, len(options))
	for i, o := range options {
		all[i] = o
	}
	return all
}

func forDispatch(options []fanout.Option) []fanout.DispatchOption {
	all := make([]fanout.DispatchOption, len(options))
	for i, o := range options {
		all[i] = o
	}
	return all
}

func (h *Handler) refuse(w http.ResponseWriter, p Problem) {
	p.Title = cmp.Or(p.Title, http.StatusText(p.Status))
	if wait := cmp.Or(h.config.RetryAfter, time.Second); p.Status == http.StatusServiceUnavailable && wait > 0 {
		w.Header().Set("Retry-After", wholeSeconds(wait))
	}
	writeJSON(w, p.Status, "application/problem+json", p)
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // fails only if the client has gone
}
