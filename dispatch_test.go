package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestDispatch_HasAllTargetsUnderWayAtOnce(t *testing.T) {
	const count = 50
	var targets []fanout.Target
	var arrived sync.WaitGroup
	for i := range count {
		if i%5 == 0 {
			targets = append(targets, sending(fmt.Sprint("exits ", i), func(context.Context, *fanout.Request) (*fanout.Response, error) {
				runtime.Goexit()
				return nil, nil
			}))
		}
		arrived.Add(1)
		targets = append(targets, sending(fmt.Sprint("waits for all ", i), func(context.Context, *fanout.Request) (*fanout.Response, error) {
			arrived.Done()
			arrived.Wait()
			return nil, nil
		}))
	}
	delivered := 0
	for _, r := range dispatch(t.Context(), newDispatcher(t, targets...)) {
		if r.Outcome == fanout.Delivered {
			delivered++
		}
	}
	assert.Equal(t, count, delivered)
}

func TestDispatch_GoesWhereItsOptionsSay(t *testing.T) {
	d := newDispatcher(t, via("a", answering(200)), via("b", answering(200)), via("c", answering(200)))
	inCall := fanout.ToTargets(via("d", answering(200)))
	for _, test := range []struct {
		options []fanout.DispatchOption
		want    []string
	}{
		{nil, []string{"a", "b", "c"}},
		{[]fanout.DispatchOption{fanout.To("c", "a")}, []string{"c", "a"}},
		{[]fanout.DispatchOption{fanout.To("b"), fanout.To("a")}, []string{"b", "a"}},
		{[]fanout.DispatchOption{inCall}, []string{"d"}},
		{[]fanout.DispatchOption{inCall, fanout.To("b")}, []string{"d", "b"}},
	} {
		results, err := d.Dispatch(t.Context(), "hello", test.options...)
		require.NoError(t, err)
		var got []string
		for _, r := range results.Sorted() {
			got = append(got, r.Target)
		}
		assert.Equal(t, test.want, got)
	}
}

func TestDispatch_RefusesWhatCannotBeSentBeforeAnythingIs(t *testing.T) {
	var sent int
	d := newDispatcher(t, via("crm", func(*http.Request) (*http.Response, error) {
		sent++
		return answer(200, ""), nil
	}))
	type cycle struct{ Next *cycle }
	loop := &cycle{}
	loop.Next = loop
	good := "hello"
	for _, test := range []struct {
		name    string
		payload any
		options []fanout.DispatchOption
		want    string
	}{
		{"nil", nil, nil, "fanout: Payload: nil: use fanout.Payload{} to send no body"},
		{"nil pointer", (*fanout.Payload)(nil), nil, "fanout: Payload: nil pointer"},
		{"bytes", []byte("x"), nil, "fanout: Payload: bytes without a content type: use fanout.Payload{Body: …, ContentType: …}"},
		{"reader", strings.NewReader("x"), nil, "fanout: Payload: a reader, which all targets would share: read it into fanout.Payload{Body: …, ContentType: …}"},
		{"channel", make(chan int), nil, "fanout: Payload.Value: json: unsupported type: chan int"},
		{"cycle", loop, nil, "fanout: Payload.Value: json: unsupported value: encountered a cycle via *fanout_test.cycle"},
		{"value and body", fanout.Payload{Value: 1, Body: []byte("x")}, nil, "fanout: Payload.Body: set together with Value"},
		{"no content type", fanout.Payload{Body: []byte("x")}, nil, "fanout: Payload.ContentType: required with Body"},
		{"bad content type", fanout.Payload{Body: []byte("x"), ContentType: "a\nb"}, nil, "fanout: Payload.ContentType: not a header value"},
		{"impossible header", fanout.Payload{Value: 1, Header: http.Header{"A B": {"x"}}}, nil, `fanout: Payload.Header: "A B" is not a header name`},
		{"connection's header", fanout.Payload{Value: 1, Header: http.Header{"content-length": {"9"}}}, nil, "fanout: Payload.Header: content-length is set by the library or the connection"},
		{"header value", fanout.Payload{Value: 1, Header: http.Header{"X-A": {"x\r\ny"}}}, nil, "fanout: Payload.Header: X-A: value has a control character"},
		{"key", fanout.Payload{Value: 1, Key: "a b"}, nil, "fanout: Payload.Key: must be 1 to 128 visible ASCII characters"},
		{"correlation ID", fanout.Payload{Value: 1, CorrelationID: "a\n"}, nil, "fanout: Payload.CorrelationID: must be 1 to 128 letters, digits and characters of -._~:/+=@"},
		{"unknown target", good, []fanout.DispatchOption{fanout.To("nobody")}, `fanout: target "nobody": Name: no target of this name is configured`},
		{"twice", good, []fanout.DispatchOption{fanout.To("crm", "crm")}, `fanout: target "crm": Name: given twice`},
		{"nothing chosen", good, []fanout.DispatchOption{fanout.To()}, "fanout: Targets: no targets were chosen by the options of the call"},
		{"bad target in the call", good, []fanout.DispatchOption{fanout.To("crm"), fanout.ToTargets(fanout.Target{Name: "x", URL: "/path"})}, `fanout: target "x": URL: scheme is neither http nor https`},
	} {
		t.Run(test.name, func(t *testing.T) {
			results, err := d.Dispatch(t.Context(), test.payload, test.options...)
			require.EqualError(t, err, test.want)
			require.ErrorIs(t, err, fanout.ErrInvalid)
			for _, r := range results {
				assert.Equal(t, fanout.Rejected, r.Outcome)
				assert.ErrorIs(t, r.Err(), fanout.ErrInvalid)
			}
		})
	}
	assert.Zero(t, sent)
}

func TestDispatch_RefusesANilContext(t *testing.T) {
	d := newDispatcher(t, via("crm", answering(200)))
	var none context.Context
	results, err := d.Dispatch(none, "hello")
	require.EqualError(t, err, "fanout: Context: nil")
	assert.Equal(t, fanout.Rejected, results["crm"].Outcome)
	require.EqualError(t, d.Close(none), "fanout: Context: nil")
}

func TestDispatch_SendsNothingAfterItsContextHasEnded(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("user went away")
	cancel(why)
	r := dispatch(ctx, newDispatcher(t, via("crm", answering(200))))["crm"]
	assert.Equal(t, fanout.Rejected, r.Outcome)
	require.ErrorIs(t, r.Err(), context.Canceled)
	require.ErrorIs(t, r.Err(), why)
	assert.Empty(t, r.Attempts)
}
