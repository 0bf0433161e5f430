package fanouthttp

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/fanout-go/fanout"
)

// Config says how a [Handler] treats requests. The zero value is usable.
type Config struct {
	// Wait makes the handler answer when all deliveries have ended. That takes at most the
	// longest [fanout.Policy.Timeout] of the targets. The server's WriteTimeout, and the
	// time you give its Shutdown, must be longer than that.
	//
	// If the client disconnects, running deliveries are cut short. To let them continue,
	// wrap the handler in one that replaces the request's context with
	// [context.WithoutCancel].
	//
	// Default false: the handler calls [fanout.Dispatcher.Submit] and answers at once.
	Wait bool
	// MaxBytes limits the size of the inbound body. Zero means the default, 1 MiB; negative
	// means no limit.
	MaxBytes int64
	// ForwardHeader names the inbound headers to pass on to the targets, in addition to
	// Content-Type, Content-Encoding, Idempotency-Key and X-Correlation-Id, which are always
	// passed on. [NewHandler] refuses headers that belong to the connection, and credentials
	// (Authorization, Proxy-Authorization, Cookie). Default none.
	ForwardHeader []string
	// Validate checks a request before anything is sent. It gets the body as it arrived,
	// which is compressed if there is a Content-Encoding. The body of r has already been
	// read. If Validate returns an error that wraps a [*Problem] with a status from 400 to
	// 599, that is the answer. Any other error is answered with 422 and its text as the
	// detail. Default none.
	Validate func(r *http.Request, body []byte) error
	// Options returns where a request is sent, for example fanout.To("crm"). Default: to all
	// configured targets.
	Options func(*http.Request) []fanout.Option
	// RetryAfter is the Retry-After header of a 503, in whole seconds, rounded up. For
	// example, 1500 ms is sent as 2. Zero means the default, 1 s; negative means no header.
	RetryAfter time.Duration
}

// Handler turns each inbound POST, PUT or PATCH into one dispatch of its body.
//
// By default it answers 202 with a [Receipt] when the body is accepted for delivery in
// the background. With [Config.Wait] it answers with a [Report] when all deliveries have
// ended. The status is then 200 if all required targets got it, and 502 if one of them
// did not.
//
// These are passed on to the targets: the body, its content type and encoding, the
// Idempotency-Key, and the correlation ID, which is also in the answer. Other headers are
// passed on if [Config.ForwardHeader] names them.
//
// A request that is refused is answered with a [Problem]:
//
//   - 400: the body cannot be read, or the request cannot be passed on, for example
//     because of its Idempotency-Key
//   - 404: [fanout.Config.Lookup] says that a target is gone
//   - 405: the method is not POST, PUT or PATCH
//   - 413: the body is longer than [Config.MaxBytes], or than the dispatcher or its queue
//     accepts
//   - 415: there is a body without a valid content type
//   - 422, or the status of its Problem: [Config.Validate] refused it
//   - 422 without a reason: [fanout.Config.Validate] or [fanout.Target.Validate] refused
//     it
//   - 500: anything else failed, for example the database of the queue
//   - 503 with a Retry-After: the queue is full, the dispatcher is closed, there is no
//     target to send it to, or a target cannot be looked up
type Handler struct {
	dispatcher *fanout.Dispatcher
	config     Config
	forward    []string // in canonical form
}

// NewHandler returns a handler that sends through the dispatcher. The caller closes the
// dispatcher, after the Shutdown of the server: with a closed dispatcher the handler
// answers 503.
//
// The error is a [*fanout.InvalidError] that names the field. It is "Dispatcher" if that
// is nil, and "ForwardHeader" if a name in it is no header name or is never passed on.
func NewHandler(dispatcher *fanout.Dispatcher, config Config) (*Handler, error) {
	if dispatcher == nil {
		return nil, invalid("Dispatcher", errors.New("nil"))
	}
	forward, err := forwardable(config.ForwardHeader)
	if err != nil {
		return nil, err
	}
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
	_ = json.NewEncoder(w).Encode(v) // fails only if the client has disconnected
}
