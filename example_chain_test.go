package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/auth"
	"github.com/fanout-go/fanout/webhook"
)

func ExampleTarget_compensate() {
	bank, warehouse := serve(http.StatusCreated), serve(http.StatusUnprocessableEntity) // nothing in stock
	mail, analytics := serve(http.StatusAccepted), serve(http.StatusAccepted)
	for _, s := range []*httptest.Server{bank, warehouse, mail, analytics} {
		defer s.Close()
	}
	both := []string{"payment", "stock"}
	targets := []fanout.Target{
		{Name: "payment", URL: bank.URL + "/charges", Compensate: &fanout.Target{Name: "refund", URL: bank.URL + "/refunds"}},
		{Name: "stock", URL: warehouse.URL, Compensate: &fanout.Target{Name: "release", URL: warehouse.URL}},
		{Name: "mail", URL: mail.URL, After: both, Optional: true},
		{Name: "analytics", URL: analytics.URL, After: both, Optional: true},
	}
	d, _ := fanout.New(fanout.Config{Targets: targets, Logger: slog.New(slog.DiscardHandler)})
	defer d.Close(context.Background())

	results, _ := d.Dispatch(context.Background(), ada)
	for _, r := range results.Sorted() {
		fmt.Println(r.Target, r.Outcome)
	}
	// Output:
	// payment compensated
	// stock failed
	// mail skipped
	// analytics skipped
}

func ExampleTarget_fallback() {
	mail, text := serve(http.StatusForbidden), serve(http.StatusAccepted)
	defer mail.Close()
	defer text.Close()
	d, _ := fanout.New(fanout.Config{
		Logger: slog.New(slog.DiscardHandler),
		Targets: []fanout.Target{{
			Name: "mail", URL: mail.URL,
			Fallback: []fanout.Target{{Name: "text", URL: text.URL}},
		}},
	})
	defer d.Close(context.Background())

	results, err := d.Dispatch(context.Background(), ada)
	fmt.Println(results["mail"].Outcome, err)
	// Output: degraded <nil>
}

func ExampleQuorum() {
	quick, slow := serve(http.StatusOK), httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	defer quick.Close()
	defer slow.Close()
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{{Name: "quick", URL: quick.URL}, {Name: "slow", URL: slow.URL}}})
	defer d.Close(context.Background())

	results, err := d.Dispatch(context.Background(), ada, fanout.Quorum(1))
	fmt.Println(results["quick"].Outcome, err)
	// Output: delivered <nil>
}

func ExampleGuard() {
	hook := serve(http.StatusOK) // on loopback, as a stranger might wish
	defer hook.Close()
	d, _ := fanout.New(fanout.Config{Logger: slog.New(slog.DiscardHandler)})
	defer d.Close(context.Background())

	results, _ := d.Dispatch(context.Background(), ada, fanout.ToTargets(
		fanout.Target{
			Name: "customer 7", URL: hook.URL,
			Guard: fanout.PublicOnly(),                  // a stranger chose the URL: public addresses only
			Sign:  webhook.Signer(auth.Env("HOOK_KEY")), // as Standard Webhooks has it
		},
	))
	fmt.Println(errors.Is(results["customer 7"].Err(), fanout.ErrAuth)) // as there is no HOOK_KEY here
	// Output: true
}
