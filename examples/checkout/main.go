// Checkout is a service that takes orders. It answers 202 at once. Then it makes the
// payment and reserves the stock, at the same time. When both are done, it notifies the
// customer and counts the sale. If the payment or the reservation fails, the other one is
// undone: they form a saga.
//
//	go run ./examples/checkout
//
// places five orders with fakes of the APIs, which fail differently each time, and prints
// what happened. The code to copy is in service.go.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/fanout-go/fanout/fanouthttp"
	"github.com/fanout-go/fanout/fanouttest"
	"github.com/fanout-go/fanout/internal/usage"
)

func main() {
	flags := usage.Flags("checkout", "Places five orders. Each runs into a different problem, and the program prints how it ends.", os.Stderr)
	err := usage.Parse(flags, os.Args[1:])
	if err == nil {
		err = run(context.Background(), os.Stdout)
	}
	os.Exit(usage.Status("checkout", err, os.Stderr))
}

// story is an order and the problem that it runs into.
type story struct {
	title   string
	trouble trouble
}

var stories = []story{
	{"All goes well", trouble{}},
	{"There is no stock, and the payment is refunded", trouble{stock: outOfStock}},
	{"The payment times out: it may have been made, so it is undone", trouble{payment: timesOut}},
	{"There is no stock, and the refund fails too: somebody has to look at it", trouble{stock: outOfStock, refund: broken}},
	{"The customer cannot be mailed, and gets a text message", trouble{mail: broken}},
}

func run(ctx context.Context, out io.Writer) error {
	for i, s := range stories {
		fmt.Fprintf(out, "%d. %s\n", i+1, s.title)
		if err := tell(ctx, out, s.trouble, fmt.Sprintf("order-%d", i+1)); err != nil {
			return err
		}
	}
	return nil
}

// tell places an order, waits until it has ended, and prints what happened.
func tell(ctx context.Context, out io.Writer, trouble trouble, order string) error {
	apis := startFakes(trouble)
	defer apis.close()
	var results fanouttest.Results // stands for your own log or database
	checkout, err := newCheckout(apis.addresses(), slog.New(slog.DiscardHandler), results.OnResult)
	if err != nil {
		return err
	}
	server := httptest.NewServer(checkout.handler())
	defer server.Close()

	placed := time.Now()
	receipt, err := place(ctx, server.URL, order)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "   %6s  %-14s 202 Accepted\n", "0 ms", order)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	all, err := results.Wait(ctx, receipt.DispatchID, checkout.dispatcher.TargetNames()...)
	if err != nil {
		return err
	}
	writeTimeline(out, placed, all)
	return checkout.close(ctx)
}

func place(ctx context.Context, url, order string) (fanouthttp.Receipt, error) {
	var receipt fanouthttp.Receipt
	body := fmt.Sprintf(`{"order":%q,"cents":1999,"item":"teapot"}`, order)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/orders", strings.NewReader(body))
	if err != nil {
		return receipt, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", order)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return receipt, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusAccepted {
		return receipt, fmt.Errorf("%s: %s", order, answer.Status)
	}
	return receipt, decode(answer.Body, &receipt)
}
