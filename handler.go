package fanout

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fanout-go/fanout/internal/header"
)

// Handler turns each inbound POST, PUT or PATCH into one dispatch of its body:
//
//	mux.Handle("POST /events", &fanout.Handler{Dispatcher: d})
//
// It answers 202 with a [Receipt] when the body is accepted for delivery in the
// background or, with Wait, with a [Report] when all deliveries have ended: 200
// if all required targets got it, else 502. The body, its content type and encoding,
// and the Idempotency-Key are passed on, and the correlation ID, which is on the answer
// too. Other headers are passed on if ForwardHeader names them.
//
// What is refused is answered with problem details (RFC 9457): 400 for what
// cannot be read or passed on, 405, 413, 415 without a content type, the status
// that Validate says, 422 if [Config.Validate] or [Target.Validate] refuses it, which
// keep to themselves why, and 503 with a Retry-After if there is no room or the
// dispatcher is closed.
type Handler struct {
	// Dispatcher sends the bodies. Required.
	Dispatcher *Dispatcher
	// Wait makes the inbound request wait for the results, at most the longest
	// [Policy.Timeout] of its targets: the server's WriteTimeout and the time for
	// its Shutdown must be more. If its client goes away, what is under way is cut
	// short. Default: [Dispatcher.Submit].
	Wait bool
	// MaxBytes bounds the inbound body. Default 1 MiB; negative means no bound.
	MaxBytes int64
	// ForwardHeader names the inbound headers to pass on. Those that belong to
	// the connection, and credentials (Authorization, Proxy-Authorization, Cookie),
	// never are. Default none.
	ForwardHeader []string
	// Validate looks at a request before anything is sent; its body has been read
	// and is given as it came, compressed if it has a Content-Encoding. An error is
	// answered with 422, or the status from 400 to 599 of the [*StatusError] it wraps,
	// and its text as the problem's detail. Default none.
	Validate func(r *http.Request, body []byte) error
	// Options says where a request goes. Default: to all configured targets.
	Options func(*http.Request) []Option
	// RetryAfter is the Retry-After of a 503, in whole seconds, rounded up.
	// Default 1 s; negative means none.
	RetryAfter time.Duration
}

// Receipt is the answer to a body accepted for delivery in the background.
type Receipt struct {
	DispatchID    string `json:"dispatch_id"`
	CorrelationID string `json:"correlation_id"`
}

// Report is the answer to a body that was dispatched. It holds no error texts,
// which name internal hosts.
type Report struct {
	Receipt
	Targets []TargetReport `json:"targets"` // in definition order
}

// TargetReport is what became of one target.
type TargetReport struct {
	Target     string  `json:"target"`
	Optional   bool    `json:"optional,omitempty"`
	Outcome    Outcome `json:"outcome"`
	StatusCode int     `json:"status,omitempty"` // of the last answer seen
	Attempts   int     `json:"attempts"`
	DurationMS int64   `json:"duration_ms"`
}

// Problem is the answer to what was refused, as RFC 9457 describes.
type Problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail,omitempty"`
}

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	CorrelationMiddleware(http.HandlerFunc(h.serve)).ServeHTTP(w, r)
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) {
	payload, problem := h.read(w, r)
	if problem != nil {
		h.refuse(w, *problem)
		return
	}
	var options []Option
	if h.Options != nil {
		options = h.Options(r)
	}
	receipt := Receipt{CorrelationID: CorrelationID(r.Context())}
	var err error
	if !h.Wait {
		receipt.DispatchID, err = h.Dispatcher.Submit(r.Context(), payload, options...)
		if err != nil {
			h.refuse(w, *problemOf(err))
			return
		}
		writeJSON(w, http.StatusAccepted, "application/json", receipt)
		return
	}
	results, err := h.Dispatcher.Dispatch(r.Context(), payload, options...)
	if err != nil && !errors.As(err, new(*DispatchError)) {
		h.refuse(w, *problemOf(err))
		return
	}
	status := http.StatusOK
	if err != nil {
		status = http.StatusBadGateway
	}
	writeJSON(w, status, "application/json", newReport(receipt, results))
}

