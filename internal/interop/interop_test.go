// Package interop tests what the library writes with other libraries that read it, such as
// those that receivers use.
package interop

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/auth"
	"github.com/fanout-go/fanout/cloudevent"
	"github.com/fanout-go/fanout/fanouttest"
	"github.com/fanout-go/fanout/webhook"
)

func send(t *testing.T, target fanout.Target, payload any) {
	t.Helper()
	d, err := fanout.New(fanout.Config{Targets: []fanout.Target{target}})
	require.NoError(t, err)
	defer d.Close(t.Context())
	_, err = d.Dispatch(t.Context(), payload)
	require.NoError(t, err)
}

func TestStandardWebhooksVerifiesOurSignatures(t *testing.T) {
	first := "whsec_" + base64.StdEncoding.EncodeToString([]byte("twenty-four bytes, or 30 bytes"))
	second := "whsec_" + base64.StdEncoding.EncodeToString([]byte("another key, during a rotation"))
	api := fanouttest.NewTarget(t, fanouttest.Status(200))
	target := api.Target("hook")
	target.Sign = webhook.Signer(auth.NewSecret(first), auth.NewSecret(second))
	send(t, target, map[string]int{"order": 7})

	got := api.Requests()[0]
	for _, key := range []string{first, second} {
		verifier, err := webhooks.NewWebhook(key)
		require.NoError(t, err)
		require.NoError(t, verifier.Verify(got.Body, got.Header))
		require.Error(t, verifier.Verify(append(got.Body, ' '), got.Header))
	}
	stranger, err := webhooks.NewWebhook("whsec_" + base64.StdEncoding.EncodeToString([]byte("a key that nobody signed with.")))
	require.NoError(t, err)
	require.Error(t, stranger.Verify(got.Body, got.Header))
}

func TestCloudEventsReadsOurEvents(t *testing.T) {
	event := cloudevent.Event{
		ID: "e-7", Source: "/shop?x=1", Type: "shop.order.placed", Subject: "Zürich 100% \"quoted\"", Time: time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC),
		DataSchema: "https://shop.example/order.json", Extensions: map[string]string{"traceid": "abc"}, Data: map[string]int{"cents": 1999},
	}
	for name, encode := range map[string]func() (fanout.Payload, error){"binary": event.Binary, "structured": event.Structured} {
		t.Run(name, func(t *testing.T) {
			var got *cloudevents.Event
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				var err error
				got, err = cehttp.NewEventFromHTTPRequest(r)
				assert.NoError(t, err)
			}))
			defer server.Close()
			payload, err := encode()
			require.NoError(t, err)
			send(t, fanout.Target{Name: "bus", URL: server.URL}, payload)

			require.NotNil(t, got)
			require.NoError(t, got.Validate())
			assert.Equal(t, "1.0", got.SpecVersion())
			assert.Equal(t, event.ID, got.ID())
			assert.Equal(t, event.Source, got.Source())
			assert.Equal(t, event.Type, got.Type())
			subject := got.Subject()
			if name == "binary" { // the SDK leaves what section 3.1.3.2 of the HTTP binding encodes as it is
				subject, err = url.PathUnescape(subject)
				require.NoError(t, err)
			}
			assert.Equal(t, event.Subject, subject)
			assert.Equal(t, event.DataSchema, got.DataSchema())
			assert.True(t, event.Time.Equal(got.Time()))
			assert.Equal(t, "abc", got.Extensions()["traceid"])
			var data map[string]int
			require.NoError(t, json.Unmarshal(got.Data(), &data))
			assert.Equal(t, map[string]int{"cents": 1999}, data)
		})
	}
}
