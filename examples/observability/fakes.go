package main

import (
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/fanout-go/fanout"
)

// fakes are three APIs on this machine. The first one works, the second one fails now and
// then, and the third one fails during the first half of every minute.
type fakes struct{ email, crm, analytics *httptest.Server }

func startFakes() *fakes {
	return &fakes{
		email: httptest.NewServer(answer(func() int { return http.StatusAccepted })),
		crm: httptest.NewServer(answer(func() int {
			if rand.N(10) == 0 {
				return http.StatusServiceUnavailable
			}
			return http.StatusOK
		})),
		analytics: httptest.NewServer(answer(func() int {
			if time.Now().Second() < 30 {
				return http.StatusInternalServerError
			}
			return http.StatusNoContent
		})),
	}
}

func answer(status func() int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(rand.N(40 * time.Millisecond))
		w.WriteHeader(status())
	})
}

func (f *fakes) targets() []fanout.Target {
	return []fanout.Target{
		{Name: "email", URL: f.email.URL + "/v1/messages"},
		{Name: "crm", URL: f.crm.URL + "/contacts", Method: http.MethodPut},
		{Name: "analytics", URL: f.analytics.URL + "/events", Optional: true},
	}
}

func (f *fakes) close() {
	f.email.Close()
	f.crm.Close()
	f.analytics.Close()
}
