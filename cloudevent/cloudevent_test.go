package cloudevent_test

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/cloudevent"
	"github.com/fanout-go/fanout/fanouttest"
)

// placed is an event with all of its attributes.
var placed = cloudevent.Event{
	ID: "e-7", Source: "/shop", Type: "shop.order.placed", Subject: "Zürich 100%", Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
	Extensions: map[string]string{"traceid": "abc"}, Data: map[string]int{"cents": 1999},
}

func TestBinary_HasTheAttributesInHeaders(t *testing.T) {
	payload, err := placed.Binary()
	require.NoError(t, err)
	hook := fanouttest.NewMemoryTarget(t)
	d, err := fanout.New(fanout.Config{Targets: []fanout.Target{hook.Target("hook")}})
	require.NoError(t, err)
	defer d.Close(t.Context())
	_, err = d.Dispatch(t.Context(), payload)
	require.NoError(t, err)
	got := hook.Requests()[0].Header
	assert.JSONEq(t, `{"cents":1999}`, string(hook.Requests()[0].Body))
	for name, want := range map[string]string{
		"Ce-Specversion": "1.0", "Ce-Id": "e-7", "Ce-Source": "/shop", "Ce-Type": "shop.order.placed", "Ce-Subject": "Z%C3%BCrich%20100%25",
		"Ce-Time": "2026-01-02T03:04:05.000000006Z", "Ce-Traceid": "abc", "Content-Type": "application/json",
	} {
		assert.Equal(t, want, got.Get(name), name)
	}
}

func TestBinary_EncodesWhatAHeaderCannotCarry(t *testing.T) {
	for value, want := range map[string]string{
		"!#$&azAZ09~": "!#$&azAZ09~", "a b": "a%20b", `"`: "%22", "%": "%25", "\x00\x1f\x7f\n": "%00%1F%7F%0A", "é": "%C3%A9",
	} {
		payload, err := cloudevent.Event{Source: "/shop", Type: "x", Extensions: map[string]string{"az09": value}}.Binary()
		require.NoError(t, err)
		assert.Equal(t, []string{want}, payload.Header["Ce-Az09"], "%q", value)
	}
}

func TestEvent_KeepsItsKeyIfSentAgain(t *testing.T) {
	key := func(e cloudevent.Event) string {
		payload, err := e.Binary()
		require.NoError(t, err)
		return payload.Key
	}
	again, elsewhere := placed, placed
	again.Data, elsewhere.Source = "other", "/branch"
	assert.NotEmpty(t, key(placed))
	assert.Equal(t, key(placed), key(again))
	assert.NotEqual(t, key(placed), key(elsewhere), "IDs are unique to their source")
}

func TestStructured_IsOneDocument(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*cloudevent.Event)
		want   string
	}{
		"a value": {func(*cloudevent.Event) {}, `"datacontenttype":"application/json","data":{"cents":1999}`},
		"JSON": {func(e *cloudevent.Event) {
			e.Data, e.Body, e.ContentType = nil, []byte(`[1]`), "application/json; charset=utf-8"
		}, `"datacontenttype":"application/json; charset=utf-8","data":[1]`},
		"JSON of its own kind": {func(e *cloudevent.Event) {
			e.Data, e.Body, e.ContentType = nil, []byte(`[1]`), "application/order+json ; v=2"
		}, `"datacontenttype":"application/order+json ; v=2","data":[1]`},
		"bytes":   {func(e *cloudevent.Event) { e.Data, e.Body, e.ContentType = nil, []byte{0, 255}, "image/png" }, `"datacontenttype":"image/png","data_base64":"AP8="`},
		"nothing": {func(e *cloudevent.Event) { e.Data = nil }, `"subject":"Zürich 100%"`},
	} {
		e := placed
		test.change(&e)
		payload, err := e.Structured()
		require.NoError(t, err, name)
		assert.Equal(t, "application/cloudevents+json", payload.ContentType)
		assert.JSONEq(t, `{"specversion":"1.0","id":"e-7","source":"/shop","type":"shop.order.placed","subject":"Zürich 100%","time":"2026-01-02T03:04:05.000000006Z","traceid":"abc",`+test.want+`}`, string(payload.Body), name)
	}
}

func TestEvent_ThatCannotBeIsRefusedByField(t *testing.T) {
	for want, change := range map[string]func(*cloudevent.Event){
		"CloudEvent.Source: empty":                 func(e *cloudevent.Event) { e.Source = "" },
		"CloudEvent.Source: not a URI-reference":   func(e *cloudevent.Event) { e.Source = "%zz" },
		"CloudEvent.Type: empty":                   func(e *cloudevent.Event) { e.Type = "" },
		"CloudEvent.Body: set together with Data":  func(e *cloudevent.Event) { e.Body = []byte("x") },
		"CloudEvent.ContentType: required":         func(e *cloudevent.Event) { e.Data, e.Body = nil, []byte("x") },
		`CloudEvent.Extensions: "Trace-ID" is not`: func(e *cloudevent.Event) { e.Extensions = map[string]string{"Trace-ID": "x"} },
		"CloudEvent.Subject: has a control":        func(e *cloudevent.Event) { e.Subject = "a\nb" },
		"CloudEvent.Type: has a control":           func(e *cloudevent.Event) { e.Type = "a\x7f" },
		"CloudEvent.ID: has a control":             func(e *cloudevent.Event) { e.ID = "\x00" },
		`CloudEvent.Extensions: "id" is not`:       func(e *cloudevent.Event) { e.Extensions = map[string]string{"id": "x"} },
	} {
		e := placed
		change(&e)
		_, err := e.Binary()
		require.ErrorContains(t, err, want)
		_, err = e.Structured()
		require.ErrorIs(t, err, fanout.ErrInvalid)
	}
}

func TestEvent_HasATimeAndAnIDOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		payload, err := cloudevent.Event{Source: "/shop", Type: "x"}.Structured()
		require.NoError(t, err)
		var document map[string]string
		require.NoError(t, json.Unmarshal(payload.Body, &document))
		assert.NotEmpty(t, document["id"])
		assert.Equal(t, time.Now().UTC().Format(time.RFC3339Nano), document["time"])
		assert.Empty(t, payload.Key)
	})
}

// oops is a value that cannot be encoded.
type oops struct{}

func (oops) MarshalJSON() ([]byte, error) { panic("oops") }

func TestStructured_DataMayPanic(t *testing.T) {
	_, err := cloudevent.Event{Source: "/shop", Type: "x", Data: oops{}}.Structured()
	var panicked *fanout.PanicError
	require.ErrorAs(t, err, &panicked)
	assert.Equal(t, "oops", panicked.Value)
	assert.Contains(t, panicked.Where, "oops.MarshalJSON")
	assert.Contains(t, string(panicked.Stack), "oops.MarshalJSON")
}
