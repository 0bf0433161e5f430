// Observability is a service that takes sign-ups and sends each to three APIs. It shows
// what OpenTelemetry sees: metrics for Prometheus, metrics and traces by OTLP, a log, and
// a live page of its targets.
//
//	go run -C examples/observability .
//
// starts it with fakes of the three APIs, some of which fail, and signs up a few times a
// second, so that there is something to see:
//
//	http://127.0.0.1:8080/debug/fanout   the targets, live
//	http://127.0.0.1:8080/metrics        for Prometheus
//
// If OTEL_EXPORTER_OTLP_ENDPOINT names a collector, traces and metrics are sent to it.
// The other variables of OpenTelemetry's specification work too. A Prometheus
// configuration with alert rules and a Grafana dashboard are beside this file.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/internal/usage"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(usage.Status("observability", run(ctx, os.Args[1:], os.Stdout, os.Stderr), os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := usage.Flags("observability", "A service that is seen through OpenTelemetry. It signs up a few times a second until Ctrl-C or SIGTERM.", stderr)
	addr := flags.String("addr", "127.0.0.1:8080", "listen on `HOST:PORT`")
	traffic := flags.Float64("traffic", 5, "sign up `N` times a second; 0 means not at all")
	if err := usage.Parse(flags, args); err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", *addr)
	if err != nil {
		return err
	}
	url := "http://" + listener.Addr().String()
	fmt.Fprintf(stdout, "targets  %[1]s/debug/fanout\nmetrics  %[1]s/metrics\nsign up  curl -H 'Content-Type: application/json' -d '{\"email\":\"ada@example.com\"}' %[1]s/signup\n", url)

	fakes := startFakes()
	defer fakes.close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serve(ctx, listener, fakes.targets(), stderr) })
	group.Go(func() error { signUp(ctx, url+"/signup", *traffic); return nil })
	return group.Wait()
}

// serve answers requests until ctx ends. Then it finishes what was accepted. Last it
// flushes traces and metrics.
func serve(ctx context.Context, listener net.Listener, targets []fanout.Target, logTo io.Writer) (err error) {
	telemetry, err := newTelemetry(ctx)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	handler, dispatcher, err := newService(targets, telemetry, slog.NewTextHandler(logTo, nil))
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	stopped := make(chan error, 1)
	context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		stopped <- errors.Join(server.Shutdown(grace), dispatcher.Close(grace), telemetry.shutdown(grace))
	})
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

func signUp(ctx context.Context, url string, perSecond float64) {
	if perSecond <= 0 {
		return
	}
	ticker := time.NewTicker(time.Duration(float64(time.Second) / perSecond))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewBufferString(`{"email":"ada@example.com"}`))
		if err != nil {
			return
		}
		request.Header.Set("Content-Type", "application/json")
		if answer, err := http.DefaultClient.Do(request); err == nil {
			_ = answer.Body.Close()
		}
	}
}
