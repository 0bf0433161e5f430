package fanout

import (
	"cmp"
	"context"
	stdlog "log"
	"reflect"

	"log/slog"
	"net/http"
	"slices"

	"github.com/fanout-go/fanout/internal/header"
	"github.com/fanout-go/fanout/internal/ids"
)

// Headers that identify requests. The correlation ID is the same for all requests of a
// dispatch, and for the request that caused it. The request ID is new for every attempt.
const (
	CorrelationHeader = header.CorrelationID // "X-Correlation-Id"
	RequestIDHeader   = header.RequestID     // "X-Request-Id"
)

// CorrelationKey is the name of the attribute that [NewCorrelationHandler] adds.
const CorrelationKey = "correlation_id"

type correlationContext struct{}

// WithCorrelationID returns a context whose dispatches have this correlation ID. If id is
// invalid, see [ValidCorrelationID], it returns ctx unchanged.
func WithCorrelationID(ctx context.Context, id string) context.Context {
	if !ValidCorrelationID(id) {
		return ctx
	}
	return context.WithValue(ctx, correlationContext{}, id)
}

// CorrelationID returns the correlation ID in the context. It is empty if there is none.
// In the contexts of Senders and hooks there always is one.
func CorrelationID(ctx context.Context) string {
	id, _ := ctx.Value(correlationContext{}).(string)
	return id
}

// ValidCorrelationID reports whether id is 1 to 128 ASCII letters, digits and characters
// of "-._~:/+=@". These are safe in a header, in a log, and in the query of a URL.
func ValidCorrelationID(id string) bool { return ids.Valid(id) }

// CorrelationMiddleware puts the X-Correlation-ID of an inbound request into the
// request's context and into the response. If the context already has an ID, that one is
// used. If there is none, or it is invalid, it makes a new one.
func CorrelationMiddleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := cmp.Or(CorrelationID(r.Context()), r.Header.Get(CorrelationHeader))
		if !ValidCorrelationID(id) {
			id = ids.New()
		}
		w.Header().Set(CorrelationHeader, id)
		next.ServeHTTP(w, r.WithContext(WithCorrelationID(r.Context(), id)))
	})
}

// NewCorrelationHandler returns a handler that adds the context's correlation ID to every
// record that has none, and passes the record on to next. The attribute is at the top
// level, even if the logger has open groups. If the logger was given the attribute before,
// it is not added again.
//
// If next is the handler that [log/slog.Default] has at first, records are written by a
// [log/slog.TextHandler] instead, to where package log writes at this moment. That first
// handler writes to package log. [log/slog.SetDefault] makes package log write to the new
// default, so the two would wait for each other.
func NewCorrelationHandler(next slog.Handler) slog.Handler {
	if reflect.TypeOf(next) != nil && reflect.TypeOf(next).String() == "*slog.defaultHandler" {
		next = slog.NewTextHandler(stdlog.Writer(), nil)
	}
	return &correlationHandler{root: next, current: next}
}

// correlationHandler keeps the handler from before the first group, and the steps that
// were derived from it since. It repeats these steps after adding the ID, so that the ID
// is outside of all groups.
type correlationHandler struct {
	root    slog.Handler
	derived []func(slog.Handler) slog.Handler
	current slog.Handler
	grouped bool // a group is open
	known   bool // the ID is among the attributes, outside of all groups
}

func (h *correlationHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.current.Enabled(ctx, level)
}

func (h *correlationHandler) Handle(ctx context.Context, record slog.Record) error {
	id := CorrelationID(ctx)
	if id == "" || h.known || hasCorrelationID(record) {
		return h.current.Handle(ctx, record)
	}
	handler := h.root.WithAttrs([]slog.Attr{slog.String(CorrelationKey, id)})
	for _, derive := range h.derived {
		handler = derive(handler)
	}
	return handler.Handle(ctx, record)
}

func hasCorrelationID(record slog.Record) (has bool) {
	record.Attrs(func(a slog.Attr) bool {
		has = a.Key == CorrelationKey
		return !has
	})
	return has
}

func (h *correlationHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	derived := h.derive(func(next slog.Handler) slog.Handler { return next.WithAttrs(attrs) })
	derived.known = h.known || (!h.grouped && slices.ContainsFunc(attrs, func(a slog.Attr) bool { return a.Key == CorrelationKey }))
	return derived
}

func (h *correlationHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	derived := h.derive(func(next slog.Handler) slog.Handler { return next.WithGroup(name) })
	derived.grouped = true
	return derived
}

func (h *correlationHandler) derive(step func(slog.Handler) slog.Handler) *correlationHandler {
	return &correlationHandler{
		root:    h.root,
		derived: append(slices.Clip(h.derived), step),
		current: step(h.current),
		grouped: h.grouped,
		known:   h.known,
	}
}
