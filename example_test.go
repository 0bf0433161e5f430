package fanout_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"time"

	"github.com/fanout-go/fanout"
)

type signup struct {
	Name  string `json:"name"`
	Email string `json:"email"`
}

var ada = signup{Name: "Ada", Email: "ada@example.com"}

// serve starts an API that answers with the statuses in turn, the last one
// for ever, and a small JSON body.
func serve(statuses ...int) *httptest.Server {
	var calls atomic.Int64
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		call := min(int(calls.Add(1)), len(statuses))
		w.WriteHeader(statuses[call-1])
		_, _ = io.WriteString(w, `{"id":"c-1"}`)
	}))
}

func Example() {
	email, crm := serve(http.StatusAccepted), serve(http.StatusCreated)
	defer email.Close()
	defer crm.Close()

	d, err := fanout.New(fanout.Config{Targets: []fanout.Target{
		{Name: "email", URL: email.URL},
		{Name: "crm", URL: crm.URL, Method: http.MethodPut},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	defer d.Close(ctx)

	results, err := d.Dispatch(ctx, signup{Name: "Ada", Email: "ada@example.com"})
	fmt.Println("error:", err)
	for _, r := range results.Sorted() {
		fmt.Println(r.Target, r.Outcome, r.Response.StatusCode)
	}
	// Output:
	// error: <nil>
	// email delivered 202
	// crm delivered 201
}

func ExampleResults_Err() {
	email, crm := serve(http.StatusAccepted), serve(http.StatusBadRequest)
	defer email.Close()
	defer crm.Close()
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{
		{Name: "email", URL: email.URL},
		{Name: "crm", URL: crm.URL},
	}})
	defer d.Close(context.Background())

	_, err := d.Dispatch(context.Background(), ada)
	fmt.Println(err)

	var status *fanout.StatusError
	if errors.As(err, &status) {
		fmt.Println("status", status.StatusCode)
	}
	// Output:
	// fanout: 1 of 2 targets not delivered: crm: not retried after 1 attempt: 400 Bad Request
	// status 400
}

func ExampleDecode() {
	crm := serve(http.StatusCreated)
	defer crm.Close()
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{{Name: "crm", URL: crm.URL}}})
	defer d.Close(context.Background())

	results, _ := d.Dispatch(context.Background(), ada)
	contact, err := fanout.Decode[struct{ ID string }](results["crm"])
	fmt.Println(contact.ID, err)
	// Output: c-1 <nil>
}

func ExampleRetry() {
	crm := serve(http.StatusInternalServerError, http.StatusInternalServerError, http.StatusCreated)
	defer crm.Close()
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{{
		Name: "crm", URL: crm.URL,
		Policy: fanout.Policy{Retry: fanout.Retry{MaxAttempts: 5, InitialBackoff: time.Millisecond}},
	}}})
	defer d.Close(context.Background())

	results, _ := d.Dispatch(context.Background(), ada)
	for _, a := range results["crm"].Attempts {
		fmt.Println(a.StatusCode, a.Err)
	}
	// Output:
	// 500 500 Internal Server Error
	// 500 500 Internal Server Error
	// 201 <nil>
}

func ExampleBreaker() {
	crm := serve(http.StatusInternalServerError)
	defer crm.Close()
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{{
		Name: "crm", URL: crm.URL,
		Policy: fanout.Policy{
			Retry:   fanout.Retry{MaxAttempts: 1},
			Breaker: fanout.Breaker{ConsecutiveFailures: 2, OpenFor: time.Minute},
		},
	}}})
	defer d.Close(context.Background())

	for range 3 {
		results, _ := d.Dispatch(context.Background(), ada)
		state, _ := d.BreakerState("crm")
		fmt.Println(results["crm"].Outcome, state)
	}
	// Output:
	// failed closed
	// failed open
	// rejected open
}

