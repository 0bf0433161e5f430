package fanout_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// records is a log in memory.
type records struct{ bytes.Buffer }

func (r *records) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(r, &slog.HandlerOptions{Level: level}))
}

func (r *records) all(t *testing.T) []map[string]any {
	t.Helper()
	var all []map[string]any
	for decoder := json.NewDecoder(r); decoder.More(); {
		var record map[string]any
		require.NoError(t, decoder.Decode(&record))
		delete(record, "time")
		delete(record, "duration")
		all = append(all, record)
	}
	return all
}

// spans is what a dispatcher's tracer has made.
type spans struct {
	*tracetest.InMemoryExporter
	provider *sdktrace.TracerProvider
}

// children are the ended spans under a parent, in the order they were begun.
func (s spans) children(parent trace.SpanContext) []tracetest.SpanStub {
	var found []tracetest.SpanStub
	for _, span := range s.GetSpans() {
		if span.Parent.SpanID() != parent.SpanID() {
			continue
		}
		at := len(found)
		for at > 0 && span.StartTime.Before(found[at-1].StartTime) {
			at--
		}
		found = append(found[:at], append([]tracetest.SpanStub{span}, found[at:]...)...)
	}
	return found
}

func (s spans) named(t *testing.T, name string) tracetest.SpanStub {
	t.Helper()
	for _, span := range s.GetSpans() {
		if span.Name == name {
			return span
		}
	}
	require.Fail(t, "no such span", name)
	return tracetest.SpanStub{}
}

// newSpans makes a tracer provider whose ended spans are kept.
func newSpans(t *testing.T) spans {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	t.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	return spans{exporter, provider}
}

// attributesOf are the attributes by key.
func attributesOf(attributes []attribute.KeyValue) map[string]any {
	all := make(map[string]any, len(attributes))
	for _, a := range attributes {
		all[string(a.Key)] = a.Value.AsInterface()
	}
	return all
}

// meter reads what a dispatcher has measured.
type meter struct {
	reader   *sdkmetric.ManualReader
	provider *sdkmetric.MeterProvider
}

// read returns every series by its name and attributes: a value, or how many
// were recorded.
func (m meter) read(t *testing.T) map[string]float64 {
	t.Helper()
	var data metricdata.ResourceMetrics
	require.NoError(t, m.reader.Collect(t.Context(), &data))
	all := map[string]float64{}
	for _, scope := range data.ScopeMetrics {
		for _, metric := range scope.Metrics {
			switch points := metric.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range points.DataPoints {
					all[seriesName(metric.Name, p.Attributes)] = float64(p.Value)
				}
			case metricdata.Gauge[int64]:
				for _, p := range points.DataPoints {
					all[seriesName(metric.Name, p.Attributes)] = float64(p.Value)
				}
			case metricdata.Gauge[float64]:
				for _, p := range points.DataPoints {
					all[seriesName(metric.Name, p.Attributes)] = p.Value
				}
			case metricdata.Histogram[float64]:
				for _, p := range points.DataPoints {
					all[seriesName(metric.Name, p.Attributes)] = float64(p.Count)
				}
			}
		}
	}
	return all
}

// newMeter makes a meter provider that is read by hand.
func newMeter() meter {
	reader := sdkmetric.NewManualReader()
	return meter{reader, sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))}
}

// seriesName is a series as read names it.
func seriesName(name string, attributes attribute.Set) string {
	return fmt.Sprintf("%s{%s}", name, attributes.Encoded(attribute.DefaultEncoder()))
}
