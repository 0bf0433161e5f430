package fanout_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/slogtest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestCorrelationID_ComesFromThePayloadOrTheContextOrIsMinted(t *testing.T) {
	var sent, seen string
	target := via("crm", func(r *http.Request) (*http.Response, error) {
		sent, seen = r.Header.Get("X-Correlation-ID"), fanout.CorrelationID(r.Context())
		return answer(200, ""), nil
	})
	d := newDispatcher(t, target)
	visit := fanout.WithCorrelationID(t.Context(), "visit-7")
	for _, test := range []struct {
		name    string
		ctx     context.Context
		payload fanout.Payload
		want    string
	}{
		{"context", visit, fanout.Payload{}, "visit-7"},
		{"payload", visit, fanout.Payload{CorrelationID: "order-9"}, "order-9"},
		{"minted", t.Context(), fanout.Payload{}, ""},
		{"an invalid one is never taken into a context", fanout.WithCorrelationID(visit, "a b"), fanout.Payload{}, "visit-7"},
	} {
		results, err := d.Dispatch(test.ctx, test.payload)
		require.NoError(t, err)
		if test.want == "" {
			test.want = results["crm"].Payload.ID
		}
		assert.Equal(t, test.want, sent, test.name)
		assert.Equal(t, test.want, seen, test.name)
	}
}

// visibleASCII drops what may not stand in an ID.
func visibleASCII(r rune) rune {
	if r <= ' ' || r > '~' || r == '"' || r == '\\' || r == ',' || r == ';' {
		return -1
	}
	return r
}

// Whatever passes goes through net/http unchanged and cannot break a log line.
func FuzzCorrelationID(f *testing.F) {
	for _, id := range []string{"visit-7", "", "a b", "a\nb", "é", strings.Repeat("x", 129)} {
		f.Add(id)
	}
	var received string
	server := fanout.CorrelationMiddleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		received = fanout.CorrelationID(r.Context())
	}))
	f.Fuzz(func(t *testing.T, id string) {
		request, response := httptest.NewRequest(http.MethodGet, "/", nil), httptest.NewRecorder()
		request.Header[fanout.CorrelationHeader] = []string{id}
		server.ServeHTTP(response, request)
		require.True(t, fanout.ValidCorrelationID(received))
		require.Equal(t, fanout.ValidCorrelationID(id), received == id)
		require.Equal(t, received, response.Header().Get(fanout.CorrelationHeader))
		require.Equal(t, received, strings.Map(visibleASCII, received))
	})
}

func TestRequestID_IsNewForEveryAttempt(t *testing.T) {
	ids := map[string]bool{}
	target := with(via("crm", func(r *http.Request) (*http.Response, error) {
		ids[r.Header.Get("X-Request-ID")] = true
		return answer(500, ""), nil
	}), fanout.Policy{Retry: fanout.Retry{InitialBackoff: 1}, Breaker: fanout.Breaker{OpenFor: -1}})
	d := newDispatcher(t, target)
	for range 3 {
		dispatch(t.Context(), d)
	}
	assert.Len(t, ids, 9)
}

func TestCorrelationMiddleware_TakesAValidIDAndReplacesAnyOther(t *testing.T) {
	for inbound, taken := range map[string]bool{
		"visit-7": true, "a.b_c~d:e/f+g=h@i": true, strings.Repeat("x", 128): true,
		"": false, "two words": false, "line\nbreak": false, "naïve": false, strings.Repeat("x", 129): false, `"quoted"`: false, "a,b": false,
	} {
		var handled string
		handler := fanout.CorrelationMiddleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			handled = fanout.CorrelationID(r.Context())
		}))
		request, response := httptest.NewRequest(http.MethodPost, "/", nil), httptest.NewRecorder()
		request.Header.Set(fanout.CorrelationHeader, inbound)
		handler.ServeHTTP(response, request)
		assert.Equal(t, taken, handled == inbound, inbound)
		assert.True(t, fanout.ValidCorrelationID(handled))
		assert.Equal(t, handled, response.Header().Get(fanout.CorrelationHeader))
	}
}

