package webhook_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/auth"
	"github.com/fanout-go/fanout/webhook"
)

func ExampleSigner() {
	key := []byte("at least twenty-four bytes")
	// The libraries of Standard Webhooks verify a request like this:
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s.%s.%s", r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"), body)
		want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
		fmt.Println(string(body), hmac.Equal([]byte(want), []byte(r.Header.Get("webhook-signature"))))
	}))
	defer receiver.Close()
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{{
		Name: "customer 7", URL: receiver.URL,
		Sign: webhook.Signer(auth.NewSecret("whsec_" + base64.StdEncoding.EncodeToString(key))),
	}}})
	ctx := context.Background()
	defer d.Close(ctx)

	_, err := d.Dispatch(ctx, map[string]int{"order": 7})
	fmt.Println(err)
	// Output:
	// {"order":7} true
	// <nil>
}
