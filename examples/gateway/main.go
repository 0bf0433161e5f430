// Gateway is an HTTP service in front of two APIs, made with [fanouthttp.Handler]. What
// is posted to it is sent to both.
//
//	go run ./examples/gateway
//
// starts it with fakes of the APIs and posts two events. The first one is answered when
// both APIs have it, the second one at once. Both answers are printed.
//
//	go run ./examples/gateway -serve
//	curl -d '{"type":"order.paid"}' -H 'Content-Type: application/json' http://127.0.0.1:8080/events
//
// keeps it running. A request to /events?wait=1 is answered when both APIs have it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouthttp"
	"github.com/fanout-go/fanout/internal/usage"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(usage.Status("gateway", run(ctx, os.Args[1:], os.Stdout, os.Stderr), os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := usage.Flags("gateway", "A gateway in front of two APIs. It posts two events to itself, prints the answers, and ends.", stderr)
	keep := flags.Bool("serve", false, "keep serving on 127.0.0.1:8080 until Ctrl-C or SIGTERM")
	if err := usage.Parse(flags, args); err != nil {
		return err
	}
	crm, billing := fakeAPI(http.StatusOK), fakeAPI(http.StatusCreated)
	defer crm.Close()
	defer billing.Close()
	d, err := fanout.New(fanout.Config{Targets: []fanout.Target{
		{Name: "crm", URL: crm.URL},
		{Name: "billing", URL: billing.URL},
	}})
	if err != nil {
		return err
	}

	handler, err := routes(d)
	if err != nil {
		return errors.Join(err, d.Close(ctx))
	}
	address := "127.0.0.1:0"
	if *keep {
		address = "127.0.0.1:8080"
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return errors.Join(err, d.Close(ctx))
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	url := "http://" + listener.Addr().String() + "/events"
	if *keep {
		fmt.Fprintf(stdout, "listening on %s\n", url)
		<-ctx.Done()
	} else {
		err = errors.Join(show(ctx, stdout, url+"?wait=1"), show(ctx, stdout, url))
	}

	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	err = errors.Join(err, server.Shutdown(grace), d.Close(grace))
	if serving := <-served; !errors.Is(serving, http.ErrServerClosed) {
		err = errors.Join(err, serving)
	}
	return err
}

// routes returns a handler that answers at once, unless the caller asks it to wait.
func routes(d *fanout.Dispatcher) (http.Handler, error) {
	config := fanouthttp.Config{
		ForwardHeader: []string{"X-Tenant"},
		Validate: func(_ *http.Request, body []byte) error {
			if !json.Valid(body) {
				return errors.New("the body is not JSON")
			}
			return nil
		},
	}
	atOnce, err := fanouthttp.NewHandler(d, config)
	if err != nil {
		return nil, err
	}
	config.Wait = true
	waiting, err := fanouthttp.NewHandler(d, config)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /events", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("wait") {
			waiting.ServeHTTP(w, r)
		} else {
			atOnce.ServeHTTP(w, r)
		}
	})
	return mux, nil
}

func show(ctx context.Context, stdout io.Writer, url string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(`{"type":"order.paid","order":7}`))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	fmt.Fprintf(stdout, "POST %s\n%s\n%s\n", url, answer.Status, body)
	return err
}

func fakeAPI(status int) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
}
