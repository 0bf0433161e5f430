package fanout_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

// records is a log in memory.
type records struct{ bytes.Buffer }

func (r *records) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(r, &slog.HandlerOptions{Level: level}))
}

func (r *records) all(t *testing.T) []map[string]any {
	t.Helper()
	var all []map[string]any
	for decoder := json.NewDecoder(r); decoder.More(); {
		var record map[string]any
		require.NoError(t, decoder.Decode(&record))
		delete(record, "time")
		delete(record, "duration")
		all = append(all, record)
	}
	return all
}

func TestNothingIsLoggedIfAllGoesWell(t *testing.T) {
	var log records
	var results fanouttest.Results
	d := newWith(t, fanout.Config{Targets: []fanout.Target{via("crm", answering(200))}, Logger: log.logger(slog.LevelInfo), OnResult: results.OnResult})
	dispatch(t.Context(), d)
	_, err := results.Wait(t.Context(), submit(t, d))
	require.NoError(t, err)
	assert.Empty(t, log.String())
}

func TestADispatchThatFailsIsOneRecord(t *testing.T) {
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

func TestABreakersChangesAreLogged(t *testing.T) {
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

func TestAttemptsAreLoggedForDebugging(t *testing.T) {
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

func TestADeadLetterIsLogged(t *testing.T) {
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

func TestACorrelationHandlerDoesNotRepeatTheID(t *testing.T) {
	var log records
	logger := slog.New(fanout.NewCorrelationHandler(log.logger(slog.LevelInfo).Handler()))
	d := newWith(t, fanout.Config{Targets: []fanout.Target{via("crm", answering(400))}, Logger: logger})
	dispatch(fanout.WithCorrelationID(t.Context(), "visit-7"), d)
	assert.Equal(t, 1, bytes.Count(log.Bytes(), []byte("correlation_id")), log.String())
}