func ExampleBulkhead() {
	entered, release := make(chan struct{}), make(chan struct{})
	slow := fanout.SenderFunc(func(context.Context, *fanout.Request) (*fanout.Response, error) {
		entered <- struct{}{}
		<-release
		return nil, nil
	})
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{{
		Name: "ledger", Sender: slow,
		Policy: fanout.Policy{Bulkhead: fanout.Bulkhead{MaxConcurrent: 1, MaxQueue: -1}},
	}}})
	defer d.Close(context.Background())

	first := make(chan fanout.Results)
	go func() {
		results, _ := d.Dispatch(context.Background(), ada)
		first <- results
	}()
	<-entered
	second, _ := d.Dispatch(context.Background(), ada)
	close(release)
	fmt.Println((<-first)["ledger"].Outcome)
	fmt.Println(second["ledger"].Err())
	// Output:
	// delivered
	// ledger: bulkhead full
}

func ExampleRateLimit() {
	crm := serve(http.StatusCreated)
	defer crm.Close()
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{{
		Name: "crm", URL: crm.URL,
		Policy: fanout.Policy{RateLimit: fanout.RateLimit{PerSecond: 0.001, Burst: 1, MaxWait: -1}},
	}}})
	defer d.Close(context.Background())

	for range 2 {
		_, err := d.Dispatch(context.Background(), ada)
		fmt.Println(err)
	}
	// Output:
	// <nil>
	// fanout: 1 of 1 targets not delivered: crm: rate limited
}

func ExampleSender() {
	ledgerSDK := func(_ context.Context, r *fanout.Request) (*fanout.Response, error) {
		var entry signup
		if err := json.Unmarshal(r.Body, &entry); err != nil {
			return nil, fanout.Permanent(err)
		}
		fmt.Println("booked", entry.Name)
		return nil, nil
	}
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{
		{Name: "ledger", Sender: fanout.SenderFunc(ledgerSDK)},
	}})
	defer d.Close(context.Background())

	results, _ := d.Dispatch(context.Background(), ada)
	fmt.Println(results["ledger"].Outcome)
	// Output:
	// booked Ada
	// delivered
}

func ExampleDispatcher_Submit() {
	crm := serve(http.StatusCreated)
	defer crm.Close()
	d, _ := fanout.New(fanout.Config{
		Targets: []fanout.Target{{Name: "crm", URL: crm.URL}},
		OnResult: func(_ context.Context, r fanout.Result) {
			fmt.Println(r.Target, r.Outcome)
		},
	})

	ctx := context.Background()
	id, err := d.Submit(ctx, signup{Name: "Ada", Email: "ada@example.com"})
	fmt.Println(id != "", err)

	// On SIGTERM: first http.Server.Shutdown, so that no handler submits any more.
	fmt.Println(d.Close(ctx))
	// Unordered output:
	// true <nil>
	// crm delivered
	// <nil>
}

func ExampleDispatcher_SetTargets() {
	first, second := serve(http.StatusOK), serve(http.StatusOK)
	defer first.Close()
	defer second.Close()
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{{Name: "first", URL: first.URL}}})
	defer d.Close(context.Background())

	if err := d.SetTargets(fanout.Target{Name: "second", URL: second.URL}); err != nil {
		fmt.Println(err)
	}
	d.RemoveTargets("first")
	results, _ := d.Dispatch(context.Background(), ada)
	fmt.Println(len(results), results["second"].Outcome)
	// Output: 1 delivered
}

func ExampleRefresher() {
	statuses := inTurn(http.StatusUnauthorized, http.StatusOK)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Header.Get("Authorization"))
		w.WriteHeader(statuses())
	}))
	defer api.Close()
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{
		{Name: "crm", URL: api.URL, Auth: &token{value: "stale"}},
	}})
	defer d.Close(context.Background())

	_, err := d.Dispatch(context.Background(), ada)
	fmt.Println(err)
	// Output:
	// Bearer stale
	// Bearer fresh
	// <nil>
}

var _ fanout.Refresher = (*token)(nil)

type token struct{ value string }

func (t *token) Authenticate(_ context.Context, r *http.Request) error {
	r.Header.Set("Authorization", "Bearer "+t.value)
	return nil
}

func (t *token) Refresh(context.Context, *http.Request) error {
	t.value = "fresh"
	return nil
}

