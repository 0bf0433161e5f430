package fanouthttp_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouthttp"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
}

// newHandler makes a handler, which must succeed.
func newHandler(t *testing.T, d *fanout.Dispatcher, config fanouthttp.Config) http.Handler {
	t.Helper()
	h, err := fanouthttp.NewHandler(d, config)
	require.NoError(t, err)
	return h
}

// newDispatcher makes a dispatcher with these targets. See newWith.
func newDispatcher(t *testing.T, targets ...fanout.Target) *fanout.Dispatcher {
	t.Helper()
	return newWith(t, fanout.Config{Targets: targets})
}

// newWith makes a dispatcher that is closed without an error when the test ends.
func newWith(t *testing.T, config fanout.Config) *fanout.Dispatcher {
	t.Helper()
	d, err := fanout.New(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close(context.Background())) })
	return d
}

// wire is a transport in memory: a target as a function.
type wire func(*http.Request) (*http.Response, error)

// RoundTrip reads and closes the body, as a real transport must.
func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	_, _ = io.Copy(io.Discard, r.Body)
	_ = r.Body.Close()
	return w(r)
}

// via is an HTTP target with this transport.
func via(name string, w wire) fanout.Target {
	return fanout.Target{Name: name, URL: "https://" + name + ".example/v1", Transport: w}
}

// answering is a target that always answers with the status.
func answering(status int) wire {
	return func(*http.Request) (*http.Response, error) { return answer(status), nil }
}

// answer is an answer with this status.
func answer(status int) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}")), ContentLength: 2}
}

// brokenReader is a body that cannot be read.
type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("broken") }
