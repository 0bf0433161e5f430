// Package otel makes OpenTelemetry's spans and metrics of what a dispatcher tells it.
// It knows nothing of deliveries: its arguments are what is told, and their classes
// and texts are safe to show.
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

// scope names this library.
const scope = "github.com/fanout-go/fanout"

// Telemetry is where a dispatcher's spans and metrics go.
type Telemetry struct {
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator // nil: the global one
	metrics
}

// New takes OpenTelemetry's global providers for those that are nil.
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

// MaxLabels is how many targets have time series of their own. All others, and
// those given in a call, share [OtherLabel]: a million webhooks must not flood a
// metrics store.
const MaxLabels = 1000

// OtherLabel is what all others share.
const OtherLabel = "_other"

// Target is what spans and metrics say of a target.
type Target struct {
	Name  string
	Label string // in metrics: its name, or one it shares
	HTTP  *HTTP  // nil if it is none
}

// HTTP is what the conventions for HTTP clients ask for of a target.
type HTTP struct {
	method   attribute.KeyValue
	original string // method, if it is none that the conventions know
	spanName string
}

// NewHTTP is for a target that is called by this method.
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

// Inject writes the span's context into a request. It leaves baggage out, which is for
// this system and not for strangers, unless a propagator was configured.
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

// Failure is an error as it is shown. The zero value is none.
type Failure struct{ Class, Text string }

// The attributes of this library.
const (
	targetKey        = attribute.Key("fanout.target")
	outcomeKey       = attribute.Key("fanout.outcome")
	dispatchIDKey    = attribute.Key("fanout.dispatch_id")
	correlationIDKey = attribute.Key("fanout.correlation_id")
	waitKey          = attribute.Key("fanout.wait.reason")
	stateKey         = attribute.Key("fanout.breaker.state")
)
