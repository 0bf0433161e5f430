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

// There is one span per dispatch and one per delivery, both INTERNAL. Each attempt has a
// CLIENT span, as the OpenTelemetry conventions for HTTP clients say.

// Tracing says how a delivery's span is started.
type Tracing uint8

// How deliveries are traced.
const (
	Untraced Tracing = iota
	Within           // under the span of the dispatch
	Apart            // in a trace of its own, with a link to the trace of the request
)

// IDs identify a dispatch.
type IDs struct{ Dispatch, Correlation string }

func (ids IDs) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{dispatchIDKey.String(ids.Dispatch), correlationIDKey.String(ids.Correlation)}
}

var apart = []trace.SpanStartOption{trace.WithNewRoot()}

// start returns a nil span if no tracer is configured. The context is then unchanged, so
// that children cost nothing.
func (t *Telemetry) start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	inner, span := t.tracer.Start(ctx, name, options...)
	made := span.SpanContext()
	if !made.IsValid() || made.Equal(trace.SpanContextFromContext(ctx)) {
		return ctx, nil
	}
	return inner, span
}

// StartDispatch starts the span of a dispatch. The span is nil if no tracer is
// configured.
func (t *Telemetry) StartDispatch(ctx context.Context, ids IDs, targets int) (context.Context, trace.Span) {
	inner, span := t.start(ctx, "fanout.dispatch")
	if span != nil {
		span.SetAttributes(append(ids.attributes(), attribute.Int("fanout.targets", targets))...)
	}
	return inner, span
}

// StartSubmitted starts the span of a dispatch that was submitted. It is in a trace of
// its own, with a link to the trace of its submitter.
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

// EndDispatch ends the span. If failure is not empty, it is the text of the error.
func EndDispatch(span trace.Span, failure string) {
	if failure != "" {
		span.SetStatus(codes.Error, failure)
	}
	span.End()
}

// StartDelivery starts the span of a delivery. The span is nil if no tracer is
// configured.
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

// EndDelivery ends the span.
func EndDelivery(span trace.Span, outcome string, attempts int, f Failure) {
	span.SetAttributes(outcomeKey.String(outcome), attribute.Int("fanout.attempts", attempts))
	setError(span, f)
	span.End()
}

// AddWait adds a wait to a delivery's span, as an event.
func AddWait(span trace.Span, why string, waited time.Duration) {
	span.AddEvent("fanout.wait", trace.WithAttributes(waitKey.String(why), attribute.Float64("fanout.wait.duration", waited.Seconds())))
}

// StartAttempt starts the span of an attempt. resends is the number of attempts before
// it.
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
	case status >= 400: // also if a Classify calls it a success
		span.SetAttributes(semconv.ErrorTypeKey.String(statusClass(status)))
		span.SetStatus(codes.Error, "")
	case status == 0 || status/100 == 2:
		setError(span, f)
	}
	span.End()
}

// EndUnsent ends the span of an attempt that was not sent.
func EndUnsent(span trace.Span, f Failure) {
	setError(span, f)
	span.End()
}

// setError ignores a cancellation by the caller, which is no failure.
func setError(span trace.Span, f Failure) {
	if f.Class != "" && f.Class != "canceled" {
		span.SetAttributes(semconv.ErrorTypeKey.String(f.Class))
		span.SetStatus(codes.Error, f.Text)
	}
}

// statusClass prevents a hostile target from inventing classes.
func statusClass(code int) string {
	if code < 100 || code > 599 {
		return "_OTHER"
	}
	return strconv.Itoa(code)
}

// redacted keeps the scheme and host of a URL. The path and query of a webhook are often
// its secret.
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
