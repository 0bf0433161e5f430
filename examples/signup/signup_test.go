package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouthttp"
	"github.com/fanout-go/fanout/fanouttest"
)

const ada = `{"name": "Ada", "email": "ada@example.com"}`

// newService is the handler in front of three APIs.
func newService(t *testing.T, log io.Writer, email, crm, analytics *fanouttest.Target) http.Handler {
	t.Helper()
	toCRM, toAnalytics := crm.Target("crm"), analytics.Target("analytics")
	toCRM.Method = http.MethodPut
	toCRM.Retry = fanout.Retry{InitialBackoff: time.Millisecond, ThrottledBackoff: -1}
	toAnalytics.Optional = true
	logger := slog.New(fanout.NewCorrelationHandler(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	d, err := newDispatcher(fanout.Config{Targets: []fanout.Target{email.Target("email"), toCRM, toAnalytics}}, logger)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close(context.Background())) })
	h, err := newHandler(d, false)
	require.NoError(t, err)
	return h
}

func answering(t *testing.T, status int) *fanouttest.Target {
	t.Helper()
	return fanouttest.NewTarget(t, fanouttest.Status(status))
}

func post(h http.Handler, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/signup", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func outcomes(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var report fanouthttp.Report
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &report), w.Body)
	var all []string
	for _, r := range report.Targets {
		all = append(all, fmt.Sprintf("%s %s %d/%d", r.Target, r.Outcome, r.StatusCode, r.Attempts))
	}
	return strings.Join(all, ", ")
}

func TestSignUp(t *testing.T) {
	email, crm, analytics := answering(t, 202), answering(t, 200), answering(t, 204)
	var log bytes.Buffer
	w := post(newService(t, &log, email, crm, analytics), ada,
		fanout.CorrelationHeader, "from-the-caller", "Idempotency-Key", "key-1")

	assert.Equal(t, http.StatusOK, w.Code)
	assert.Equal(t, "email delivered 202/1, crm delivered 200/1, analytics delivered 204/1", outcomes(t, w))
	assert.Equal(t, "from-the-caller", w.Header().Get(fanout.CorrelationHeader))
	assert.Equal(t, 3, strings.Count(log.String(), `"correlation_id":"from-the-caller"`), log.String())
	assert.NotContains(t, log.String(), "ada@example.com")

	for method, api := range map[string]*fanouttest.Target{http.MethodPost: email, http.MethodPut: crm} {
		require.Equal(t, 1, api.Count())
		got := api.Requests()[0]
		assert.Equal(t, method, got.Method)
		assert.JSONEq(t, ada, string(got.Body))
		assert.Equal(t, "from-the-caller", got.CorrelationID())
		assert.Contains(t, got.IdempotencyKey(), "key-1")
	}
}

func TestSignUpWithoutCRM(t *testing.T) {
	crm := answering(t, 503)
	var log bytes.Buffer
	w := post(newService(t, &log, answering(t, 202), crm, answering(t, 204)), ada)

	assert.Equal(t, http.StatusBadGateway, w.Code)
	assert.Equal(t, "email delivered 202/1, crm failed 503/3, analytics delivered 204/1", outcomes(t, w))
	assert.Equal(t, 3, crm.Count())
	assert.Contains(t, log.String(), "crm: given up after 3 attempts: 503 Service Unavailable")
}

func TestSignUpWithoutAnalytics(t *testing.T) {
	var log bytes.Buffer
	w := post(newService(t, &log, answering(t, 202), answering(t, 200), answering(t, 400)), ada)

	assert.Equal(t, http.StatusOK, w.Code)
	assert.Equal(t, "email delivered 202/1, crm delivered 200/1, analytics failed 400/1", outcomes(t, w))
	assert.Contains(t, log.String(), `"level":"WARN"`)
}

func TestInvalidSignUpIsNotSent(t *testing.T) {
	email, crm, analytics := answering(t, 202), answering(t, 200), answering(t, 204)
	h := newService(t, io.Discard, email, crm, analytics)
	for _, test := range []struct {
		name, body, key string
		status          int
		detail          string
	}{
		{"empty", "", "", 400, "unexpected end of JSON input"},
		{"not JSON", "name=Ada", "", 400, "invalid character"},
		{"two values", ada + ada, "", 400, "invalid character"},
		{"too large", `{"name": "` + strings.Repeat("a", maxBody) + `"}`, "", 413, "the limit is 65536 bytes"},
		{"nothing in it", "{}", "", 422, "name is required; email is required"},
		{"not an address", `{"name": "Ada", "email": "Ada <ada@example.com>"}`, "", 422, "email is not an address"},
		{"key", ada, "with a space", 400, "visible ASCII"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := post(h, test.body, "Idempotency-Key", test.key)
			assert.Equal(t, test.status, w.Code)
			assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
			var problem fanouthttp.Problem
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &problem), w.Body)
			assert.Equal(t, test.status, problem.Status)
			assert.Contains(t, problem.Detail, test.detail)
		})
	}
	assert.Zero(t, email.Count())
	assert.Zero(t, crm.Count())
	assert.Zero(t, analytics.Count())
}

