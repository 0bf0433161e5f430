// Signup is a service that takes sign-ups over HTTP and sends each to three APIs at once:
// email, CRM and analytics. It shows [fanouthttp.Handler] with a check of the body, an
// optional target, one correlation ID from the caller through the log to the targets, and
// a shutdown that loses nothing.
//
//	go run ./examples/signup
//
// starts the service with fakes of the three APIs, signs up once, and prints the result
// of each target. In a fresh clone it compiles for about half a minute first, without any
// output. Two of the fakes have problems: the CRM is unavailable at first, and analytics
// is slow.
//
//	go run ./examples/signup -submit
//
// answers before it delivers, and
//
//	go run ./examples/signup -serve
//	curl -d @testdata/signup.json -H 'Content-Type: application/json' http://127.0.0.1:8080/signup
//
// keeps it running. With -targets FILE it sends to your own targets instead, see
// testdata/targets.json. The code to copy is in service.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanoutfile"
	"github.com/fanout-go/fanout/fanouthttp"
	"github.com/fanout-go/fanout/internal/usage"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(usage.Status("signup", run(ctx, os.Args[1:], os.Stdout, os.Stderr), os.Stderr))
}

const does = `A service that takes sign-ups over HTTP and sends each to three APIs at once. It signs up
once, prints the result of each API, and ends.`

type options struct {
	serve, submit          bool
	addr, payload, targets string
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := usage.Flags("signup", does, stderr)
	flags.BoolVar(&o.serve, "serve", false, "keep serving until Ctrl-C or SIGTERM, instead of signing up once")
	flags.BoolVar(&o.submit, "submit", false, "answer 202 at once and deliver in the background")
	flags.StringVar(&o.addr, "addr", "", "listen on `HOST:PORT` (default 127.0.0.1:8080 with -serve, else any free port)")
	flags.StringVar(&o.payload, "payload", "testdata/signup.json", "sign up with the JSON in `FILE`")
	flags.StringVar(&o.targets, "targets", "", "send to the targets defined in `FILE` instead of the fakes")
	if err := usage.Parse(flags, args); err != nil {
		return o, err
	}
	if o.addr == "" {
		o.addr = "127.0.0.1:0"
		if o.serve {
			o.addr = "127.0.0.1:8080"
		}
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	var payload []byte
	if !o.serve {
		if payload, err = readPayload(o.payload); err != nil {
			return err
		}
	}

	var config fanout.Config
	if o.targets == "" {
		fakes := startFakes()
		defer fakes.close()
		config.Targets = fakes.targets()
	} else if config, err = fanoutfile.Load(o.targets); err != nil {
		return err
	}
	done := results{all: fanout.Results{}}
	config.Hooks = &fanout.Hooks{DeliveryEnded: done.add}
	logger := slog.New(fanout.NewCorrelationHandler(slog.NewTextHandler(stderr, nil)))
	dispatcher, err := newDispatcher(config, logger)
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", o.addr)
	if err != nil {
		return errors.Join(err, dispatcher.Close(ctx))
	}
	handler, err := newHandler(dispatcher, o.submit)
	if err != nil {
		return errors.Join(err, listener.Close(), dispatcher.Close(ctx))
	}
	url := "http://" + listener.Addr().String() + "/signup"

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	served := make(chan error, 1)
	go func() { served <- serve(ctx, listener, handler, dispatcher, logger) }()
	if o.serve {
		fmt.Fprintf(stdout, "listening on %s; Ctrl-C stops\n", url)
		return <-served
	}
	report, err := demo(ctx, url, payload, stdout)
	stop() // this finishes what was submitted
	if err = errors.Join(err, <-served); err != nil {
		return err
	}
	if o.submit {
		report = fanouthttp.NewReport(report.CorrelationID, done.all)
	}
	return errors.Join(writeTable(stdout, report, done.all), failures(report))
}
