package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouthttp"
)

// addresses are the base URLs of the APIs.
type addresses struct{ payment, stock, mail, text, analytics string }

// checkout dispatches orders.
type checkout struct {
	dispatcher *fanout.Dispatcher
	orders     http.Handler
}

func newCheckout(at addresses, logger *slog.Logger, onResult func(context.Context, fanout.Result)) (*checkout, error) {
	dispatcher, err := fanout.New(fanout.Config{
		Targets:  targets(at),
		Defaults: fanout.Policy{AttemptTimeout: 200 * time.Millisecond, Retry: fanout.Retry{MaxAttempts: 2, InitialBackoff: 20 * time.Millisecond}},
		OnResult: onResult,
		Logger:   logger,
	})
	if err != nil {
		return nil, err
	}
	orders, err := fanouthttp.NewHandler(dispatcher, fanouthttp.Config{Validate: validate})
	return &checkout{dispatcher, orders}, err
}

func targets(at addresses) []fanout.Target {
	both := []string{"payment", "stock"}
	return []fanout.Target{
		{
			Name: "payment", URL: at.payment + "/charges",
			// The bank identifies a charge by its idempotency key. So it can be undone even if the
			// answer to it was lost.
			Compensate: &fanout.Target{Name: "refund", URL: at.payment + "/refunds", Prepare: refund, Classify: nothingToUndo},
		},
		{
			Name: "stock", URL: at.stock + "/reservations",
			Compensate: &fanout.Target{Name: "release", URL: at.stock + "/releases", Classify: nothingToUndo},
		},
		{
			Name: "notification", URL: at.mail + "/messages", After: both, Prepare: thanks,
			Fallback: []fanout.Target{{Name: "text-message", URL: at.text + "/messages", Prepare: thanks}},
			Optional: true, // an order is valid even if the customer was not notified
		},
		{Name: "analytics", URL: at.analytics + "/events", After: both, Optional: true},
	}
}

// refund names the charge to be undone by the idempotency key with which it was made.
func refund(_ context.Context, r *fanout.Request) (err error) {
	r.Body, err = json.Marshal(map[string]string{"charge": r.Earlier["payment"].Key})
	return err
}

// nothingToUndo treats a 404 as a success: what never happened need not be undone.
func nothingToUndo(r *fanout.Response) error {
	if r.StatusCode == http.StatusNotFound {
		return nil
	}
	return r.Err()
}

// thanks makes a message from the answers of the bank and the warehouse.
func thanks(_ context.Context, r *fanout.Request) error {
	charge, err := fanout.Decode[struct{ ID string }](r.Earlier["payment"])
	if err != nil {
		return err
	}
	parcel, err := fanout.Decode[struct{ ID string }](r.Earlier["stock"])
	if err != nil {
		return err
	}
	r.Body, err = json.Marshal(map[string]string{"text": fmt.Sprintf("Thank you. Paid: %s, parcel: %s.", charge.ID, parcel.ID)})
	return err
}

func (c *checkout) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /orders", c.orders)
	return mux
}

func validate(r *http.Request, body []byte) error {
	var order struct{ Order string }
	switch err := json.Unmarshal(body, &order); {
	case err != nil:
		return errors.New("not an order in JSON")
	case order.Order == "":
		return errors.New("the order has no number")
	case r.Header.Get("Idempotency-Key") == "":
		return errors.New("an order needs an Idempotency-Key, so that it is never charged twice")
	}
	return nil
}

func (c *checkout) close(ctx context.Context) error { return c.dispatcher.Close(ctx) }

func decode(r io.Reader, v any) error { return json.NewDecoder(r).Decode(v) }
