package fanout_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fanout-go/fanout"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
}

// wire is a transport in memory: a target as a function.
type wire func(*http.Request) (*http.Response, error)

// RoundTrip takes the body as a real transport must.
func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	_, _ = io.Copy(io.Discard, r.Body)
	_ = r.Body.Close()
	return w(r)
}

// answering is a target that answers with the statuses in turn, the last one
// for ever.
func answering(statuses ...int) wire {
	next := inTurn(statuses...)
	return func(*http.Request) (*http.Response, error) { return answer(next(), "{}"), nil }
}

// hanging is a target that never answers.
func hanging(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func answer(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
}

// via is an HTTP target over the wire given.
func via(name string, w wire) fanout.Target {
	return fanout.Target{Name: name, URL: "https://" + name + ".example/v1", Transport: w}
}

// sending is a target with the function as its Sender.
func sending(name string, send fanout.SenderFunc) fanout.Target {
	return fanout.Target{Name: name, Sender: send}
}

func with(t fanout.Target, p fanout.Policy) fanout.Target {
	t.Policy = p
	return t
}

func newDispatcher(t *testing.T, targets ...fanout.Target) *fanout.Dispatcher {
	t.Helper()
	return newWith(t, fanout.Config{Targets: targets})
}

func newWith(t *testing.T, config fanout.Config) *fanout.Dispatcher {
	t.Helper()
	d, err := fanout.New(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close(context.Background())) })
	return d
}

// dispatch sends a small payload and returns the results alone.
func dispatch(ctx context.Context, d *fanout.Dispatcher, options ...fanout.DispatchOption) fanout.Results {
	results, _ := d.Dispatch(ctx, map[string]string{"order": "7"}, options...)
	return results
}

// inTurn returns the values one after the other, and the last one for ever.
func inTurn[T any](values ...T) func() T {
	var mu sync.Mutex
	calls := 0
	return func() T {
		mu.Lock()
		defer mu.Unlock()
		calls++
		return values[min(calls, len(values))-1]
	}
}

func forDispatch(options []fanout.Option) (all []fanout.DispatchOption) {
	for _, o := range options {
		all = append(all, o)
	}
	return all
}

func forSubmit(options []fanout.Option) (all []fanout.SubmitOption) {
	for _, o := range options {
		all = append(all, o)
	}
	return all
}
