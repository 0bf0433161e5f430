package fanout

import (
	"context"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// tracer makes the spans: one per dispatch, one per delivery, both INTERNAL, and a
// CLIENT span per attempt, by OpenTelemetry's conventions for HTTP clients.
type tracer struct{ trace.Tracer }

// tracing is how a delivery's span is begun.
type tracing uint8

const (
	untraced     tracing = iota
	tracedWithin         // under the span of its dispatch
	tracedApart          // in a trace of its own, with a link to the request's
)

func newTracer(provider trace.TracerProvider) tracer {
	if provider == nil {
		provider = otel.GetTracerProvider()
	}
	return tracer{provider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL))}
}

// start returns no span if there is nobody to make one. Then the context is as it
// was, so that children cost nothing.
func (t tracer) start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	inner, span := t.Start(ctx, name, options...)
	made := span.SpanContext()
	if !made.IsValid() || made.Equal(trace.SpanContextFromContext(ctx)) {
		return ctx, nil
	}
	return inner, span
}

// startTrace begins the dispatch's span. What was submitted has a trace of its own,
// and one for each delivery if they are made one by one.
func (p *dispatch) startTrace() {
	var options []trace.SpanStartOption
	var request trace.Link
	if !p.s.Submitted.IsZero() {
		if p.traced = tracedApart; p.graph == nil {
			return
		}
		options, request = apart, trace.LinkFromContext(p.ctx)
	}
	p.ctx, p.span = p.d.telemetry.tracer.start(p.ctx, "fanout.dispatch", options...)
	if p.span != nil {
		if p.traced == tracedApart && request.SpanContext.IsValid() {
			p.span.AddLink(request)
		}
		p.traced = tracedWithin
		p.span.SetAttributes(dispatchIDKey.String(p.s.DispatchID), correlationIDKey.String(p.s.CorrelationID), attribute.Int("fanout.targets", len(p.s.targets)))
	}
}

func (p *dispatch) endTrace(results Results) {
	if p.span == nil {
		return
	}
	if err := p.s.err(results); err != nil && !allCanceled(results) {
		p.span.SetStatus(codes.Error, shown(err))
	}
	p.span.End()
}

// allCanceled reports whether nothing failed but for the caller's own end.
func allCanceled(results Results) bool {
	for _, r := range results {
		if r.Err != nil && !r.Optional && ErrorClass(r.Err) != canceledClass {
			return false
		}
	}
	return true
}

var apart = []trace.SpanStartOption{trace.WithNewRoot()}

func (t tracer) startDelivery(dl *delivery) *deliverySpans {
	name := "deliver " + dl.target.label
	attributes := []attribute.KeyValue{targetKey.String(dl.target.Name), dispatchIDKey.String(dl.request.DispatchID), correlationIDKey.String(dl.request.CorrelationID)}
	if dl.dispatch.traced == tracedWithin || dl.kind == FallbackAttempt {
		_, span := t.Start(dl.clock.ctx, name, trace.WithAttributes(attributes...))
		return &deliverySpans{delivery: span}
	}
	_, span := t.start(dl.clock.ctx, name, apart...)
	if span == nil {
		return nil
	}
	span.SetAttributes(attributes...)
	if link := trace.LinkFromContext(dl.clock.ctx); link.SpanContext.IsValid() {
		span.AddLink(link)
	}
	return &deliverySpans{delivery: span}
}

func (dl *delivery) endDeliverySpan() {
	if attempt := dl.spans.attempt; attempt != nil { // it was not sent after all
		setError(attempt, dl.err)
		attempt.End()
	}
	span := dl.spans.delivery
	span.SetAttributes(outcomeKey.String(dl.outcome.String()), attribute.Int("fanout.attempts", len(dl.attempts)))
	setError(span, dl.err)
	span.End()
}

func tellSpanOfWait(span trace.Span, why Wait, waited time.Duration) {
	span.AddEvent("fanout.wait", trace.WithAttributes(waitKey.String(string(why)), attribute.Float64("fanout.wait.duration", waited.Seconds())))
}

func (t tracer) startAttempt(ctx context.Context, dl *delivery) context.Context {
	name, attributes := "send", []attribute.KeyValue{targetKey.String(dl.target.Name)}
	if e := dl.target.endpoint; e != nil {
		name = e.conventions.spanName
		attributes = append(e.conventions.attributes(dl.request.URL), semconv.URLFull(redacted(dl.request.URL)))
		if e.conventions.original != "" {
			attributes = append(attributes, semconv.HTTPRequestMethodOriginal(e.conventions.original))
		}
	}
	if resends := len(dl.attempts); resends > 0 {
		attributes = append(attributes, semconv.HTTPRequestResendCount(resends))
	}
	ctx, dl.spans.attempt = t.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attributes...))
	return ctx
}

func (dl *delivery) endAttemptSpan(a *Attempt) {
	span := dl.spans.attempt
	dl.spans.attempt = nil
	if a.StatusCode != 0 {
		span.SetAttributes(semconv.HTTPResponseStatusCode(a.StatusCode))
	}
	switch {
	case a.StatusCode >= 400: // whatever a Classify made of it
		span.SetAttributes(semconv.ErrorTypeKey.String(statusClass(a.StatusCode)))
		span.SetStatus(codes.Error, "")
	case a.StatusCode == 0 || a.StatusCode/100 == 2:
		setError(span, a.Err)
	}
	span.End()
}

// setError leaves the caller's own cancel be: that is no failure.
func setError(span trace.Span, err error) {
	if class := ErrorClass(err); class != "" && class != canceledClass {
		span.SetAttributes(semconv.ErrorTypeKey.String(class))
		span.SetStatus(codes.Error, shown(err))
	}
}

// conventions are what OpenTelemetry asks for of an HTTP target.
type conventions struct {
	method   attribute.KeyValue
	original string // method, if it is none that the conventions know
	spanName string
}

func newConventions(method string) conventions {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodTrace, "QUERY":
		return conventions{method: semconv.HTTPRequestMethodKey.String(method), spanName: method}
	}
	return conventions{method: semconv.HTTPRequestMethodOther, original: method, spanName: "HTTP"}
}

func (c *conventions) attributes(u *url.URL) []attribute.KeyValue {
	return []attribute.KeyValue{c.method, semconv.ServerAddress(u.Hostname()), semconv.ServerPort(portOf(u))}
}

func portOf(u *url.URL) int {
	if u.Port() != "" {
		port, err := strconv.Atoi(u.Port())
		if err != nil {
			return math.MaxInt
		}
		return port
	}
	if u.Scheme == "https" {
		return 443
	}
	return 80
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

// propagator writes the span's context into requests.
type propagator struct{ configured propagation.TextMapPropagator }

// inject leaves baggage out, which is for this system and not for strangers, unless
// the propagator was configured here.
func (p propagator) inject(ctx context.Context, header http.Header) {
	propagator := p.configured
	if propagator == nil {
		propagator = otel.GetTextMapPropagator()
		if baggage.FromContext(ctx).Len() > 0 {
			ctx = baggage.ContextWithoutBaggage(ctx)
		}
	}
	propagator.Inject(ctx, propagation.HeaderCarrier(header))
}

// The attributes of this library.
const (
	targetKey        = attribute.Key("fanout.target")
	outcomeKey       = attribute.Key("fanout.outcome")
	dispatchIDKey    = attribute.Key("fanout.dispatch_id")
	correlationIDKey = attribute.Key("fanout.correlation_id")
	waitKey          = attribute.Key("fanout.wait.reason")
	stateKey         = attribute.Key("fanout.breaker.state")
)
