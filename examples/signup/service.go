package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/mail"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouthttp"
)

const (
	maxBody         = 64 << 10
	dispatchTimeout = 5 * time.Second
	shutdownTimeout = 15 * time.Second
)

// newDispatcher bounds the wait for the targets by policy, since a person is
// waiting. A deadline on the handler's context would do so too, but what ends by
// that is the caller's doing and never opens a breaker.
//
// The dispatcher writes to the service's own log, and names there what failed.
func newDispatcher(config fanout.Config, logger *slog.Logger) (*fanout.Dispatcher, error) {
	config.Logger = logger
	config.Defaults.Timeout = cmp.Or(config.Defaults.Timeout, dispatchTimeout)
	config.Defaults.AttemptTimeout = cmp.Or(config.Defaults.AttemptTimeout, 2*time.Second)
	return fanout.New(config)
}

// SignUp is the body of POST /signup and the payload that every target gets.
type SignUp struct {
	Name     string `json:"name"`
	Email    string `json:"email"`
	Company  string `json:"company,omitempty"`
	Plan     string `json:"plan,omitempty"`
	Seats    int    `json:"seats,omitempty"`
	Locale   string `json:"locale,omitempty"`
	Referrer string `json:"referrer,omitempty"`
}

// problems are in words for whoever signs up.
func (s SignUp) problems() []string {
	var problems []string
	if strings.TrimSpace(s.Name) == "" {
		problems = append(problems, "name is required")
	}
	if s.Email == "" {
		problems = append(problems, "email is required")
	} else if a, err := mail.ParseAddress(s.Email); err != nil || a.Address != s.Email {
		problems = append(problems, "email is not an address")
	}
	return problems
}

// newHandler routes the service's requests. With background it answers first, and
// delivers then.
//
// The library's handler does the rest. It passes on the Idempotency-Key, so a caller that
// repeats a sign-up repeats the targets' keys too, and those that have it already need
// not take it twice. It answers 502 if a required target did not get the sign-up, because
// this service is well and what is behind it is not: a caller that looks at nothing but
// the status must not take half a sign-up for a whole one.
func newHandler(d *fanout.Dispatcher, background bool) (http.Handler, error) {
	signUp, err := fanouthttp.NewHandler(d, fanouthttp.Config{Wait: !background, MaxBytes: maxBody, Validate: validate})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("POST /signup", toTheEnd(signUp))
	return mux, nil
}

// toTheEnd goes on though the caller hangs up: whoever hangs up has still signed up, and half
// a dispatch would be worse than one that nobody waits for.
func toTheEnd(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithoutCancel(r.Context())))
	})
}

// validate refuses what is no sign-up before anything is sent.
func validate(_ *http.Request, body []byte) error {
	var signUp SignUp
	if err := json.Unmarshal(body, &signUp); err != nil {
		return &fanouthttp.Problem{Status: http.StatusBadRequest, Title: "Body is not a sign-up in JSON", Detail: err.Error()}
	}
	if problems := signUp.problems(); len(problems) > 0 {
		return &fanouthttp.Problem{Status: http.StatusUnprocessableEntity, Title: "Invalid sign-up", Detail: strings.Join(problems, "; ")}
	}
	return nil
}

// serve answers requests until ctx ends, and then stops without losing any.
func serve(ctx context.Context, listener net.Listener, handler http.Handler, d *fanout.Dispatcher, logger *slog.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second, // more than ReadTimeout and dispatchTimeout, or the answer is lost
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		// The server first: until its last handler has returned it may still
		// dispatch, and a closed dispatcher would reject that. An error of Close
		// has what was accepted and not delivered, for the log or a file.
		err := server.Shutdown(grace)
		return errors.Join(err, d.Close(grace))
	})
	return group.Wait()
}
