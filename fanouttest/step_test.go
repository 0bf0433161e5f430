package fanouttest_test

import (
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/fanouttest"
)

func TestStep_ThatAnswers(t *testing.T) {
	for _, test := range []struct {
		name   string
		step   fanouttest.Step
		status int
		header [2]string
		body   string
	}{
		{"status", fanouttest.Status(404), 404, [2]string{}, ""},
		{"reply", fanouttest.Reply(201, "done"), 201, [2]string{}, "done"},
		{"JSON", fanouttest.JSON(200, map[string]int{"id": 7}), 200, [2]string{"Content-Type", "application/json"}, `{"id":7}`},
		{"retry after", fanouttest.RetryAfter(503, "soon"), 503, [2]string{"Retry-After", "soon"}, ""},
		{"redirect", fanouttest.Redirect(307, "https://elsewhere.example"), 307, [2]string{"Location", "https://elsewhere.example"}, ""},
		{"delay", fanouttest.Delay(time.Millisecond, fanouttest.Reply(200, "late")), 200, [2]string{}, "late"},
		{"headers", fanouttest.Headers(3), 200, [2]string{"X-Filler-2", strings.Repeat("x", 80)}, ""},
		{"gzip bomb", fanouttest.GzipBomb(1000), 200, [2]string{}, strings.Repeat("\x00", 1000)},
		{"own", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "mine") }, 200, [2]string{}, "mine"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, newTarget newTarget) {
				status, header, body, err := post(t, newTarget(t, test.step))
				require.NoError(t, err)
				assert.Equal(t, test.status, status)
				assert.Equal(t, test.header[1], header.Get(test.header[0]))
				assert.Equal(t, test.body, body)
			})
		})
	}
}

func TestStep_ThatFails(t *testing.T) {
	for _, test := range []struct {
		name   string
		step   fanouttest.Step
		status int
		says   string
	}{
		{"hang", fanouttest.Hang(), 0, "deadline exceeded"},
		{"long delay", fanouttest.Delay(time.Hour, fanouttest.Status(200)), 0, "deadline exceeded"},
		{"reset", fanouttest.Reset(), 0, ""},
		{"reset midway", fanouttest.ResetMidway(), 200, ""},
		{"truncate", fanouttest.Truncate(), 200, "unexpected EOF"},
		{"garbage", fanouttest.Garbage(), 0, "malformed HTTP"},
		{"drip", fanouttest.Drip(time.Millisecond), 200, "deadline exceeded"},
		{"drip header", fanouttest.DripHeader(time.Millisecond), 0, "deadline exceeded"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, newTarget newTarget) {
				f := newTarget(t, test.step)
				status, _, _, err := post(t, f)
				require.ErrorContains(t, err, test.says)
				assert.Equal(t, test.status, status)
				assert.Equal(t, 1, f.Count(), "recorded all the same")
			})
		})
	}
}

func TestEndless_NeverEnds(t *testing.T) {
	bothWays(t, func(t *testing.T, newTarget newTarget) {
		_, _, body, _ := post(t, newTarget(t, fanouttest.Endless()))
		assert.NotEmpty(t, body)
	})
}

func TestGzipBomb_IsSmallOnTheWire(t *testing.T) {
	f := fanouttest.NewTarget(t, fanouttest.GzipBomb(10<<20))
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	answer, err := (&http.Client{Transport: transport}).Get(f.URL())
	require.NoError(t, err)
	defer answer.Body.Close()
	var wire atomic.Int64
	unpacked, err := gzip.NewReader(io.TeeReader(answer.Body, counter{&wire}))
	require.NoError(t, err)
	n, err := io.Copy(io.Discard, unpacked)
	require.NoError(t, err)
	assert.Equal(t, int64(10<<20), n)
	assert.Less(t, wire.Load(), n/500)
}

// counter counts the bytes written.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) { c.n.Add(int64(len(p))); return len(p), nil }