// A sign-up that is running when the service is told to stop is still delivered and
// answered. The order of the shutdown makes sure of that.
func TestShutdownFinishesSignUps(t *testing.T) {
	proceed := make(chan struct{})
	email := fanouttest.NewTarget(t, func(http.ResponseWriter, *http.Request) { <-proceed })
	logger := slog.New(slog.DiscardHandler)
	d, err := newDispatcher(fanout.Config{Targets: []fanout.Target{email.Target("email")}}, logger)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := listener.Addr().String()

	h, err := newHandler(d, false)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	served, answered := make(chan error, 1), make(chan int, 1)
	go func() { served <- serve(ctx, listener, h, d, logger) }()
	go func() {
		status, _, err := postSignUp(context.Background(), "http://"+addr+"/signup", []byte(ada))
		assert.NoError(t, err)
		answered <- status
	}()
	require.NoError(t, email.Wait(t.Context(), 1))
	stop()
	for { // until the server accepts no connections: then the shutdown has begun
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			break
		}
		conn.Close()
	}
	close(proceed)

	assert.Equal(t, http.StatusOK, <-answered)
	require.NoError(t, <-served)
	_, err = d.Dispatch(context.Background(), SignUp{})
	assert.ErrorIs(t, err, fanout.ErrClosed)
}

func TestDemo(t *testing.T) {
	var stdout, stderr bytes.Buffer
	payload := filepath.Join("..", "..", "testdata", "signup.json")
	require.NoError(t, run(t.Context(), []string{"-payload", payload}, &stdout, &stderr), stderr.String())

	_, table, _ := strings.Cut(stdout.String(), "TARGET ")
	for _, row := range []string{
		`email +delivered +202 +1 .* ok\n`, `crm +delivered +200 +2 .* 503 Service Unavailable\n`, `analytics +delivered +204 +1 .* ok\n`,
	} {
		assert.Regexp(t, row, table)
	}
	assert.Equal(t, 4, strings.Count(table, "\n"), table)
}

func TestDemoInTheBackground(t *testing.T) {
	var stdout bytes.Buffer
	payload := filepath.Join("..", "..", "testdata", "signup.json")
	require.NoError(t, run(t.Context(), []string{"-payload", payload, "-submit"}, &stdout, io.Discard))
	assert.Contains(t, stdout.String(), "202 Accepted")
	for _, row := range []string{
		`email +delivered +202 +1 .* ok\n`, `crm +delivered +200 +2 .* 503 Service Unavailable\n`, `analytics +delivered +204 +1 .* ok\n`,
	} {
		assert.Regexp(t, row, stdout.String())
	}
}

func TestAFullQueueAsksToTryAgainLater(t *testing.T) {
	email := fanouttest.NewTarget(t, fanouttest.Delay(50*time.Millisecond, fanouttest.Status(202)))
	logger := slog.New(slog.DiscardHandler)
	d, err := newDispatcher(fanout.Config{
		Targets: []fanout.Target{email.Target("email")},
		Queue:   fanout.NewMemoryQueue(fanout.MemoryLimits{MaxDispatches: 1}),
	}, logger)
	require.NoError(t, err)
	h, err := newHandler(d, true)
	require.NoError(t, err)
	assert.Equal(t, http.StatusAccepted, post(h, ada).Code)
	full := post(h, ada)
	assert.Equal(t, http.StatusServiceUnavailable, full.Code)
	assert.Equal(t, "1", full.Header().Get("Retry-After"))
	assert.Equal(t, http.StatusBadRequest, post(h, ada, "Idempotency-Key", "a b").Code)
	require.NoError(t, d.Close(context.Background()))
	assert.Equal(t, http.StatusServiceUnavailable, post(h, ada).Code)
}

func TestDemoWithTargetsFromAFile(t *testing.T) {
	email := answering(t, 202)
	file := filepath.Join(t.TempDir(), "targets.json")
	require.NoError(t, os.WriteFile(file, []byte(`{"targets": [{"name": "email", "url": "`+email.URL()+`"}]}`), 0o600))
	payload := filepath.Join("..", "..", "testdata", "signup.json")
	var stdout bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-payload", payload, "-targets", file}, &stdout, io.Discard))
	assert.Regexp(t, `email +delivered +202 +1 `, stdout.String())
	assert.Equal(t, 1, email.Count())
}

func TestDemoWithoutPayload(t *testing.T) {
	err := run(t.Context(), []string{"-payload", "no-such-file.json"}, io.Discard, io.Discard)
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorContains(t, err, "-payload")
}

func TestSignUpGoesOnThoughTheCallerHangsUp(t *testing.T) {
	email := answering(t, 202)
	h := newService(t, io.Discard, email, answering(t, 200), answering(t, 204))
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	r := httptest.NewRequest(http.MethodPost, "/signup", strings.NewReader(ada)).WithContext(gone)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	assert.Equal(t, http.StatusOK, w.Code)
	assert.Equal(t, 1, email.Count())
}
