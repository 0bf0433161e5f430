package main

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"github.com/fanout-go/fanout"
)

// fakes are three APIs on this machine, which behave differently.
type fakes struct {
	email, crm, analytics *httptest.Server
}

func startFakes() *fakes {
	return &fakes{
		email:     httptest.NewServer(accept(http.StatusAccepted)),
		crm:       httptest.NewServer(unavailableAtFirst(accept(http.StatusOK))),
		analytics: httptest.NewServer(slow(400*time.Millisecond, accept(http.StatusNoContent))),
	}
}

func (f *fakes) close() {
	f.email.Close()
	f.crm.Close()
	f.analytics.Close()
}

func (f *fakes) targets() []fanout.Target {
	return []fanout.Target{
		{Name: "email", URL: f.email.URL + "/v1/messages"},
		{Name: "crm", URL: f.crm.URL + "/contacts", Method: http.MethodPut, Policy: fanout.Policy{
			// By default, the wait after a 503 is about a second.
			Retry: fanout.Retry{ThrottledBackoff: 200 * time.Millisecond},
		}},
		{Name: "analytics", URL: f.analytics.URL + "/events", Optional: true},
	}
}

func accept(status int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
}

func unavailableAtFirst(next http.Handler) http.Handler {
	var up atomic.Bool
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if up.Swap(true) {
			next.ServeHTTP(w, r)
			return
		}
		http.Error(w, "starting up", http.StatusServiceUnavailable)
	})
}

func slow(delay time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(delay):
			next.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
}