func ExamplePayload() {
	api := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Println(r.Header.Get("Content-Type"), r.Header.Get("Idempotency-Key"), string(body))
	}))
	defer api.Close()
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{{Name: "billing", URL: api.URL}}})
	defer d.Close(context.Background())

	_, err := d.Dispatch(context.Background(), fanout.Payload{
		Body:        []byte("<order id='7'/>"),
		ContentType: "application/xml",
		Key:         "order-7",
	})
	fmt.Println(err)
	// Output:
	// application/xml order-7:billing <order id='7'/>
	// <nil>
}

func ExamplePayload_idempotencyKey() {
	payment := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Header.Get("Idempotency-Key"))
	}))
	defer payment.Close()
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{{Name: "payment", URL: payment.URL}}})
	ctx := context.Background()
	defer d.Close(ctx)

	order := map[string]any{"id": 7, "total": "19.99"}
	for range 2 { // a client that asks again
		_, err := d.Dispatch(ctx, fanout.Payload{Value: order, Key: "order-7"})
		fmt.Println(err)
	}
	// Output:
	// order-7:payment
	// <nil>
	// order-7:payment
	// <nil>
}

func ExampleToTargets() {
	customer := serve(http.StatusOK)
	defer customer.Close()
	d, _ := fanout.New(fanout.Config{})
	defer d.Close(context.Background())

	results, err := d.Dispatch(context.Background(), ada,
		fanout.ToTargets(fanout.Target{Name: "customer 7", URL: customer.URL}))
	fmt.Println(results["customer 7"].Outcome, err)
	// Output: delivered <nil>
}

func ExampleTarget_prepare() {
	api := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Println(r.Method, r.URL.Path, string(body))
	}))
	defer api.Close()
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{{
		Name: "crm", URL: api.URL + "/contacts", Method: http.MethodPut,
		Prepare: func(_ context.Context, r *fanout.Request) error {
			var s signup
			if err := json.Unmarshal(r.Body, &s); err != nil {
				return err
			}
			r.URL = r.URL.JoinPath(s.Email)
			r.Body = []byte(`{"fullName":"` + s.Name + `"}`)
			return nil
		},
	}}})
	defer d.Close(context.Background())

	_, _ = d.Dispatch(context.Background(), ada)
	// Output: PUT /contacts/ada@example.com {"fullName":"Ada"}
}

func ExampleTarget_classify() {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"error":"unknown list"}`)
	}))
	defer api.Close()
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{{
		Name: "email", URL: api.URL,
		Classify: func(r *fanout.Response) error {
			if string(r.Body) == `{"error":"unknown list"}` {
				return fanout.Permanent(errors.New("unknown list"))
			}
			return r.Err()
		},
	}}})
	defer d.Close(context.Background())

	results, _ := d.Dispatch(context.Background(), ada)
	fmt.Println(results["email"].Err())
	// Output: email: not retried after 1 attempt: unknown list
}

func ExampleAuthenticator() {
	api := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Header.Get("Authorization"))
	}))
	defer api.Close()
	fresh := func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer fresh-token")
		return nil
	}
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{
		{Name: "crm", URL: api.URL, Auth: fanout.AuthenticatorFunc(fresh)},
	}})
	defer d.Close(context.Background())

	_, _ = d.Dispatch(context.Background(), ada)
	// Output: Bearer fresh-token
}

func ExampleCorrelationMiddleware() {
	handler := fanout.CorrelationMiddleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println("handling", fanout.CorrelationID(r.Context()))
	}))
	request := httptest.NewRequest(http.MethodPost, "/signup", nil)
	request.Header.Set(fanout.CorrelationHeader, "visit-7")
	response := httptest.NewRecorder()
	handler.ServeHTTP(response, request)
	fmt.Println("answered", response.Header().Get(fanout.CorrelationHeader))
	// Output:
	// handling visit-7
	// answered visit-7
}

func ExampleNewCorrelationHandler() {
	withoutTime := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	text := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime})
	logger := slog.New(fanout.NewCorrelationHandler(text))

	ctx := fanout.WithCorrelationID(context.Background(), "visit-7")
	logger.WithGroup("signup").InfoContext(ctx, "accepted", "plan", "pro")
	// Output: level=INFO msg=accepted correlation_id=visit-7 signup.plan=pro
}
