package main

import (
	"context"
	"errors"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// telemetry is the OpenTelemetry SDK, configured by its environment variables.
type telemetry struct {
	registry   *prometheus.Registry
	metrics    *sdkmetric.MeterProvider
	traces     *sdktrace.TracerProvider
	propagator propagation.TextMapPropagator
}

func newTelemetry(ctx context.Context) (*telemetry, error) {
	// A later option wins. So OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override the
	// name.
	service, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "signup")), resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	scraped, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo())
	if err != nil {
		return nil, err
	}
	metrics := []sdkmetric.Option{sdkmetric.WithResource(service), sdkmetric.WithReader(scraped)}
	traces := []sdktrace.TracerProviderOption{sdktrace.WithResource(service)}
	if exported("METRICS") {
		exporter, err := otlpmetrichttp.New(ctx)
		if err != nil {
			return nil, err
		}
		metrics = append(metrics, sdkmetric.WithReader(sdkmetric.NewPeriodicReader(exporter)))
	}
	if exported("TRACES") {
		exporter, err := otlptracehttp.New(ctx)
		if err != nil {
			return nil, err
		}
		traces = append(traces, sdktrace.WithBatcher(exporter))
	}
	return &telemetry{registry, sdkmetric.NewMeterProvider(metrics...), sdktrace.NewTracerProvider(traces...), propagation.TraceContext{}}, nil
}

// exported reports whether the environment names a collector for this kind of signal.
func exported(signal string) bool {
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
}

func (t *telemetry) shutdown(ctx context.Context) error {
	return errors.Join(t.traces.Shutdown(ctx), t.metrics.Shutdown(ctx))
}
