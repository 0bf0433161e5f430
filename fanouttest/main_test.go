package fanouttest_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fanout-go/fanout/fanouttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newTarget makes a fake: NewTarget, or NewMemoryTarget.
type newTarget func(fanouttest.TB, ...fanouttest.Step) *fanouttest.Target

// bothWays runs a test on loopback, and in memory within a bubble.
func bothWays(t *testing.T, test func(*testing.T, newTarget)) {
	t.Helper()
	t.Run("loopback", func(t *testing.T) { test(t, fanouttest.NewTarget) })
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, fanouttest.NewMemoryTarget) })
	})
}

// post sends a request with a plain client, and reads the answer.
func post(t *testing.T, f *fanouttest.Target) (status int, header http.Header, body string, err error) {
	t.Helper()
	transport := f.Target("x").Transport
	if transport == nil {
		own := &http.Transport{}
		defer own.CloseIdleConnections()
		transport = own
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, f.URL()+"/path?q=1", strings.NewReader(`{"n":1}`))
	require.NoError(t, err)
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return 0, nil, "", err
	}
	defer answer.Body.Close()
	all, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	return answer.StatusCode, answer.Header, string(all), err
}
