package fanout_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestASnapshotSaysHowEachTargetIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		hangs := with(via("hangs", hanging), fanout.Policy{Timeout: time.Hour, AttemptTimeout: -1, Bulkhead: fanout.Bulkhead{MaxConcurrent: 1, MaxWait: time.Minute}})
		hangs.Optional = true
		d, err := fanout.New(fanout.Config{Targets: []fanout.Target{
			via("fine", answering(503, 200)), with(via("down", answering(500)), fanout.Policy{Breaker: fanout.Breaker{ConsecutiveFailures: 3}}), hangs,
		}})
		require.NoError(t, err)
		dispatch(t.Context(), d, fanout.To("fine", "down"))
		dispatch(t.Context(), d, fanout.To("down"))
		submit(t, d, fanout.To("hangs"))
		submit(t, d, fanout.To("hangs"))
		synctest.Wait()
		time.Sleep(time.Second)

		s := d.Snapshot(t.Context())
		assert.Equal(t, time.Now(), s.Time)
		require.Len(t, s.Targets, 3)
		assert.Equal(t, fanout.TargetSnapshot{Target: "fine", Breaker: fanout.BreakerClosed, Attempts: 2, Retries: 1, Delivered: 1}, s.Targets[0])
		down := s.Targets[1]
		assert.False(t, down.LastErrorAt.Before(began))
		down.LastErrorAt = time.Time{}
		assert.Equal(t, fanout.TargetSnapshot{Target: "down", Breaker: fanout.BreakerOpen, Attempts: 3, Retries: 2, Failed: 1, Rejected: 1, LastError: "500"}, down)
		assert.Equal(t, fanout.TargetSnapshot{Target: "hangs", Optional: true, Breaker: fanout.BreakerClosed, InFlight: 1, Waiting: 1, Queued: 2, OldestAge: time.Second, Attempts: 1}, s.Targets[2])

		over, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Error(t, d.Close(over))
		s = d.Snapshot(t.Context())
		assert.Zero(t, s.Targets[2].InFlight+s.Targets[2].Waiting+int64(s.Targets[2].Queued), "nothing is left over")
	})
}

func get(h http.Handler, url, accept string) *httptest.ResponseRecorder {
	request := httptest.NewRequest(http.MethodGet, url, nil)
	request.Header.Set("Accept", accept)
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, request)
	return answer
}

func TestTheStatusHandlerAnswersBrowsersWithAPageAndOthersWithJSON(t *testing.T) {
	d := newDispatcher(t, via("crm", answering(200)))
	const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
	for name, test := range map[string]struct{ url, accept, contentType string }{
		"curl":               {"/debug/fanout", "*/*", "application/json"},
		"a browser":          {"/debug/fanout", browser, "text/html; charset=utf-8"},
		"a browser's script": {"/debug/fanout?format=json", browser, "application/json"},
	} {
		answer := get(d.StatusHandler(), test.url, test.accept)
		assert.Equal(t, 200, answer.Code, name)
		assert.Equal(t, test.contentType, answer.Header().Get("Content-Type"), name)
		assert.Equal(t, "no-store", answer.Header().Get("Cache-Control"), name)
	}
	page := get(d.StatusHandler(), "/", browser)
	assert.Contains(t, page.Header().Get("Content-Security-Policy"), "default-src 'none'")
	assert.NotContains(t, page.Body.String(), "NONCE")
	assert.NotRegexp(t, `(src|href)=`, page.Body.String(), "nothing is loaded from elsewhere")

	post := httptest.NewRecorder()
	d.StatusHandler().ServeHTTP(post, httptest.NewRequest(http.MethodPost, "/", nil))
	assert.Equal(t, http.StatusMethodNotAllowed, post.Code)
	assert.Equal(t, "GET, HEAD", post.Header().Get("Allow"))
}

func TestALimitedStatusKeepsTheTargetsInTrouble(t *testing.T) {
	d := newDispatcher(t, via("a", answering(200)), via("b", answering(200)), via("c", answering(400)))
	dispatch(t.Context(), d)
	var status struct {
		fanout.Snapshot
		Omitted int
	}
	require.NoError(t, json.Unmarshal(get(d.StatusHandler(), "/?limit=2", "").Body.Bytes(), &status))
	assert.Equal(t, 1, status.Omitted)
	assert.Equal(t, "c", status.Targets[0].Target)
	assert.Equal(t, "a", status.Targets[1].Target)
}

// chromium runs a real browser with the arguments given, on the page at url.
func chromium(t *testing.T, url string, args ...string) []byte {
	t.Helper()
	browser, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("CI must have chromium")
		}
		t.Skip("SKIPPED: the status page is not tested, as there is no chromium")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	args = append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--user-data-dir=" + t.TempDir(), "--virtual-time-budget=5000"}, args...)
	out, err := exec.CommandContext(ctx, browser, append(args, url)...).Output()
	require.NoError(t, err)
	return out
}

func TestThePageShowsTheTargetsInARealBrowser(t *testing.T) {
	const hostile = `<img src=x onerror="document.title='owned'">`
	d := newWith(t, fanout.Config{Targets: []fanout.Target{
		via("email", answering(200)), via("crm", answering(500)), via("analytics", answering(404)), sending(hostile, nothing),
	}})
	for range 3 {
		dispatch(t.Context(), d)
	}
	server := httptest.NewServer(d.StatusHandler())
	defer server.Close()

	dom := string(chromium(t, server.URL, "--dump-dom"))
	assert.Contains(t, dom, "4 targets, 1 behind an open circuit")
	assert.Contains(t, dom, `<span class="pill open">open</span>`)
	assert.Contains(t, dom, "&lt;img src=x", "names are text")
	assert.Contains(t, dom, "<title>fanout targets</title>", "and nothing else")
	assert.Regexp(t, `404, \d s ago`, dom)

	picture := filepath.Join(t.TempDir(), "status.png")
	if keep := os.Getenv("FANOUT_SCREENSHOT"); keep != "" {
		picture = keep
	}
	chromium(t, server.URL, "--screenshot="+picture, "--window-size=1280,420")
	info, err := os.Stat(picture)
	require.NoError(t, err)
	assert.Greater(t, info.Size(), int64(10_000))
}
