package cloudevent_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/cloudevent"
)

func ExampleEvent_Binary() {
	bus := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Println(r.Header.Get("Ce-Type"), r.Header.Get("Ce-Source"), r.Header.Get("Ce-Id"))
		fmt.Println(r.Header.Get("Content-Type"), string(body))
	}))
	defer bus.Close()
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{{Name: "bus", URL: bus.URL}}})
	ctx := context.Background()
	defer d.Close(ctx)

	payload, err := cloudevent.Event{
		Source: "/shop", Type: "shop.order.placed", ID: "order-7", Data: map[string]int{"cents": 1999},
	}.Binary()
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = d.Dispatch(ctx, payload)
	fmt.Println(err)
	// Output:
	// shop.order.placed /shop order-7
	// application/json {"cents":1999}
	// <nil>
}

func ExampleEvent_Structured() {
	payload, err := cloudevent.Event{
		Source: "/shop", Type: "shop.order.placed", ID: "order-7", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Data: map[string]int{"cents": 1999},
	}.Structured()
	fmt.Println(err)
	fmt.Println(payload.ContentType)
	fmt.Println(string(payload.Body))
	// Output:
	// <nil>
	// application/cloudevents+json
	// {"data":{"cents":1999},"datacontenttype":"application/json","id":"order-7","source":"/shop","specversion":"1.0","time":"2026-01-02T03:04:05Z","type":"shop.order.placed"}
}
