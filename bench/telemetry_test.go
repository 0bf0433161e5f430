package main

import (
	"context"
	"io"
	"log/slog"
	"testing"

	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/fanout-go/fanout"
)

// discard is an exporter that drops all spans.
type discard struct{}

func (discard) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return nil }
func (discard) Shutdown(context.Context) error                             { return nil }

// BenchmarkTelemetry measures a dispatch in memory to ten targets, with more and more
// telemetry switched on.
func BenchmarkTelemetry(b *testing.B) {
	traces := func(sampler sdktrace.Sampler) *sdktrace.TracerProvider {
		return sdktrace.NewTracerProvider(sdktrace.WithSampler(sampler), sdktrace.WithBatcher(discard{}))
	}
	for _, test := range []struct {
		name  string
		wants func(*fanout.Config)
	}{
		{"none", func(*fanout.Config) {}},
		{"metrics", func(c *fanout.Config) {
			c.MeterProvider = sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
		}},
		{"traces, not sampled", func(c *fanout.Config) {
			c.TracerProvider, c.Propagator = traces(sdktrace.NeverSample()), propagation.TraceContext{}
		}},
		{"traces", func(c *fanout.Config) {
			c.TracerProvider, c.Propagator = traces(sdktrace.AlwaysSample()), propagation.TraceContext{}
		}},
		{"debug log", func(c *fanout.Config) {
			c.Logger = slog.New(slog.NewJSONHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug})) //nolint:sloglint // encoding is what is measured
		}},
	} {
		b.Run(test.name, func(b *testing.B) {
			config := fanout.Config{Transport: atOnce{}}
			for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
				config.Targets = append(config.Targets, fanout.Target{Name: name, URL: "https://" + name + ".example/v1"})
			}
			test.wants(&config)
			d, err := fanout.New(config)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.Dispatch(b.Context(), payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
