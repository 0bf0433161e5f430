package fanout_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

var placed = fanout.CloudEvent{
	ID: "e-7", Source: "/shop", Type: "shop.order.placed", Subject: "Zürich 100%", Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
	Extensions: map[string]string{"traceid": "abc"}, Data: map[string]int{"cents": 1999},
}

func TestABinaryCloudEventHasItsAttributesInHeaders(t *testing.T) {
	payload, err := placed.Binary()
	require.NoError(t, err)
	var got http.Header
	hook := via("hook", nil)
	hook.Transport = readingWire(func(r *http.Request, body []byte) *http.Response {
		got = r.Header.Clone()
		assert.JSONEq(t, `{"cents":1999}`, string(body))
		return answer(200, "")
	})
	_, err = newDispatcher(t, hook).Dispatch(t.Context(), payload)
	require.NoError(t, err)
	for name, want := range map[string]string{
		"Ce-Specversion": "1.0", "Ce-Id": "e-7", "Ce-Source": "/shop", "Ce-Type": "shop.order.placed", "Ce-Subject": "Z%C3%BCrich%20100%25",
		"Ce-Time": "2026-01-02T03:04:05.000000006Z", "Ce-Traceid": "abc", "Content-Type": "application/json",
	} {
		assert.Equal(t, want, got.Get(name), name)
	}
}

func TestACloudEventKeepsItsKeyIfSentAgain(t *testing.T) {
	key := func(e fanout.CloudEvent) string {
		payload, err := e.Binary()
		require.NoError(t, err)
		return payload.IdempotencyKey
	}
	again, elsewhere := placed, placed
	again.Data, elsewhere.Source = "other", "/branch"
	assert.NotEmpty(t, key(placed))
	assert.Equal(t, key(placed), key(again))
	assert.NotEqual(t, key(placed), key(elsewhere), "IDs are unique to their source")
}

func TestAStructuredCloudEventIsOneDocument(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*fanout.CloudEvent)
		want   string
	}{
		"a value": {func(*fanout.CloudEvent) {}, `"datacontenttype":"application/json","data":{"cents":1999}`},
		"JSON": {func(e *fanout.CloudEvent) {
			e.Data, e.Body, e.ContentType = nil, []byte(`[1]`), "application/json; charset=utf-8"
		}, `"datacontenttype":"application/json; charset=utf-8","data":[1]`},
		"bytes":   {func(e *fanout.CloudEvent) { e.Data, e.Body, e.ContentType = nil, []byte{0, 255}, "image/png" }, `"datacontenttype":"image/png","data_base64":"AP8="`},
		"nothing": {func(e *fanout.CloudEvent) { e.Data = nil }, `"subject":"Zürich 100%"`},
	} {
		e := placed
		test.change(&e)
		payload, err := e.Structured()
		require.NoError(t, err, name)
		assert.Equal(t, "application/cloudevents+json", payload.ContentType)
		assert.JSONEq(t, `{"specversion":"1.0","id":"e-7","source":"/shop","type":"shop.order.placed","subject":"Zürich 100%","time":"2026-01-02T03:04:05.000000006Z","traceid":"abc",`+test.want+`}`, string(payload.Body), name)
	}
}

func TestACloudEventThatCannotBeIsRefusedByField(t *testing.T) {
	for want, change := range map[string]func(*fanout.CloudEvent){
		"CloudEvent.Source: empty":                 func(e *fanout.CloudEvent) { e.Source = "" },
		"CloudEvent.Source: not a URI-reference":   func(e *fanout.CloudEvent) { e.Source = "%zz" },
		"CloudEvent.Type: empty":                   func(e *fanout.CloudEvent) { e.Type = "" },
		"CloudEvent.Body: set together with Data":  func(e *fanout.CloudEvent) { e.Body = []byte("x") },
		"CloudEvent.ContentType: required":         func(e *fanout.CloudEvent) { e.Data, e.Body = nil, []byte("x") },
		`CloudEvent.Extensions: "Trace-ID" is not`: func(e *fanout.CloudEvent) { e.Extensions = map[string]string{"Trace-ID": "x"} },
		`CloudEvent.Extensions: "id" is not`:       func(e *fanout.CloudEvent) { e.Extensions = map[string]string{"id": "x"} },
	} {
		e := placed
		change(&e)
		_, err := e.Binary()
		require.ErrorContains(t, err, want)
		_, err = e.Structured()
		require.ErrorIs(t, err, fanout.ErrInvalid)
	}
}

func TestACloudEventHasATimeAndAnIDOfItsOwn(t *testing.T) {
	payload, err := fanout.CloudEvent{Source: "/shop", Type: "x"}.Structured()
	require.NoError(t, err)
	var document map[string]string
	require.NoError(t, json.Unmarshal(payload.Body, &document))
	assert.NotEmpty(t, document["id"])
	assert.NotEmpty(t, document["time"])
	assert.Empty(t, payload.IdempotencyKey)
}
