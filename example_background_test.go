package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/fanout-go/fanout"
)

// A service that answers at once, delivers in the background, and on SIGTERM
// stores what it could not deliver in time.
func Example_background() {
	crm := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done() // hangs
	}))
	defer crm.Close()
	targets := []fanout.Target{{Name: "crm", URL: crm.URL}}
	page := func(text string, r fanout.Result) { fmt.Println(text, r.Target, r.Outcome) }
	store := func(target string, outcome fanout.Outcome, p *fanout.Payload) {
		fmt.Println("stored", target, outcome, string(p.Body), p.Key)
	}
	const grace = 50 * time.Millisecond

	d, err := fanout.New(fanout.Config{
		Targets: targets,
		OnDeadLetter: func(_ context.Context, r fanout.Result) {
			page("given up", r)
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	accept := func(w http.ResponseWriter, r *http.Request) {
		_, err := d.Submit(r.Context(), fanout.Payload{Value: "hi", Key: r.Header.Get("Idempotency-Key")})
		switch {
		case errors.Is(err, fanout.ErrFull): // targets are slower than what comes in
			w.Header().Set("Retry-After", "1")
			http.Error(w, "try again", http.StatusServiceUnavailable)
		case err != nil:
			http.Error(w, "not accepted", statusFor(err)) // see ExampleRefusedError
		default:
			w.WriteHeader(http.StatusAccepted)
		}
	}
	running := httptest.NewServer(http.HandlerFunc(accept))
	server := running.Config
	request, _ := http.NewRequest(http.MethodPost, running.URL, strings.NewReader(""))
	request.Header.Set("Idempotency-Key", "visit-7")
	if answer, err := http.DefaultClient.Do(request); err == nil {
		fmt.Println(answer.Status)
		_ = answer.Body.Close()
	}

	ctx, cancel := context.WithTimeout(context.Background(), grace) // not the signal's, which has ended
	defer cancel()
	_ = server.Shutdown(ctx) // first: until then handlers submit
	err = d.Close(ctx)
	var left *fanout.UndeliveredError
	if errors.As(err, &left) {
		for _, r := range left.Left {
			store(r.Target, r.Outcome, r.Payload)
		}
	}
	// Output:
	// 202 Accepted
	// stored crm unknown "hi" visit-7
}
