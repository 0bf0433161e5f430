// Package otel makes OpenTelemetry spans and metrics of what a dispatcher tells it. It
// does not know deliveries: it gets plain values, whose classes and texts are safe to
// show.
package otel

import (
	"context"
	"net/http"
	"net/url"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/fanout-go/fanout/internal/guard"
)

// scope is the name of this library.
const scope = "github.com/fanout-go/fanout"

// Telemetry makes the spans and metrics of one dispatcher.
type Telemetry struct {
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator // nil: the global one
	metrics
}

// New uses OpenTelemetry's global providers for arguments that are nil.
func New(traces trace.TracerProvider, meters metric.MeterProvider, propagator propagation.TextMapPropagator) *Telemetry {
	if traces == nil {
		traces = otel.GetTracerProvider()
	}
	if meters == nil {
		meters = otel.GetMeterProvider()
	}
	t := &Telemetry{
		tracer:     traces.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)),
		propagator: propagator,
	}
	t.init(meters.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL)))
	return t
}

// MaxLabels is how many targets have time series of their own. All others, and targets
// given in a call, share [OtherLabel]. Otherwise a million webhooks would flood a metrics
// store.
const MaxLabels = 1000

// OtherLabel is the label that all other targets share.
const OtherLabel = "_other"

// Target holds what spans and metrics need to know about a target.
type Target struct {
	Name  string
	Label string // in metrics: the target's name, or the shared label
	HTTP  *HTTP  // nil if the target is not HTTP
}

// HTTP holds what the conventions for HTTP clients say about a target.
type HTTP struct {
	method   attribute.KeyValue
	original string // the method, if the conventions do not know it
	spanName string
}

// NewHTTP is for a target that is called with this method.
func NewHTTP(method string) *HTTP {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodTrace, "QUERY":
		return &HTTP{method: semconv.HTTPRequestMethodKey.String(method), spanName: method}
	}
	return &HTTP{method: semconv.HTTPRequestMethodOther, original: method, spanName: "HTTP"}
}

func (h *HTTP) attributes(u *url.URL) []attribute.KeyValue {
	return []attribute.KeyValue{h.method, semconv.ServerAddress(u.Hostname()), semconv.ServerPort(guard.Port(u))}
}

// Inject writes the span's context into a request. It leaves out baggage, which is for
// our own system and not for strangers, unless a propagator was configured.
func (t *Telemetry) Inject(ctx context.Context, header http.Header) {
	propagator := t.propagator
	if propagator == nil {
		propagator = otel.GetTextMapPropagator()
		if baggage.FromContext(ctx).Len() > 0 {
			ctx = baggage.ContextWithoutBaggage(ctx)
		}
	}
	propagator.Inject(ctx, propagation.HeaderCarrier(header))
}

// Failure is an error as it may be shown. The zero value means no error.
type Failure struct{ Class, Text string }

// The attributes that this library defines.
const (
	targetKey        = attribute.Key("fanout.target")
	outcomeKey       = attribute.Key("fanout.outcome")
	dispatchIDKey    = attribute.Key("fanout.dispatch_id")
	correlationIDKey = attribute.Key("fanout.correlation_id")
	waitKey          = attribute.Key("fanout.wait.reason")
	stateKey         = attribute.Key("fanout.breaker.state")
)
