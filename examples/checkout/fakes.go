package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"
)

// trouble says how each API misbehaves. A nil handler means that the API works.
type trouble struct{ payment, refund, stock, mail http.HandlerFunc }

type fakes struct{ payment, stock, mail, text, analytics *httptest.Server }

func startFakes(t trouble) *fakes {
	bank := http.NewServeMux()
	bank.HandleFunc("POST /charges", or(t.payment, created("charge-1")))
	bank.HandleFunc("POST /refunds", or(t.refund, created("refund-1")))
	warehouse := http.NewServeMux()
	warehouse.HandleFunc("POST /reservations", or(t.stock, created("parcel-1")))
	warehouse.HandleFunc("POST /releases", created("release-1"))
	return &fakes{
		payment: httptest.NewServer(bank), stock: httptest.NewServer(warehouse),
		mail: httptest.NewServer(or(t.mail, created("mail-1"))), text: httptest.NewServer(created("text-1")), analytics: httptest.NewServer(created("event-1")),
	}
}

func or(misbehaves, well http.HandlerFunc) http.HandlerFunc {
	if misbehaves != nil {
		return misbehaves
	}
	return well
}

func created(id string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(30 * time.Millisecond)
		w.WriteHeader(http.StatusCreated)
		_, _ = fmt.Fprintf(w, `{"id":%q}`, id)
	}
}

// outOfStock refuses, but only after a payment has had time to be made.
func outOfStock(w http.ResponseWriter, _ *http.Request) {
	time.Sleep(60 * time.Millisecond)
	http.Error(w, "no teapots", http.StatusUnprocessableEntity)
}

func broken(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "broken", http.StatusInternalServerError)
}

// timesOut makes the payment, but is too slow to answer.
func timesOut(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

func (f *fakes) addresses() addresses {
	return addresses{payment: f.payment.URL, stock: f.stock.URL, mail: f.mail.URL, text: f.text.URL, analytics: f.analytics.URL}
}

func (f *fakes) close() {
	for _, server := range []*httptest.Server{f.payment, f.stock, f.mail, f.text, f.analytics} {
		server.Close()
	}
}
