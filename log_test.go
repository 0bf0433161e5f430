package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestLog_IsEmptyIfAllGoesWell(t *testing.T) {
	var log records
	var results fanouttest.Results
	d := newWith(t, fanout.Config{Targets: []fanout.Target{via("crm", answering(200))}, Logger: log.logger(slog.LevelInfo), OnResult: results.OnResult})
	dispatch(t.Context(), d)
	_, err := results.Wait(t.Context(), submit(t, d))
	require.NoError(t, err)
	assert.Empty(t, log.String())
}

func TestLog_HasOneRecordOfADispatchThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log records
		analytics := via("analytics", answering(404))
		analytics.Optional = true
		d := newWith(t, fanout.Config{Targets: []fanout.Target{via("email", answering(200)), via("crm", answering(503)), analytics}, Logger: log.logger(slog.LevelInfo)})
		results := dispatch(fanout.WithCorrelationID(t.Context(), "visit-7"), d)
		assert.Equal(t, []map[string]any{{
			"level": "ERROR", "msg": "fanout: dispatch failed",
			"dispatch_id": results["crm"].Payload.ID, "correlation_id": "visit-7", "targets": 3.0,
			"failures": []any{
				map[string]any{"target": "crm", "outcome": "failed", "attempts": 3.0, "class": "503", "error": "crm: given up after 3 attempts: 503 Service Unavailable"},
				map[string]any{"target": "analytics", "outcome": "failed", "attempts": 1.0, "class": "404", "optional": true, "error": "analytics: not retried after 1 attempt: 404 Not Found"},
			},
		}}, log.all(t))

		dispatch(t.Context(), d, fanout.To("analytics"))
		record := log.all(t)[0]
		assert.Equal(t, "WARN fanout: dispatch partly failed", fmt.Sprint(record["level"], " ", record["msg"]), "only what is optional failed")
	})
}

func TestLog_HasTheChangesOfABreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log records
		d := newWith(t, fanout.Config{Logger: log.logger(slog.LevelInfo), Targets: []fanout.Target{
			with(via("crm", answering(500, 200)), fanout.Policy{Retry: fanout.Retry{MaxAttempts: 1}, Breaker: fanout.Breaker{ConsecutiveFailures: 1}}),
		}})
		dispatch(t.Context(), d)
		time.Sleep(time.Minute)
		dispatch(t.Context(), d)
		var changes []string
		for _, record := range log.all(t) {
			if record["msg"] != "fanout: dispatch failed" {
				changes = append(changes, record["level"].(string)+" "+record["msg"].(string)+" "+record["target"].(string))
			}
		}
		assert.Equal(t, []string{"WARN fanout: breaker open crm", "INFO fanout: breaker half-open crm", "INFO fanout: breaker closed crm"}, changes)
	})
}

func TestLog_HasAttemptsForDebugging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log records
		d := newWith(t, fanout.Config{Targets: []fanout.Target{via("crm", answering(503, 200))}, Logger: log.logger(slog.LevelDebug)})
		results := dispatch(fanout.WithCorrelationID(t.Context(), "visit-7"), d)
		id := results["crm"].Payload.ID
		assert.Equal(t, []map[string]any{
			{
				"level": "DEBUG", "msg": "fanout: attempt", "dispatch_id": id, "correlation_id": "visit-7", "target": "crm", "attempt": 1.0,
				"request_id": id + ":crm.1", "status": 503.0, "class": "503", "error": "503 Service Unavailable",
			},
			{
				"level": "DEBUG", "msg": "fanout: attempt", "dispatch_id": id, "correlation_id": "visit-7", "target": "crm", "attempt": 2.0,
				"request_id": id + ":crm.2", "status": 200.0,
			},
		}, log.all(t))
	})
}

func TestLog_HasDeadLetters(t *testing.T) {
	var log records
	told := make(chan struct{})
	d := newWith(t, fanout.Config{
		Targets: []fanout.Target{via("crm", answering(400))}, Logger: log.logger(slog.LevelInfo),
		OnDeadLetter: func(context.Context, fanout.Result) { close(told) },
	})
	id := submit(t, d)
	<-told
	assert.Equal(t, []map[string]any{{
		"level": "ERROR", "msg": "fanout: dead letter", "dispatch_id": id, "correlation_id": id, "target": "crm",
		"outcome": "failed", "attempts": 1.0, "class": "400", "error": "crm: not retried after 1 attempt: 400 Bad Request",
	}}, log.all(t))
}

func TestLog_BoundsWhatUserCodeTakesFromAnAnswer(t *testing.T) {
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

// panickingHandler is a log that panics.
type panickingHandler struct{ slog.Handler }

func (panickingHandler) Handle(context.Context, slog.Record) error { panic("disk full") }

func TestLog_ThatPanicsWhileAHookDoesIsContained(t *testing.T) {
	d := newWith(t, fanout.Config{
		Targets: []fanout.Target{via("crm", answering(200))}, Logger: slog.New(panickingHandler{slog.Default().Handler()}),
		OnResult: func(context.Context, fanout.Result) { panic("hook") },
	})
	submit(t, d)
}

func TestSecurityLog_HasWhatASecurityTeamWantsToKnow(t *testing.T) {
	var log records
	refused := via("refused", answering(403))
	unsigned := via("unsigned", answering(200))
	unsigned.Auth = fanout.AuthenticatorFunc(func(context.Context, *http.Request) error { return errors.New("no token") })
	limited := with(via("limited", answering(200)), fanout.Policy{RateLimit: fanout.RateLimit{PerSecond: 0.001, Burst: 1, MaxWait: -1}})
	d := newWith(t, fanout.Config{SecurityLogger: log.logger(slog.LevelInfo), Targets: []fanout.Target{refused, unsigned, limited, {Name: "hook", URL: "http://10.0.0.1", Guard: fanout.PublicOnly()}}})
	ctx := fanout.WithCorrelationID(t.Context(), "visit-7")
	for _, names := range []string{"refused", "unsigned", "hook", "limited", "limited"} {
		dispatch(ctx, d, fanout.To(names))
	}
	_, err := d.Dispatch(ctx, []byte("no content type"))
	require.Error(t, err)
	_, err = d.Submit(ctx, nil)
	require.Error(t, err)
	require.Error(t, d.SetTargets(fanout.Target{Name: "new"}))
	require.NoError(t, d.SetTargets(via("new", answering(200))))
	d.RemoveTargets("nobody")
	d.RemoveTargets("new", "nobody")

	var told []string
	for _, record := range log.all(t) {
		assert.Equal(t, "fanout: security", record["msg"])
		told = append(told, fmt.Sprintf("%v %v %v%v %v %v", record["level"], record["event"], record["target"], record["targets"], record["class"], record["correlation_id"]))
	}
	assert.Equal(t, []string{
		"WARN auth_failed refused<nil> 403 visit-7",
		"WARN auth_failed unsigned<nil> auth visit-7",
		"WARN address_blocked hook<nil> address_blocked visit-7",
		"WARN rate_limited limited<nil> rate_limited visit-7",
		"WARN input_refused <nil><nil> <nil> visit-7",
		"WARN input_refused <nil><nil> <nil> visit-7",
		"WARN input_refused <nil><nil> <nil> ",
		"INFO targets_set <nil>[new] <nil> ",
		"INFO targets_removed <nil>[new] <nil> ",
	}, told)
}
