package fanout_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestEveryLineOfTheThreatModelHasATest(t *testing.T) {
	model, err := os.ReadFile("SECURITY.md")
	require.NoError(t, err)
	var tests strings.Builder
	for _, pattern := range []string{"*_test.go", "*/*_test.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range files {
			source, err := os.ReadFile(file)
			require.NoError(t, err)
			tests.Write(source)
		}
	}
	lines := 0
	for line := range strings.Lines(string(model)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| tries") || strings.HasPrefix(line, "| ---") {
			continue
		}
		lines++
		names := regexp.MustCompile(`\bTest\w+`).FindAllString(line, -1)
		assert.NotEmpty(t, names, line)
		for _, name := range names {
			assert.Contains(t, tests.String(), "func "+name+"(t *testing.T)")
		}
	}
	assert.Greater(t, lines, 20)
}

func TestInformationalAnswersWithoutEndEnd(t *testing.T) {
	api := fanouttest.NewTarget(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, _ := w.(http.Hijacker).Hijack()
		defer conn.Close()
		for {
			if _, err := fmt.Fprintf(conn, "HTTP/1.1 103 Early Hints\r\nLink: %s\r\n\r\n", strings.Repeat("x", 1000)); err != nil {
				return
			}
		}
	})
	target := with(api.Target("crm"), fanout.Policy{AttemptTimeout: 20 * time.Second, Retry: fanout.Retry{MaxAttempts: 1}})
	r := dispatch(t.Context(), newDispatcher(t, target))["crm"]
	require.Error(t, r.Err())
	require.NotErrorIs(t, r.Err(), fanout.ErrAttemptTimeout, "it ends by itself")
}

func TestStatusesMadeUpMakeNoClasses(t *testing.T) {
	for status, want := range map[int]fanout.Class{404: "404", 599: "599", 600: "_OTHER", 999: "_OTHER", 99: "_OTHER", -1: "_OTHER"} {
		assert.Equal(t, want, fanout.ClassOf(&fanout.StatusError{StatusCode: status}))
	}
}

func TestWhatUserCodeTakesFromAnAnswerIsLoggedWithinBounds(t *testing.T) {
	var log records
	recorded := newSpans(t)
	target := via("crm", func(*http.Request) (*http.Response, error) {
		return answer(200, "forged\nlevel=INFO\x1b[2J\u2028\u202e"+strings.Repeat("x", 100_000)), nil
	})
	target.Classify = func(r *fanout.Response) error { return fanout.Permanent(fmt.Errorf("not understood: %s", r.Body)) }
	logger := log.logger(slog.LevelDebug)
	dispatch(t.Context(), newWith(t, fanout.Config{Targets: []fanout.Target{target}, Logger: logger, TracerProvider: recorded.provider}))
	assert.NotContains(t, log.String(), `\n`)
	assert.NotContains(t, log.String(), `\u001b`)
	assert.NotContains(t, log.String(), "\u202e", "which turns what follows around")
	assert.NotContains(t, log.String(), `\u2028`)
	assert.Less(t, log.Len(), 5000)
	for _, span := range recorded.GetSpans() {
		assert.Less(t, len(span.Status.Description), 1100)
		assert.NotContains(t, span.Status.Description, "\n")
	}
}
