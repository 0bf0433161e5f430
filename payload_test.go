package fanout_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/cloudevent"
	"github.com/fanout-go/fanout/fanouttest"
)

// panickingValue is a value that cannot be encoded.
type panickingValue struct{}

func (panickingValue) MarshalJSON() ([]byte, error) { panic("no JSON of me") }

func TestPayload_ThatPanicsWhenEncodedIsRefused(t *testing.T) {
	d := newDispatcher(t, via("crm", answering(200)))
	_, err := d.Dispatch(t.Context(), panickingValue{})
	require.ErrorIs(t, err, fanout.ErrInvalid)
	require.ErrorContains(t, err, "fanout: Payload.Value: panic: no JSON of me (")
	require.ErrorContains(t, err, "panickingValue.MarshalJSON:")
}

func TestPayload_ChangedAfterwardsChangesNothing(t *testing.T) {
	var seen []string
	body, header := []byte("first"), http.Header{"X-A": {"first"}}
	target := sending("ledger", func(_ context.Context, r *fanout.Request) (*fanout.Response, error) {
		copy(body, "later")
		header.Set("X-A", "later")
		seen = append(seen, string(r.Body), r.Header.Get("X-A"))
		return nil, nil
	})
	_, err := newDispatcher(t, target).Dispatch(t.Context(), fanout.Payload{Body: body, ContentType: "text/plain", Header: header})
	require.NoError(t, err)
	assert.Equal(t, []string{"first", "first"}, seen)
}

func TestPayload_IDNamesTheDispatchAndItsKeys(t *testing.T) {
	sender := fanouttest.NewSender()
	d := newWith(t, fanout.Config{Targets: []fanout.Target{sender.Target("ledger")}})
	for range 2 {
		results, err := d.Dispatch(t.Context(), fanout.Payload{ID: "order-42", Value: "entry"})
		require.NoError(t, err)
		assert.Equal(t, "order-42", results["ledger"].Payload.ID)
	}
	for _, r := range sender.Requests() {
		assert.Equal(t, "order-42:ledger", r.Key)
		assert.Equal(t, "order-42", r.Payload.CorrelationID)
	}
}

func TestPayload_IDThatCannotBeKeptIsRefused(t *testing.T) {
	d := newWith(t, fanout.Config{Targets: []fanout.Target{fanouttest.NewSender().Target("ledger")}})
	_, err := d.Submit(t.Context(), fanout.Payload{ID: "a b", Value: "entry"})
	require.ErrorIs(t, err, fanout.ErrInvalid)
	require.EqualError(t, err, "fanout: Payload.ID: must be 1 to 100 letters, digits and characters of -._~:/+=@")
}

func TestPayload_CloudEventIsNotSentAsAValue(t *testing.T) {
	_, err := newDispatcher(t, via("crm", answering(200))).Dispatch(t.Context(), cloudevent.Event{Source: "/shop", Type: "x"})
	require.EqualError(t, err, "fanout: Payload: a CloudEvent: send what its Binary or Structured returns")
}

func TestPayload_OfAnyLengthIsSentIfNothingBoundsIt(t *testing.T) {
	long := strings.Repeat("x", 17<<20)
	_, err := newDispatcher(t, via("crm", answering(200))).Dispatch(t.Context(), long)
	require.ErrorContains(t, err, "limit 16777216")
	_, err = newWith(t, fanout.Config{MaxPayloadBytes: -1, Targets: []fanout.Target{via("crm", answering(200))}}).Dispatch(t.Context(), long)
	require.NoError(t, err)
}

