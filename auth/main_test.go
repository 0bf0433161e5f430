package auth_test

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

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) { return w(r) }

// answering is a target that always answers with the status.
func answering(status int) wire {
	return func(*http.Request) (*http.Response, error) { return answer(status), nil }
}

// answer is an answer with this status.
func answer(status int) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}"))}
}

// crm is a target with this transport and authenticator.
func crm(w wire, auth fanout.Authenticator) fanout.Target {
	return fanout.Target{Name: "crm", URL: "https://crm.example/v1", Transport: w, Auth: auth}
}

// with returns the target with this policy.
func with(t fanout.Target, p fanout.Policy) fanout.Target {
	t.Policy = p
	return t
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

// dispatch sends a small payload and returns the target's result.
func dispatch(ctx context.Context, d *fanout.Dispatcher) fanout.Result {
	results, _ := d.Dispatch(ctx, map[string]string{"order": "7"})
	return results["crm"]
}

// all calls the function n times at once, and waits for all.
func all(n int, do func()) {
	var group sync.WaitGroup
	for range n {
		group.Go(do)
	}
	group.Wait()
}
