package fanout_test

import (
	"context"
	"io"
	"log"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fanout-go/fanout"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
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

func to(t *testing.T, target fanout.Target, policy fanout.Policy) fanout.Result {
	t.Helper()
	target.Name = "crm"
	return dispatch(t.Context(), newDispatcher(t, with(target, policy)))["crm"]
}

func submit(t *testing.T, d *fanout.Dispatcher, options ...fanout.SubmitOption) string {
	t.Helper()
	id, err := d.Submit(t.Context(), "hello", options...)
	require.NoError(t, err)
	return id
}

func with(t fanout.Target, p fanout.Policy) fanout.Target {
	t.Policy = p
	return t
}

func after(t fanout.Target, names ...string) fanout.Target {
	t.After = names
	return t
}

func optional(t fanout.Target) fanout.Target {
	t.Optional = true
	return t
}

func withFallback(t fanout.Target, fallbacks ...fanout.Target) fanout.Target {
	t.Fallback = fallbacks
	return t
}

func hedged(t fanout.Target, h fanout.Hedge) fanout.Target {
	t.Hedge = h
	return t
}

func signed(t fanout.Target, s fanout.Signer) fanout.Target {
	t.Sign = s
	return t
}

var once = fanout.Policy{Retry: fanout.Retry{MaxAttempts: 1}}

var keyed = fanout.Policy{AttemptTimeout: 100 * time.Millisecond, Retry: unkeyed.Retry}

// unkeyed is a POST without an idempotency key, which is repeated only where
// nothing can have reached the target.
var unkeyed = fanout.Policy{
	AttemptTimeout: 100 * time.Millisecond,
	Idempotency:    fanout.Idempotency{Header: "-"},
	Retry:          fanout.Retry{InitialBackoff: 1, ThrottledBackoff: -1},
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

func names(results fanout.Results) []string {
	var all []string
	for _, r := range results.Sorted() {
		all = append(all, r.Target)
	}
	return all
}

func outcomesOf(results fanout.Results) map[string]string {
	outcomes := map[string]string{}
	for name, r := range results {
		outcomes[name] = r.Outcome.String()
	}
	return outcomes
}

func statusesOf(r fanout.Result) []int {
	var statuses []int
	for _, a := range r.Attempts {
		statuses = append(statuses, a.StatusCode)
	}
	return statuses
}

var quiet = log.New(io.Discard, "", 0)
