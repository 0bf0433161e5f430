package main

import (
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouthttp"
)

// newService makes what your own service would have: a dispatcher with its telemetry, a
// handler for users, and two handlers for operators.
func newService(targets []fanout.Target, t *telemetry, log slog.Handler) (http.Handler, *fanout.Dispatcher, error) {
	dispatcher, err := fanout.New(fanout.Config{
		Targets:        targets,
		Logger:         slog.New(fanout.NewCorrelationHandler(log)),
		TracerProvider: t.traces,
		MeterProvider:  t.metrics,
		Propagator:     t.propagator,
	})
	if err != nil {
		return nil, nil, err
	}
	mux := http.NewServeMux()
	signUp, err := fanouthttp.NewHandler(dispatcher, fanouthttp.Config{})
	if err != nil {
		return nil, nil, err
	}
	mux.Handle("POST /signup", otelhttp.NewHandler(signUp, "sign up",
		otelhttp.WithTracerProvider(t.traces), otelhttp.WithMeterProvider(t.metrics), otelhttp.WithPropagators(t.propagator)))
	// The next two handlers are for operators. In production, serve them on a separate port.
	mux.Handle("GET /metrics", promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{}))
	mux.Handle("GET /debug/fanout", fanouthttp.StatusHandler(dispatcher))
	return mux, dispatcher, nil
}
