package fanout

import (
	"cmp"
	"context"

	"log/slog"
	"net/http"
	"slices"

	"github.com/fanout-go/fanout/internal/header"
	"github.com/fanout-go/fanout/internal/ids"
)

// Headers that tie requests together. The correlation ID is the same on every
// request of a dispatch, and of whatever led to it; the request ID is new for
// every attempt.
const (
	CorrelationHeader = header.CorrelationID // "X-Correlation-Id"
	RequestIDHeader   = header.RequestID     // "X-Request-Id"
)

// CorrelationKey is the name of the attribute that [NewCorrelationHandler] adds.
const CorrelationKey = "correlation_id"

type correlationContext struct{}

// WithCorrelationID returns a context whose dispatches carry id. An id that is
// not valid by [ValidCorrelationID] leaves the context as it is.
func WithCorrelationID(ctx context.Context, id string) context.Context {
	if !ValidCorrelationID(id) {
		return ctx
	}
	return context.WithValue(ctx, correlationContext{}, id)
}

// CorrelationID is the ID in the context, empty if there is none. Senders and
// hooks always find one.
func CorrelationID(ctx context.Context) string {
	id, _ := ctx.Value(correlationContext{}).(string)
	return id
}

// ValidCorrelationID reports whether id is 1 to 128 ASCII letters, digits and
// characters of "-._~:/+=@": what is safe in a header, a log and a URL's query.
func ValidCorrelationID(id string) bool { return ids.Valid(id) }

// CorrelationMiddleware puts the inbound request's X-Correlation-ID into its
// context and on its response. A request with none, or none that is valid, gets
// a new one; one whose context has an ID already keeps that.
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

// NewCorrelationHandler returns a handler that adds the context's correlation
// ID to every record that has none, at the top level whatever groups are open, and passes it
// on to next.
func NewCorrelationHandler(next slog.Handler) slog.Handler {
	return &correlationHandler{root: next, current: next}
}

// correlationHandler keeps the handler from before the first group, and what was
// derived from it since, to put the ID outside of all groups.
type correlationHandler struct {
	root    slog.Handler
	derived []func(slog.Handler) slog.Handler
	current slog.Handler
}

func (h *correlationHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.current.Enabled(ctx, level)
}

func (h *correlationHandler) Handle(ctx context.Context, record slog.Record) error {
	id := CorrelationID(ctx)
	if id == "" || hasCorrelationID(record) {
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
	return h.derive(func(next slog.Handler) slog.Handler { return next.WithAttrs(attrs) })
}

func (h *correlationHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return h.derive(func(next slog.Handler) slog.Handler { return next.WithGroup(name) })
}

func (h *correlationHandler) derive(step func(slog.Handler) slog.Handler) slog.Handler {
	return &correlationHandler{
		root:    h.root,
		derived: append(slices.Clip(h.derived), step),
		current: step(h.current),
	}
}
