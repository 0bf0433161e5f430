package otel

import (
	"context"
	"net/url"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// There is one span per dispatch and one per delivery, both INTERNAL, and a CLIENT span
// per attempt, by OpenTelemetry's conventions for HTTP clients.

// Tracing is how a delivery's span is begun.
type Tracing uint8

// How deliveries are traced.
const (
	Untraced Tracing = iota
	Within           // under the span of the dispatch
	Apart            // in a trace of its own, with a link to the request's
)

// IDs tell a dispatch from all others.
type IDs struct{ Dispatch, Correlation string }

func (ids IDs) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{dispatchIDKey.String(ids.Dispatch), correlationIDKey.String(ids.Correlation)}
}

var apart = []trace.SpanStartOption{trace.WithNewRoot()}

// start returns no span if there is nobody to make one. Then the context is as it
// was, so that children cost nothing.
func (t *Telemetry) start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	inner, span := t.tracer.Start(ctx, name, options...)
	made := span.SpanContext()
	if !made.IsValid() || made.Equal(trace.SpanContextFromContext(ctx)) {
		return ctx, nil
	}
	return inner, span
}

// StartDispatch begins a dispatch's span, nil if nobody makes any.
func (t *Telemetry) StartDispatch(ctx context.Context, ids IDs, targets int) (context.Context, trace.Span) {
	inner, span := t.start(ctx, "fanout.dispatch")
	if span != nil {
		span.SetAttributes(append(ids.attributes(), attribute.Int("fanout.targets", targets))...)
	}
	return inner, span
}

// StartSubmitted begins the span of a dispatch that was submitted: in a trace of its own,
// linked to its submitter's.
func (t *Telemetry) StartSubmitted(ctx context.Context, ids IDs, targets int) (context.Context, trace.Span) {
	inner, span := t.start(ctx, "fanout.dispatch", apart...)
	if span != nil {
		link(ctx, span)
		span.SetAttributes(append(ids.attributes(), attribute.Int("fanout.targets", targets))...)
	}
	return inner, span
}

func link(submitter context.Context, span trace.Span) {
	if l := trace.LinkFromContext(submitter); l.SpanContext.IsValid() {
		span.AddLink(l)
	}
}

// EndDispatch ends it, with an error's text if there is one.
func EndDispatch(span trace.Span, failure string) {
	if failure != "" {
		span.SetStatus(codes.Error, failure)
	}
	span.End()
}

// StartDelivery begins a delivery's span, nil if nobody makes any.
func (t *Telemetry) StartDelivery(ctx context.Context, target *Target, ids IDs, how Tracing) trace.Span {
	name := "deliver " + target.Label
	attributes := append([]attribute.KeyValue{targetKey.String(target.Name)}, ids.attributes()...)
	if how == Within {
		_, span := t.tracer.Start(ctx, name, trace.WithAttributes(attributes...))
		return span
	}
	_, span := t.start(ctx, name, apart...)
	if span == nil {
		return nil
	}
	span.SetAttributes(attributes...)
	link(ctx, span)
	return span
}

// EndDelivery ends it.
func EndDelivery(span trace.Span, outcome string, attempts int, f Failure) {
	span.SetAttributes(outcomeKey.String(outcome), attribute.Int("fanout.attempts", attempts))
	setError(span, f)
	span.End()
}

// AddWait is an event of a delivery's span.
func AddWait(span trace.Span, why string, waited time.Duration) {
	span.AddEvent("fanout.wait", trace.WithAttributes(waitKey.String(why), attribute.Float64("fanout.wait.duration", waited.Seconds())))
}

// StartAttempt begins an attempt's span; resends is how many were made before.
func (t *Telemetry) StartAttempt(ctx context.Context, target *Target, u *url.URL, resends int) (context.Context, trace.Span) {
	name, attributes := "send", []attribute.KeyValue{targetKey.String(target.Name)}
	if h := target.HTTP; h != nil {
		name = h.spanName
		attributes = append(h.attributes(u), semconv.URLFull(redacted(u)))
		if h.original != "" {
			attributes = append(attributes, semconv.HTTPRequestMethodOriginal(h.original))
		}
	}
	if resends > 0 {
		attributes = append(attributes, semconv.HTTPRequestResendCount(resends))
	}
	return t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attributes...))
}

// EndAttempt ends the span of an attempt that was sent.
func EndAttempt(span trace.Span, status int, f Failure) {
	if status != 0 {
		span.SetAttributes(semconv.HTTPResponseStatusCode(status))
	}
	switch {
	case status >= 400: // whatever a Classify made of it
		span.SetAttributes(semconv.ErrorTypeKey.String(statusClass(status)))
		span.SetStatus(codes.Error, "")
	case status == 0 || status/100 == 2:
		setError(span, f)
	}
	span.End()
}

// EndUnsent ends the span of an attempt that was not sent after all.
func EndUnsent(span trace.Span, f Failure) {
	setError(span, f)
	span.End()
}

// setError leaves the caller's own cancel be: that is no failure.
func setError(span trace.Span, f Failure) {
	if f.Class != "" && f.Class != "canceled" {
		span.SetAttributes(semconv.ErrorTypeKey.String(f.Class))
		span.SetStatus(codes.Error, f.Text)
	}
}

// statusClass keeps a hostile target from making up classes.
func statusClass(code int) string {
	if code < 100 || code > 599 {
		return "_OTHER"
	}
	return strconv.Itoa(code)
}

// redacted keeps scheme and host: the path and the query of a webhook are often
// the secret that lets one call it.
func redacted(u *url.URL) string {
	shown := u.Scheme + "://" + u.Host + "/"
	if u.Path != "" && u.Path != "/" {
		shown += "REDACTED"
	}
	if u.RawQuery != "" {
		shown += "?REDACTED"
	}
	return shown
}
