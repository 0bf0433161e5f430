package fanouttest_test

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type newTarget func(fanouttest.TB, ...fanouttest.Step) *fanouttest.Target

// bothWays runs a test on loopback, and in memory within a bubble.
func bothWays(t *testing.T, test func(*testing.T, newTarget)) {
	t.Helper()
	t.Run("loopback", func(t *testing.T) { test(t, fanouttest.NewTarget) })
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, fanouttest.NewMemoryTarget) })
	})
}

// post sends a request as a bare client would, and reads the answer.
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

func TestStepsThatAnswer(t *testing.T) {
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

func TestStepsThatFail(t *testing.T) {
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

func TestEndlessNeverEnds(t *testing.T) {
	bothWays(t, func(t *testing.T, newTarget newTarget) {
		_, _, body, _ := post(t, newTarget(t, fanouttest.Endless()))
		assert.NotEmpty(t, body)
	})
}

func TestAGzipBombIsSmallOnTheWire(t *testing.T) {
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

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) { c.n.Add(int64(len(p))); return len(p), nil }

func TestWithoutStepsAFakeAnswersOKAndAnEmptyObject(t *testing.T) {
	bothWays(t, func(t *testing.T, newTarget newTarget) {
		status, _, body, err := post(t, newTarget(t))
		require.NoError(t, err)
		assert.Equal(t, 200, status)
		assert.Equal(t, "{}", body)
	})
}

func TestTheLastStepIsRepeated(t *testing.T) {
	bothWays(t, func(t *testing.T, newTarget newTarget) {
		f := newTarget(t, fanouttest.Statuses(503, 201, 200)...)
		var got []int
		for range 5 {
			status, _, _, err := post(t, f)
			require.NoError(t, err)
			got = append(got, status)
		}
		assert.Equal(t, []int{503, 201, 200, 200, 200}, got)
	})
}

func TestWhatArrivedIsRecordedAttemptByAttempt(t *testing.T) {
	bothWays(t, func(t *testing.T, newTarget newTarget) {
		f := newTarget(t, fanouttest.Statuses(500, 200)...)
		target := f.Target("crm")
		target.URL += "/contacts?list=7"
		target.Method = http.MethodPut
		d, err := fanout.New(fanout.Config{Targets: []fanout.Target{target}})
		require.NoError(t, err)
		defer d.Close(context.Background())
		results, err := d.Dispatch(fanout.WithCorrelationID(t.Context(), "visit-7"), map[string]int{"n": 1})
		require.NoError(t, err)

		all := f.Requests()
		require.Len(t, all, 2)
		for i, r := range all {
			assert.Equal(t, "PUT /contacts?list=7", r.Method+" "+r.Path)
			assert.Equal(t, "visit-7", r.CorrelationID())
			assert.Equal(t, results["crm"].Attempts[i].RequestID, r.RequestID())
			assert.Equal(t, results["crm"].Key, r.IdempotencyKey())
			var body struct{ N int }
			require.NoError(t, r.JSON(&body))
			assert.Equal(t, 1, body.N)
		}
		assert.True(t, all[1].Time.After(all[0].Time))
		assert.Equal(t, 1, f.Connections())
	})
}

func TestADefinitionOfOnesOwnCanBeSentToAFake(t *testing.T) {
	bothWays(t, func(t *testing.T, newTarget newTarget) {
		f := newTarget(t)
		own := fanout.Target{Name: "crm", URL: "https://crm.example/contacts?list=7", Method: http.MethodPut}
		d, err := fanout.New(fanout.Config{Targets: []fanout.Target{f.For(own)}})
		require.NoError(t, err)
		defer d.Close(context.Background())
		_, err = d.Dispatch(t.Context(), "hello")
		require.NoError(t, err)
		assert.Equal(t, "PUT /contacts?list=7", f.Requests()[0].Method+" "+f.Requests()[0].Path)
	})
}

func TestInABubbleHoursOfRetriesTakeNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fanouttest.NewMemoryTarget(t, fanouttest.RetryAfter(503, "3600"), fanouttest.Hang(), fanouttest.Status(200))
		target := f.Target("crm")
		target.Policy = fanout.Policy{Timeout: 24 * time.Hour, AttemptTimeout: time.Hour}
		d, err := fanout.New(fanout.Config{Targets: []fanout.Target{target}})
		require.NoError(t, err)
		began := time.Now()
		_, err = d.Dispatch(t.Context(), "hello")
		require.NoError(t, err)
		assert.Greater(t, time.Since(began), 2*time.Hour)
	})
}

func TestWaitReturnsWhenAllHasArrivedOrTheContextEnds(t *testing.T) {
	bothWays(t, func(t *testing.T, newTarget newTarget) {
		f := newTarget(t)
		d, err := fanout.New(fanout.Config{Targets: []fanout.Target{f.Target("a"), f.Target("b"), f.Target("c")}})
		require.NoError(t, err)
		go func() { _, _ = d.Dispatch(t.Context(), "hello") }()
		require.NoError(t, f.Wait(t.Context(), 3))
		assert.Equal(t, 3, f.Count())
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		require.ErrorIs(t, f.Wait(ctx, 4), context.DeadlineExceeded)
		require.NoError(t, d.Close(context.Background()))
	})
}

func TestASenderFailsByItsScriptAndRecords(t *testing.T) {
	down := errors.New("down")
	sender := fanouttest.NewSender(fanout.NotSent(down), nil)
	target := sender.Target("ledger")
	target.Retry.InitialBackoff = time.Millisecond
	d, err := fanout.New(fanout.Config{Targets: []fanout.Target{target}})
	require.NoError(t, err)
	results, err := d.Dispatch(t.Context(), "entry")
	require.NoError(t, err)
	require.NoError(t, sender.Wait(t.Context(), 2))
	assert.Equal(t, 2, sender.Count())
	assert.Equal(t, "entry", sender.Requests()[1].Payload.Value)
	assert.ErrorIs(t, results["ledger"].Attempts[0].Err, down)
}

func TestASenderWithoutAScriptSucceeds(t *testing.T) {
	response, err := fanouttest.NewSender().Send(t.Context(), &fanout.Request{})
	require.NoError(t, err)
	assert.Nil(t, response)
}
