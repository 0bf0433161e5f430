package durable_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestTrace_LinksADeliveryToItsSubmitterOverARestart(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		spans := tracetest.NewInMemoryExporter()
		provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
		q, again := open(t, durable.Config{})
		require.NoError(t, q.Hold(t.Context(), "crm"))
		d := dispatcher(t, q, fanout.Config{TracerProvider: provider, Targets: []fanout.Target{fanouttest.NewSender().Target("crm")}})
		ctx, span := provider.Tracer("test").Start(fanout.WithCorrelationID(t.Context(), "visit-7"), "request")
		id, err := d.Submit(ctx, "entry")
		require.NoError(t, err)
		span.End()
		closeNow(t, d)

		sender := fanouttest.NewSender()
		var results fanouttest.Results
		q = again(t, durable.Config{})
		require.NoError(t, q.Resume(t.Context(), "crm"))
		seen := make(chan string, 1)
		d = dispatcher(t, q, fanout.Config{TracerProvider: provider, Targets: []fanout.Target{sender.Target("crm")}, OnResult: func(ctx context.Context, r fanout.Result) {
			seen <- fanout.CorrelationID(ctx)
			results.OnResult(ctx, r)
		}})
		wait(t, &results, id)
		assert.Equal(t, "visit-7", <-seen)
		assert.Equal(t, "visit-7", sender.Requests()[0].Payload.CorrelationID)
		closeNow(t, d)
		for _, s := range spans.GetSpans() {
			if s.Name == "deliver crm" {
				require.Len(t, s.Links, 1)
				assert.Equal(t, span.SpanContext().TraceID(), s.Links[0].SpanContext.TraceID())
				assert.NotEqual(t, span.SpanContext().TraceID(), s.SpanContext.TraceID(), "a trace of its own")
				return
			}
		}
		t.Error("no span of the delivery")
	})
}
