package fanout_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/fanout-go/fanout"
)

func ExampleNew() {
	d, err := fanout.New(fanout.Config{Targets: []fanout.Target{
		{Name: "email", URL: "https://email.example/v1/messages"},
		{Name: "crm", URL: "https://crm.example/contacts", Method: http.MethodPut},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer d.Close(context.Background())
	fmt.Println(d.TargetNames())
	// Output: [email crm]
}

func ExampleNew_invalid() {
	_, err := fanout.New(fanout.Config{Targets: []fanout.Target{
		{Name: "crm", URL: "crm.example/contacts"},
	}})
	var invalid *fanout.InvalidError
	fmt.Println(errors.As(err, &invalid), invalid.Target, invalid.Field)
	// Output: true crm URL
}

// The type of an error says how far the dispatch got. This is what a handler of your own
// can make of it.
func statusFor(err error) int {
	var invalid *fanout.InvalidError
	var refused *fanout.RefusedError
	switch {
	case err == nil:
		return http.StatusOK
	case errors.Is(err, fanout.ErrPayloadTooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, fanout.ErrPayloadRefused): // a validator said no
		return http.StatusUnprocessableEntity
	case errors.Is(err, fanout.ErrTargetGone): // by Config.Lookup
		return http.StatusNotFound
	case errors.Is(err, fanout.ErrNoTargets): // ours to repair
		return http.StatusServiceUnavailable
	case errors.As(err, &invalid) && invalid.Target == "": // the payload
		return http.StatusBadRequest
	case errors.As(err, &refused): // no room, closed, a database that is down
		return http.StatusServiceUnavailable
	default: // some targets failed
		return http.StatusBadGateway
	}
}

func ExampleRefusedError() {
	crm := serve(http.StatusBadRequest)
	defer crm.Close()
	d, _ := fanout.New(fanout.Config{
		Logger:   slog.New(slog.DiscardHandler),
		Targets:  []fanout.Target{{Name: "crm", URL: crm.URL}},
		Validate: func(_ context.Context, p *fanout.Payload) error { return tooLong(p.Body) },
	})
	defer d.Close(context.Background())

	for _, text := range []string{"hello", "a text that is too long"} {
		_, err := d.Dispatch(context.Background(), text)
		fmt.Println(statusFor(err), fanout.ClassOf(err))
		var failed *fanout.DispatchError
		if errors.As(err, &failed) {
			for _, f := range failed.Failures {
				fmt.Println("failed:", f.Target, f.Outcome, fanout.ClassOf(f))
			}
		}
	}
	_ = d.Close(context.Background())
	_, err := d.Dispatch(context.Background(), "hello")
	fmt.Println(statusFor(err), fanout.ClassOf(err))
	// Output:
	// 502 400
	// failed: crm failed 400
	// 422 invalid
	// 503 closed
}

func tooLong(body []byte) error {
	if len(body) > 10 {
		return errors.New("more than 10 bytes")
	}
	return nil
}

// A target may have a validator of its own. Nothing is sent to any target if one says no.
func ExampleTarget_validate() {
	email, crm := serve(http.StatusOK), serve(http.StatusOK)
	defer email.Close()
	defer crm.Close()
	needsEmail := func(_ context.Context, p *fanout.Payload) error {
		var s signup
		if err := json.Unmarshal(p.Body, &s); err != nil {
			return err
		}
		if s.Email == "" {
			return errors.New("no address")
		}
		return nil
	}
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{
		{Name: "email", URL: email.URL, Validate: needsEmail},
		{Name: "crm", URL: crm.URL},
	}})
	defer d.Close(context.Background())

	_, err := d.Dispatch(context.Background(), signup{Name: "Ada"})
	fmt.Println(err)
	// Output: fanout: target "email": Payload: refused: no address
}

// Lookup finds targets that are not configured, such as customers' webhooks in a database.
func ExampleConfig_lookup() {
	hook := serve(http.StatusAccepted)
	defer hook.Close()
	hooks := map[string]string{"customer 7": hook.URL}
	d, _ := fanout.New(fanout.Config{Lookup: func(_ context.Context, name string) (fanout.Target, error) {
		url, ok := hooks[name]
		if !ok {
			return fanout.Target{}, fanout.ErrTargetGone
		}
		return fanout.Target{URL: url}, nil
	}})
	defer d.Close(context.Background())

	results, err := d.Dispatch(context.Background(), ada, fanout.To("customer 7"))
	fmt.Println(results["customer 7"].Outcome, err)
	_, err = d.Dispatch(context.Background(), ada, fanout.To("customer 8"))
	fmt.Println(err)
	// Output:
	// delivered <nil>
	// fanout: target "customer 8": Name: there is no target of this name
}

// Hooks are told what happens as it happens.
func ExampleHooks() {
	crm := serve(http.StatusInternalServerError, http.StatusOK)
	defer crm.Close()
	d, _ := fanout.New(fanout.Config{
		Hooks: &fanout.Hooks{
			AttemptEnded: func(_ context.Context, e fanout.AttemptEvent) {
				fmt.Println(e.Request.Target, "attempt", e.Request.Attempt, "answered", e.Attempt.StatusCode)
			},
			DeliveryEnded: func(_ context.Context, r fanout.Result) { fmt.Println(r.Target, r.Outcome) },
		},
		Targets:  []fanout.Target{{Name: "crm", URL: crm.URL}},
		Defaults: fanout.Policy{Retry: fanout.Retry{InitialBackoff: time.Millisecond}},
	})
	defer d.Close(context.Background())

	_, _ = d.Dispatch(context.Background(), ada)
	// Output:
	// crm attempt 1 answered 500
	// crm attempt 2 answered 200
	// crm delivered
}

// A hedge runs beside an attempt that is slow, and the first success counts.
func ExampleHedge() {
	calls := make(chan int, 2)
	ledger := fanout.SenderFunc(func(ctx context.Context, r *fanout.Request) (*fanout.Response, error) {
		calls <- r.Attempt
		if r.Attempt == 1 {
			<-ctx.Done() // hangs
			return nil, ctx.Err()
		}
		return nil, nil
	})
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{{
		Name: "ledger", Sender: ledger,
		Policy: fanout.Policy{Hedge: fanout.Hedge{After: 10 * time.Millisecond}},
	}}})
	defer d.Close(context.Background())

	results, err := d.Dispatch(context.Background(), ada)
	fmt.Println(results["ledger"].Outcome, err)
	for _, a := range results["ledger"].Attempts {
		fmt.Printf("%q %v\n", a.Kind, a.Err != nil)
	}
	// Output:
	// delivered <nil>
	// "" true
	// "hedge" false
}
