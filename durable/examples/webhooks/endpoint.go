package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"

	"github.com/fanout-go/fanout/auth"
)

// endpoint is a customer's endpoint, which runs on this machine.
type endpoint struct {
	url     string
	key     []byte
	secret  auth.Secret
	slow    atomic.Bool
	refuses atomic.Bool
	close   func()

	mu   sync.Mutex
	seen map[string]bool // webhook-ids of the accepted events
}

func newEndpoint() *endpoint {
	e := &endpoint{key: make([]byte, 32), seen: map[string]bool{}}
	_, _ = rand.Read(e.key) // never fails
	e.secret = auth.NewSecret("whsec_" + base64.StdEncoding.EncodeToString(e.key))
	server := httptest.NewServer(e)
	e.url, e.close = server.URL, server.Close
	return e
}

// ServeHTTP does what a receiver must do: it verifies the signature, and accepts each
// webhook-id once.
func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil || !e.verified(r.Header, body) {
		http.Error(w, "not signed by us", http.StatusUnauthorized)
		return
	}
	if e.refuses.Load() {
		http.Error(w, "no orders here any more", http.StatusGone)
		return
	}
	if e.slow.Load() {
		<-r.Context().Done()
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen[r.Header.Get("webhook-id")] = true
}

// verified does what the libraries of Standard Webhooks do, except that it does not check
// the age of the timestamp.
func (e *endpoint) verified(h http.Header, body []byte) bool {
	mac := hmac.New(sha256.New, e.key)
	_, _ = io.WriteString(mac, h.Get("webhook-id")+"."+h.Get("webhook-timestamp")+".")
	_, _ = mac.Write(body)
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return hmac.Equal([]byte(want), []byte(h.Get("webhook-signature")))
}

func (e *endpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.seen)
}
