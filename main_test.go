package fanout_test

import (
	"context"
	"io"
	"log"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fanout-go/fanout"
)

func TestMain(m *testing.M) {
	if os.Getenv("FANOUT_WRAP_DEFAULT") == "" { // of one test, which needs slog's first default
		slog.SetDefault(slog.New(slog.DiscardHandler))
	}
	goleak.VerifyTestMain(m)
}

// newDispatcher is newWith, with the targets given and all else by default.
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

// dispatch sends a small payload and returns the results alone.
func dispatch(ctx context.Context, d *fanout.Dispatcher, options ...fanout.DispatchOption) fanout.Results {
	results, _ := d.Dispatch(ctx, map[string]string{"order": "7"}, options...)
	return results
}

// deliverTo dispatches once to the target, named "crm", under the policy given.
func deliverTo(t *testing.T, target fanout.Target, policy fanout.Policy) fanout.Result {
	t.Helper()
	target.Name = "crm"
	return dispatch(t.Context(), newDispatcher(t, with(target, policy)))["crm"]
}

// submit submits a small payload and returns the dispatch's ID.
func submit(t *testing.T, d *fanout.Dispatcher, options ...fanout.SubmitOption) string {
	t.Helper()
	id, err := d.Submit(t.Context(), "hello", options...)
	require.NoError(t, err)
	return id
}

// with is the target under the policy given.
func with(t fanout.Target, p fanout.Policy) fanout.Target {
	t.Policy = p
	return t
}

// after is the target, which begins when those named have succeeded.
func after(t fanout.Target, names ...string) fanout.Target {
	t.After = names
	return t
}

// optional is the target, whose failure fails no dispatch.
func optional(t fanout.Target) fanout.Target {
	t.Optional = true
	return t
}

// withFallback is the target with fallbacks.
func withFallback(t fanout.Target, fallbacks ...fanout.Target) fanout.Target {
	t.Fallback = fallbacks
	return t
}

// hedged is the target with a hedge.
func hedged(t fanout.Target, h fanout.Hedge) fanout.Target {
	t.Hedge = h
	return t
}

// signed is the target with a signer.
func signed(t fanout.Target, s fanout.Signer) fanout.Target {
	t.Sign = s
	return t
}

// once makes one attempt only.
var once = fanout.Policy{Retry: fanout.Retry{MaxAttempts: 1}}

// keyed is a POST with an idempotency key, which may always be repeated.
var keyed = fanout.Policy{AttemptTimeout: 5 * time.Second, Retry: unkeyed.Retry}

// unkeyed is a POST without an idempotency key, which is repeated only where
// nothing can have reached the target.
var unkeyed = fanout.Policy{
	AttemptTimeout: 5 * time.Second,
	Idempotency:    fanout.Idempotency{Header: "-"},
	Retry:          fanout.Retry{InitialBackoff: 1, ThrottledBackoff: -1},
}

// forDispatch gives options for both calls to Dispatch.
func forDispatch(options []fanout.Option) (all []fanout.DispatchOption) {
	for _, o := range options {
		all = append(all, o)
	}
	return all
}

// forSubmit gives options for both calls to Submit.
func forSubmit(options []fanout.Option) (all []fanout.SubmitOption) {
	for _, o := range options {
		all = append(all, o)
	}
	return all
}

// names are the names of the targets, in definition order.
func names(results fanout.Results) []string {
	var all []string
	for _, r := range results.Sorted() {
		all = append(all, r.Target)
	}
	return all
}

// outcomesOf are the outcomes by target, as text.
func outcomesOf(results fanout.Results) map[string]string {
	outcomes := map[string]string{}
	for name, r := range results {
		outcomes[name] = r.Outcome.String()
	}
	return outcomes
}

// statusesOf are the statuses of the attempts, in order.
func statusesOf(r fanout.Result) []int {
	var statuses []int
	for _, a := range r.Attempts {
		statuses = append(statuses, a.StatusCode)
	}
	return statuses
}

// quiet is for servers whose complaints are expected.
var quiet = log.New(io.Discard, "", 0)
