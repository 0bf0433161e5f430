package fanouthttp_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouthttp"
	"github.com/fanout-go/fanout/fanouttest"
)

// get requests the page in this format.
func get(h http.Handler, url, accept string) *httptest.ResponseRecorder {
	request := httptest.NewRequest(http.MethodGet, url, nil)
	request.Header.Set("Accept", accept)
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, request)
	return answer
}

func TestStatusHandler_AnswersBrowsersWithAPageAndOthersWithJSON(t *testing.T) {
	d := newDispatcher(t, via("crm", answering(200)))
	const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
	for name, test := range map[string]struct{ url, accept, contentType string }{
		"curl":               {"/debug/fanout", "*/*", "application/json"},
		"a browser":          {"/debug/fanout", browser, "text/html; charset=utf-8"},
		"a browser's script": {"/debug/fanout?format=json", browser, "application/json"},
	} {
		answer := get(fanouthttp.StatusHandler(d), test.url, test.accept)
		assert.Equal(t, 200, answer.Code, name)
		assert.Equal(t, test.contentType, answer.Header().Get("Content-Type"), name)
		assert.Equal(t, "no-store", answer.Header().Get("Cache-Control"), name)
	}
	page := get(fanouthttp.StatusHandler(d), "/", browser)
	assert.Contains(t, page.Header().Get("Content-Security-Policy"), "default-src 'none'")
	assert.NotContains(t, page.Body.String(), "NONCE")
	assert.NotRegexp(t, `(src|href)=`, page.Body.String(), "nothing is loaded from elsewhere")

	post := httptest.NewRecorder()
	fanouthttp.StatusHandler(d).ServeHTTP(post, httptest.NewRequest(http.MethodPost, "/", nil))
	assert.Equal(t, http.StatusMethodNotAllowed, post.Code)
	assert.Equal(t, "GET, HEAD", post.Header().Get("Allow"))
}

func TestStatusHandler_KeepsTheTargetsInTroubleWhenLimited(t *testing.T) {
	d := newDispatcher(t, via("a", answering(200)), via("b", answering(200)), via("c", answering(400)))
	_, _ = d.Dispatch(t.Context(), "hello")
	var status struct {
		fanout.Snapshot
		Omitted int
	}
	require.NoError(t, json.Unmarshal(get(fanouthttp.StatusHandler(d), "/?limit=2", "").Body.Bytes(), &status))
	assert.Equal(t, 1, status.Omitted)
	assert.Equal(t, "c", status.Targets[0].Target)
	assert.Equal(t, "a", status.Targets[1].Target)
}

func TestStatusHandler_ShowsTheWorstFirstWhenLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := func(name string, openFor time.Duration) fanout.Target {
			target := via(name, answering(501))
			target.Policy = fanout.Policy{
				Retry:   fanout.Retry{MaxAttempts: 1},
				Breaker: fanout.Breaker{OpenFor: openFor},
			}
			return target
		}
		d := newDispatcher(t, via("fine", answering(200)), via("denied", answering(400)), broken("half-open", time.Second), broken("open", time.Hour))
		for range 100 {
			_, _ = d.Dispatch(t.Context(), "hello")
		}
		time.Sleep(time.Minute)
		for limit, want := range map[string]string{
			"1": "open", "2": "open half-open", "3": "open half-open denied", "4": "fine denied half-open open", "0": "",
			"-1": "fine denied half-open open", "many": "fine denied half-open open",
		} {
			var status struct {
				fanout.Snapshot
				Omitted int
			}
			require.NoError(t, json.Unmarshal(get(fanouthttp.StatusHandler(d), "/?limit="+limit, "").Body.Bytes(), &status))
			var shown []string
			for _, target := range status.Targets {
				shown = append(shown, target.Target)
			}
			assert.Equal(t, want, strings.Join(shown, " "), limit)
			assert.Equal(t, 4-len(shown), status.Omitted, limit)
		}
	})
}

func TestStatusHandler_NeedsADispatcher(t *testing.T) {
	assert.PanicsWithValue(t, "fanouthttp: StatusHandler: nil dispatcher", func() { fanouthttp.StatusHandler(nil) })
}

// chromium opens the page at url in a real browser, with these arguments.
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

func TestStatusHandler_ThePageShowsTheTargetsInARealBrowser(t *testing.T) {
	const hostile = `<img src=x onerror="document.title='owned'">`
	d := newWith(t, fanout.Config{
		Targets: []fanout.Target{
			via("email", answering(200)), via("crm", answering(500)), via("analytics", answering(404)), fanouttest.NewSender().Target(hostile),
		},
		Defaults: fanout.Policy{Breaker: fanout.Breaker{OpenFor: time.Hour}}, // longer than a browser takes to start
	})
	for range 3 {
		_, _ = d.Dispatch(t.Context(), "hello")
	}
	server := httptest.NewServer(fanouthttp.StatusHandler(d))
	defer server.Close()

	dom := string(chromium(t, server.URL, "--dump-dom"))
	assert.Contains(t, dom, "4 targets, 1 behind an open circuit")
	assert.Contains(t, dom, `<span class="pill open">open</span>`)
	assert.Contains(t, dom, "&lt;img src=x", "names are text")
	assert.Contains(t, dom, "<title>fanout targets</title>", "and nothing else")
	assert.Regexp(t, `404, \d+ s ago`, dom)

	picture := filepath.Join(t.TempDir(), "status.png")
	if keep := os.Getenv("FANOUT_SCREENSHOT"); keep != "" {
		picture = keep
	}
	chromium(t, server.URL, "--screenshot="+picture, "--window-size=1280,420")
	info, err := os.Stat(picture)
	require.NoError(t, err)
	assert.Greater(t, info.Size(), int64(10_000))
}