func TestPayload_IsValidatedBeforeAnythingIsSent(t *testing.T) {
	noCard := func(_ context.Context, s *fanout.Payload) error {
		if strings.Contains(string(s.Body), "card") {
			return errors.New("has a card number")
		}
		return nil
	}
	strict := via("strict", answering(200))
	strict.Validate = noCard
	for name, test := range map[string]struct {
		config fanout.Config
		want   string
	}{
		"for all":    {fanout.Config{Validate: noCard}, "fanout: Payload: refused: has a card number"},
		"for one":    {fanout.Config{Targets: []fanout.Target{strict}}, `fanout: target "strict": Payload: refused: has a card number`},
		"its length": {fanout.Config{MaxPayloadBytes: 10}, "fanout: Payload.Body: too large: 15 bytes, limit 10"},
		"a panic": {fanout.Config{Validate: func(context.Context, *fanout.Payload) error { panic("oops") }},
			"fanout: Payload: refused: panic: oops"},
	} {
		j := &callLog{}
		test.config.Targets = append(test.config.Targets, j.step("crm", answering(200), nil))
		d := newWith(t, test.config)
		results, err := d.Dispatch(t.Context(), map[string]string{"card": "4711"})
		require.ErrorIs(t, err, fanout.ErrInvalid, name)
		require.ErrorContains(t, err, test.want, name)
		assert.Equal(t, fanout.Rejected, results["crm"].Outcome, name)
		_, err = d.Submit(t.Context(), map[string]string{"card": "4711"})
		require.ErrorContains(t, err, test.want, name)
		assert.Empty(t, j.entries, name)
	}
}

func TestPayload_ThatWasFilledInCanBeChangedAndSentAgain(t *testing.T) {
	var bodies []string
	d := newDispatcher(t, fanout.Target{Name: "crm", URL: "https://crm.example", Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(r.Body)
		bodies = append(bodies, string(body)+" "+r.Header.Get("Content-Type"))
		return answer(200, ""), err
	})})
	results, err := d.Dispatch(t.Context(), map[string]int{"v": 1})
	require.NoError(t, err)
	again := *results["crm"].Payload
	_, err = d.Dispatch(t.Context(), &again)
	require.NoError(t, err)
	again.Value = map[string]int{"v": 2}
	_, err = d.Dispatch(t.Context(), again)
	require.NoError(t, err)
	assert.Equal(t, []string{`{"v":1} application/json`, `{"v":1} application/json`, `{"v":2} application/json`}, bodies)

	own := again
	own.Body = []byte("<v>3</v>")
	_, err = d.Dispatch(t.Context(), own)
	require.EqualError(t, err, "fanout: Payload.Body: set together with Value")
	own.Value, own.ContentType = nil, ""
	_, err = d.Dispatch(t.Context(), own)
	require.EqualError(t, err, "fanout: Payload.ContentType: required with Body")
}

func TestPayload_BodyIsCopiedThoughThePayloadWasFilledInBefore(t *testing.T) {
	q := &manualQueue{}
	d := newWith(t, fanout.Config{Queue: q, Targets: []fanout.Target{via("crm", answering(200))}})
	_, err := d.Submit(t.Context(), map[string]int{"v": 1})
	require.NoError(t, err)
	again := *q.delivery.Payload
	buffer := []byte("hello")
	again.Body, again.Value = buffer, nil
	_, err = d.Submit(t.Context(), again)
	require.NoError(t, err)
	copy(buffer, "XXXXX")
	assert.Equal(t, "hello", string(q.delivery.Payload.Body))
}

func TestPayload_SubmittedAgainIsNotEncodedAgain(t *testing.T) {
	type order struct{ N int }
	o := &order{1}
	var bodies sync.Map
	var d *fanout.Dispatcher
	again := make(chan error, 1)
	var once sync.Once
	d = newWith(t, fanout.Config{
		Targets: []fanout.Target{sending("crm", func(_ context.Context, r *fanout.Request) (*fanout.Response, error) {
			bodies.Store(string(r.Body), r.Key)
			return nil, fanout.Permanent(errors.New("no"))
		})},
		OnDeadLetter: func(ctx context.Context, r fanout.Result) {
			once.Do(func() {
				_, err := d.Submit(ctx, *r.Payload)
				again <- err
			})
		},
	})
	_, err := d.Submit(t.Context(), o)
	require.NoError(t, err)
	o.N++ // it was encoded
	require.NoError(t, <-again)
	require.NoError(t, d.Close(t.Context()))
	n := 0
	bodies.Range(func(any, any) bool { n++; return true })
	assert.Equal(t, 1, n, "one key, one body")
}