func TestCorrelationHandler_AddsTheIDOutsideOfAllGroups(t *testing.T) {
	ctx := fanout.WithCorrelationID(t.Context(), "visit-7")
	for name, test := range map[string]struct {
		log  func(*slog.Logger)
		want string
	}{
		"plain":        {func(l *slog.Logger) { l.InfoContext(ctx, "m", "k", 1) }, `{"msg":"m","correlation_id":"visit-7","k":1}`},
		"with":         {func(l *slog.Logger) { l.With("a", 1).InfoContext(ctx, "m") }, `{"msg":"m","correlation_id":"visit-7","a":1}`},
		"group":        {func(l *slog.Logger) { l.WithGroup("g").InfoContext(ctx, "m", "k", 1) }, `{"msg":"m","correlation_id":"visit-7","g":{"k":1}}`},
		"with, group":  {func(l *slog.Logger) { l.With("a", 1).WithGroup("g").With("b", 2).InfoContext(ctx, "m") }, `{"msg":"m","correlation_id":"visit-7","a":1,"g":{"b":2}}`},
		"without a ID": {func(l *slog.Logger) { l.Info("m", "k", 1) }, `{"msg":"m","k":1}`},
	} {
		var out bytes.Buffer
		test.log(slog.New(fanout.NewCorrelationHandler(slog.NewJSONHandler(&out, &slog.HandlerOptions{ReplaceAttr: onlyMessage}))))
		assert.JSONEq(t, test.want, out.String(), name)
	}
}

// onlyMessage drops time and level from a record.
func onlyMessage(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
		return slog.Attr{}
	}
	return a
}

func TestCorrelationHandler_PassesTheTestsOfSlog(t *testing.T) {
	var out bytes.Buffer
	slogtest.Run(t, func(*testing.T) slog.Handler {
		out.Reset()
		return fanout.NewCorrelationHandler(slog.NewJSONHandler(&out, nil))
	}, func(t *testing.T) map[string]any {
		t.Helper()
		var record map[string]any
		require.NoError(t, json.Unmarshal(out.Bytes(), &record))
		return record
	})
}

func TestCorrelationHandler_DoesNotRepeatTheID(t *testing.T) {
	var log records
	logger := slog.New(fanout.NewCorrelationHandler(log.logger(slog.LevelInfo).Handler()))
	d := newWith(t, fanout.Config{Targets: []fanout.Target{via("crm", answering(400))}, Logger: logger})
	dispatch(fanout.WithCorrelationID(t.Context(), "visit-7"), d)
	assert.Equal(t, 1, bytes.Count(log.Bytes(), []byte("correlation_id")), log.String())
}

func TestCorrelationHandler_AddsNoIDThatTheLoggerHas(t *testing.T) {
	ctx := fanout.WithCorrelationID(t.Context(), "visit-7")
	own := slog.String(fanout.CorrelationKey, "visit-7")
	for name, c := range map[string]struct {
		log   func(slog.Handler) *slog.Logger
		times int
	}{
		"with": {func(h slog.Handler) *slog.Logger { return slog.New(fanout.NewCorrelationHandler(h)).With(own) }, 1},
		"with, then a group": {func(h slog.Handler) *slog.Logger {
			return slog.New(fanout.NewCorrelationHandler(h)).With(own).WithGroup("g")
		}, 1},
		"wrapped twice": {func(h slog.Handler) *slog.Logger {
			return slog.New(fanout.NewCorrelationHandler(fanout.NewCorrelationHandler(h)))
		}, 1},
		"wrapped twice, a group": {func(h slog.Handler) *slog.Logger {
			return slog.New(fanout.NewCorrelationHandler(fanout.NewCorrelationHandler(h))).WithGroup("g")
		}, 1},
		"a group's own beside it": {func(h slog.Handler) *slog.Logger {
			return slog.New(fanout.NewCorrelationHandler(h)).WithGroup("g").With(own)
		}, 2},
		"another attribute": {func(h slog.Handler) *slog.Logger { return slog.New(fanout.NewCorrelationHandler(h)).With("a", 1) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			c.log(slog.NewJSONHandler(&out, nil)).InfoContext(ctx, "hello", "b", 2)
			assert.Equal(t, c.times, strings.Count(out.String(), `"`+fanout.CorrelationKey+`"`), out.String())
		})
	}
}

// A hang would take the whole process, so it is another one that tries.
func TestCorrelationHandler_MayWrapTheFirstDefaultOfSlog(t *testing.T) {
	if os.Getenv("FANOUT_WRAP_DEFAULT") != "" {
		slog.SetDefault(slog.New(fanout.NewCorrelationHandler(slog.Default().Handler())))
		slog.InfoContext(fanout.WithCorrelationID(t.Context(), "visit-7"), "hello")
		log.Print("from package log")
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	self := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$")
	self.Env = append(os.Environ(), "FANOUT_WRAP_DEFAULT=1")
	out, err := self.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "msg=hello correlation_id=visit-7")
	assert.Contains(t, string(out), `msg="from package log"`)
}