// read takes what is to be passed on from the request.
func (h *Handler) read(w http.ResponseWriter, r *http.Request) (Payload, *Problem) {
	if !slices.Contains([]string{http.MethodPost, http.MethodPut, http.MethodPatch}, r.Method) {
		w.Header().Set("Allow", "POST, PUT, PATCH")
		return Payload{}, &Problem{Status: http.StatusMethodNotAllowed}
	}
	body := r.Body
	if body == nil {
		body = http.NoBody
	}
	if limit := cmp.Or(h.MaxBytes, 1<<20); limit > 0 {
		body = http.MaxBytesReader(w, body, limit)
	}
	content, err := io.ReadAll(body)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return Payload{}, &Problem{Status: http.StatusRequestEntityTooLarge, Detail: "the limit is " + strconv.FormatInt(tooLarge.Limit, 10) + " bytes"}
	case err != nil:
		return Payload{}, &Problem{Status: http.StatusBadRequest, Detail: "the body could not be read"}
	}
	contentType := r.Header.Get("Content-Type")
	if mediaType, _, err := mime.ParseMediaType(contentType); len(content) > 0 && (err != nil || !strings.Contains(mediaType, "/")) {
		return Payload{}, &Problem{Status: http.StatusUnsupportedMediaType, Detail: "Content-Type is missing or cannot be read"}
	}
	if problem := h.validate(r, content); problem != nil {
		return Payload{}, problem
	}
	p := Payload{Header: h.forwarded(r.Header), IdempotencyKey: r.Header.Get("Idempotency-Key")}
	if len(content) > 0 {
		p.Body, p.ContentType = content, contentType
		if encoding := r.Header.Values("Content-Encoding"); len(encoding) > 0 {
			p.Header["Content-Encoding"] = encoding
		}
	}
	return p, nil
}

func (h *Handler) validate(r *http.Request, content []byte) *Problem {
	if h.Validate == nil {
		return nil
	}
	err := h.Validate(r, content)
	if err == nil {
		return nil
	}
	problem := &Problem{Status: http.StatusUnprocessableEntity, Detail: err.Error()}
	var status *StatusError
	if errors.As(err, &status) && status.StatusCode >= 400 && status.StatusCode <= 599 {
		problem.Status = status.StatusCode
	}
	return problem
}

// neverForwarded are headers between the client and this service alone.
var neverForwarded = map[string]bool{"Authorization": true, "Proxy-Authorization": true, "Proxy-Authenticate": true, "Cookie": true, "Set-Cookie": true, "Expect": true, "Http2-Settings": true}

// forwarded leaves out what the inbound Connection header names, too
// (RFC 9110, section 7.6.1).
func (h *Handler) forwarded(in http.Header) http.Header {
	out := make(http.Header)
	hop := map[string]bool{}
	for _, name := range headerList(in["Connection"]) {
		hop[name] = true
	}
	for _, name := range h.ForwardHeader {
		name = http.CanonicalHeaderKey(name)
		if values := in[name]; values != nil && !hop[name] && !neverForwarded[name] && !header.Reserved(name) && name != "Content-Type" {
			out[name] = values
		}
	}
	return out
}

// problemOf is the problem with a dispatch that never began.
func problemOf(err error) *Problem {
	var invalid *InvalidError
	switch {
	case errors.Is(err, ErrPayloadTooLarge):
		return &Problem{Status: http.StatusRequestEntityTooLarge}
	case errors.Is(err, ErrPayloadRefused):
		return &Problem{Status: http.StatusUnprocessableEntity, Detail: "the body is not valid"}
	case errors.Is(err, ErrIdempotencyKey):
		return &Problem{Status: http.StatusBadRequest, Detail: "Idempotency-Key " + ErrIdempotencyKey.Error()}
	case errors.Is(err, ErrFull):
		return &Problem{Status: http.StatusServiceUnavailable, Detail: "no room for more at the moment"}
	case errors.Is(err, ErrClosed):
		return &Problem{Status: http.StatusServiceUnavailable, Detail: "shutting down"}
	case errors.Is(err, ErrNoTargets), errors.As(err, &invalid) && invalid.Target != "":
		return &Problem{Status: http.StatusServiceUnavailable, Detail: "there is nowhere to send it at the moment"}
	case errors.Is(err, ErrInvalid):
		return &Problem{Status: http.StatusBadRequest, Detail: "the request cannot be passed on"}
	}
	return &Problem{Status: http.StatusInternalServerError}
}

func newReport(receipt Receipt, results Results) Report {
	report := Report{Receipt: receipt}
	for _, r := range results.Sorted() {
		report.DispatchID = r.DispatchID
		t := TargetReport{Target: r.Target, Optional: r.Optional, Outcome: r.Outcome, Attempts: len(r.Attempts), DurationMS: r.Duration.Milliseconds()}
		if r.Response != nil {
			t.StatusCode = r.Response.StatusCode
		}
		report.Targets = append(report.Targets, t)
	}
	return report
}

// headerList splits lists such as those of Connection, and makes their names
// canonical.
func headerList(values []string) []string {
	var names []string
	for _, value := range values {
		for name := range strings.SplitSeq(value, ",") {
			names = append(names, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	return names
}

func (h *Handler) refuse(w http.ResponseWriter, p Problem) {
	p.Title = cmp.Or(p.Title, http.StatusText(p.Status))
	if wait := cmp.Or(h.RetryAfter, time.Second); p.Status == http.StatusServiceUnavailable && wait > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
	}
	writeJSON(w, p.Status, "application/problem+json", p)
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // fails only if the client has gone
}
