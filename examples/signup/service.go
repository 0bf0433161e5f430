package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/mail"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fanout-go/fanout"
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
// What was submitted is logged when it is done.
func newDispatcher(config fanout.Config, logger *slog.Logger) (*fanout.Dispatcher, error) {
	config.OnResult = alsoLog(config.OnResult, logger)
	config.Defaults.Timeout = cmp.Or(config.Defaults.Timeout, dispatchTimeout)
	config.Defaults.AttemptTimeout = cmp.Or(config.Defaults.AttemptTimeout, 2*time.Second)
	return fanout.New(config)
}

type onResult = func(context.Context, *fanout.Submission, fanout.Result)

func alsoLog(next onResult, logger *slog.Logger) onResult {
	return func(ctx context.Context, s *fanout.Submission, r fanout.Result) {
		logResult(ctx, logger, r)
		if next != nil {
			next(ctx, s, r)
		}
	}
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

func (s SignUp) validate() error {
	var errs []error
	if strings.TrimSpace(s.Name) == "" {
		errs = append(errs, errors.New("name is required"))
	}
	if s.Email == "" {
		errs = append(errs, errors.New("email is required"))
	} else if a, err := mail.ParseAddress(s.Email); err != nil || a.Address != s.Email {
		errs = append(errs, errors.New("email is not an address"))
	}
	return errors.Join(errs...)
}

// Report is the answer to a sign-up that was dispatched. It leaves out the
// targets' errors, which name internal hosts: those are for the log.
type Report struct {
	CorrelationID string         `json:"correlation_id"`
	DispatchID    string         `json:"dispatch_id,omitempty"` // of one that goes on in the background
	Targets       []TargetReport `json:"targets,omitempty"`
}

// TargetReport is what became of one target.
type TargetReport struct {
	Target     string         `json:"target"`
	Optional   bool           `json:"optional,omitempty"`
	Outcome    fanout.Outcome `json:"outcome"`
	Status     int            `json:"status,omitempty"` // of the last answer; none if there was no answer
	Attempts   int            `json:"attempts"`
	DurationMS int64          `json:"duration_ms"`
}

func newReport(correlationID string, results []fanout.Result) Report {
	report := Report{CorrelationID: correlationID}
	for _, r := range results {
		t := TargetReport{
			Target:     r.Target,
			Optional:   r.Optional,
			Outcome:    r.Outcome,
			Attempts:   len(r.Attempts),
			DurationMS: r.Duration.Round(time.Millisecond).Milliseconds(),
		}
		if r.Response != nil {
			t.Status = r.Response.StatusCode
		}
		report.Targets = append(report.Targets, t)
	}
	return report
}

// Problem is the answer to a request that was refused, as in RFC 9457.
type Problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
}

type service struct {
	dispatcher *fanout.Dispatcher
	logger     *slog.Logger
	background bool // answer first, deliver then
}

// newHandler routes the service's requests and gives each a correlation ID,
// which is on its answer, in its log records and on every request to a target.
func newHandler(d *fanout.Dispatcher, logger *slog.Logger, background bool) http.Handler {
	s := &service{dispatcher: d, logger: logger, background: background}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /signup", s.signUp)
	return fanout.CorrelationMiddleware(mux)
}

func (s *service) signUp(w http.ResponseWriter, r *http.Request) {
	signUp, problem := decodeSignUp(w, r)
	if problem != nil {
		writeProblem(w, *problem)
		return
	}

	payload := fanout.Payload{
		Value: signUp,
		// A caller that repeats a sign-up with its key repeats the targets' keys
		// too, so that those which have it already need not take it twice.
		IdempotencyKey: r.Header.Get("Idempotency-Key"),
	}
	if s.background {
		s.submit(w, r, payload)
	} else {
		s.dispatch(w, r, payload)
	}
}

// submit answers at once. A queue that is full is the service's only way to say
// that its targets are slower than its callers.
func (s *service) submit(w http.ResponseWriter, r *http.Request, payload fanout.Payload) {
	id, err := s.dispatcher.Submit(r.Context(), payload)
	switch {
	case errors.Is(err, fanout.ErrFull), errors.Is(err, fanout.ErrClosed):
		w.Header().Set("Retry-After", "1")
		writeProblem(w, Problem{http.StatusServiceUnavailable, "Try again later", "too much to do at the moment"})
	case err != nil:
		writeProblem(w, badRequest(err))
	default:
		writeJSON(w, http.StatusAccepted, "application/json", Report{CorrelationID: fanout.CorrelationID(r.Context()), DispatchID: id})
	}
}

// dispatch answers when all targets have been delivered to, or given up on.
func (s *service) dispatch(w http.ResponseWriter, r *http.Request, payload fanout.Payload) {
	// A caller who hangs up has still signed up: half a dispatch would be worse
	// than one that nobody waits for. The correlation ID stays in the context.
	ctx := context.WithoutCancel(r.Context())
	results, err := s.dispatcher.Dispatch(ctx, payload)
	if errors.Is(err, fanout.ErrInvalid) && !errors.As(err, new(*fanout.DispatchError)) {
		writeProblem(w, badRequest(err))
		return
	}
	for _, r := range results.Sorted() {
		logResult(ctx, s.logger, r)
	}

	// 502 because this service is well and what is behind it is not. Not 200 or
	// 207: a caller that looks at nothing but the status must not take half a
	// sign-up for a whole one. It may repeat the request with the same key.
	status := http.StatusCreated
	if err != nil {
		status = http.StatusBadGateway
	}
	writeJSON(w, status, "application/json", newReport(fanout.CorrelationID(ctx), results.Sorted()))
}

// badRequest shows what is wrong with the caller's key; all else was validated.
func badRequest(err error) Problem {
	var invalid *fanout.InvalidError
	if errors.As(err, &invalid) && invalid.Field == "Payload.IdempotencyKey" {
		return Problem{http.StatusBadRequest, "Invalid Idempotency-Key", invalid.Err.Error()}
	}
	return Problem{http.StatusBadRequest, "Bad Request", ""}
}

// logResult names the target and what it met, but not who signed up.
func logResult(ctx context.Context, logger *slog.Logger, r fanout.Result) {
	level := slog.LevelInfo
	args := []any{"target", r.Target, "outcome", r.Outcome, "attempts", len(r.Attempts)}
	if r.Err != nil {
		level = slog.LevelError
		if r.Optional {
			level = slog.LevelWarn
		}
		args = append(args, "error", r.Err)
	}
	logger.Log(ctx, level, "sign-up dispatched", args...)
}

func decodeSignUp(w http.ResponseWriter, r *http.Request) (SignUp, *Problem) {
	var signUp SignUp
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return signUp, &Problem{http.StatusRequestEntityTooLarge, "Body too large", fmt.Sprintf("the limit is %d bytes", tooLarge.Limit)}
	}
	if err == nil {
		err = json.Unmarshal(body, &signUp)
	}
	if err != nil {
		return signUp, &Problem{http.StatusBadRequest, "Body is not a sign-up in JSON", err.Error()}
	}
	if err := signUp.validate(); err != nil {
		return signUp, &Problem{http.StatusUnprocessableEntity, "Invalid sign-up", strings.ReplaceAll(err.Error(), "\n", "; ")}
	}
	return signUp, nil
}

func writeProblem(w http.ResponseWriter, p Problem) {
	writeJSON(w, p.Status, "application/problem+json", p)
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // fails only if the caller has gone
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
