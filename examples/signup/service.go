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

// newDispatcher limits the wait for the targets by policy, because a person is waiting. A
// deadline on the context of the handler would limit it too. But when that deadline ends
// a delivery, the caller has ended it, and the breaker does not count it.
//
// The dispatcher writes to the log of the service, and names there what failed.
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

// problems describes what is wrong, in words for the person who signs up.
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

// newHandler routes the requests of the service. With background it answers first and
// delivers afterwards.
//
// The library's handler does the rest. It passes on the Idempotency-Key. A caller that
// repeats a sign-up therefore repeats the keys of the targets too, and a target that has
// it already can ignore it.
//
// It answers 502 if a required target did not get the sign-up: this service works, but
// something behind it does not. A caller that looks only at the status then sees that the
// sign-up is not complete.
func newHandler(d *fanout.Dispatcher, background bool) (http.Handler, error) {
	signUp, err := fanouthttp.NewHandler(d, fanouthttp.Config{Wait: !background, MaxBytes: maxBody, Validate: validate})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("POST /signup", toTheEnd(signUp))
	return mux, nil
}

// toTheEnd continues after the caller has disconnected. That person has still signed up,
// and it would be worse if only some of the targets knew.
func toTheEnd(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithoutCancel(r.Context())))
	})
}

// validate refuses a body that is no valid sign-up, before anything is sent.
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

// serve answers requests until ctx ends, and then stops without losing a request.
func serve(ctx context.Context, listener net.Listener, handler http.Handler, d *fanout.Dispatcher, logger *slog.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second, // must be more than ReadTimeout and dispatchTimeout together, or the answer is lost
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
		// The order matters. The server is stopped first: until its last handler has returned,
		// that handler may still dispatch, and a closed dispatcher would reject it. An error of
		// Close holds what was accepted and not delivered. Write it to the log or a file.
		err := server.Shutdown(grace)
		return errors.Join(err, d.Close(grace))
	})
	return group.Wait()
}
