package fanout_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestFallback_StandsInForATargetThatFailed(t *testing.T) {
	var keys []string
	backup := via("backup", func(r *http.Request) (*http.Response, error) {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		return answer(202, `{"by":"backup"}`), nil
	})
	d := newDispatcher(t, withFallback(via("email", answering(400)), via("broken", answering(403)), backup, via("never", answering(200))))
	results, err := d.Dispatch(t.Context(), "hello")
	require.NoError(t, err, "degraded is a success")
	email := results["email"]
	assert.Len(t, results, 1)
	assert.Equal(t, fanout.Degraded, email.Outcome)
	assert.Equal(t, 202, email.Response.StatusCode)
	require.EqualError(t, email.Err(), "email: not retried after 1 attempt: 400 Bad Request; a fallback answered")
	var statuses []int
	var kinds []string
	for _, a := range email.Attempts {
		statuses, kinds = append(statuses, a.StatusCode), append(kinds, a.Kind.String())
	}
	assert.Equal(t, []int{400, 403, 202}, statuses)
	assert.Equal(t, []string{"", "fallback", "fallback"}, kinds)
	assert.Equal(t, []string{email.Payload.ID + ":backup"}, keys, "a key of its own")
	got, err := fanout.Decode[struct{ By string }](email)
	require.NoError(t, err)
	assert.Equal(t, "backup", got.By)
}

func TestFallback_CanBeAStaticAnswer(t *testing.T) {
	static := fanout.Target{Name: "default", Sender: fanout.Answer(fanout.Response{Body: []byte(`"tomorrow"`)})}
	results := dispatch(t.Context(), newDispatcher(t, withFallback(via("estimate", answering(404)), static)))
	got, err := fanout.Decode[string](results["estimate"])
	require.NoError(t, err)
	assert.Equal(t, "tomorrow", got)
}

func TestFallback_IsForTheOutcomesChosen(t *testing.T) {
	broken := func(*http.Request) (*http.Response, error) { return nil, errors.New("connection lost") }
	once := fanout.Policy{Retry: fanout.Retry{MaxAttempts: 1}}
	for name, test := range map[string]struct {
		on   []fanout.Outcome
		send wire
		want fanout.Outcome
	}{
		"failed":             {nil, answering(400), fanout.Degraded},
		"unknown, unless":    {nil, broken, fanout.Unknown},
		"unknown, if chosen": {[]fanout.Outcome{fanout.Unknown}, broken, fanout.Degraded},
		"failed, not chosen": {[]fanout.Outcome{fanout.Unknown}, answering(400), fanout.Failed},
		"delivered":          {nil, answering(200), fanout.Delivered},
	} {
		target := withFallback(with(via("email", test.send), once), via("backup", answering(200)))
		target.FallbackOn = test.on
		assert.Equal(t, test.want, dispatch(t.Context(), newDispatcher(t, target))["email"].Outcome, name)
	}
}

func TestFallback_StandsInBehindAnOpenBreaker(t *testing.T) {
	target := withFallback(with(via("email", answering(500)), fanout.Policy{Retry: fanout.Retry{MaxAttempts: 1}, Breaker: fanout.Breaker{ConsecutiveFailures: 1}}), via("backup", answering(200)))
	d := newDispatcher(t, target)
	dispatch(t.Context(), d)
	email := dispatch(t.Context(), d)["email"]
	assert.Equal(t, fanout.Degraded, email.Outcome)
	require.ErrorIs(t, email.Err(), fanout.ErrBreakerOpen)
	assert.Len(t, email.Attempts, 1)
}

func TestFallback_HasTimeKeptForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := withFallback(with(via("email", hanging), fanout.Policy{Timeout: 10 * time.Second, AttemptTimeout: -1}), via("backup", slow(time.Second)))
		target.FallbackOn = []fanout.Outcome{fanout.Unknown}
		d := newDispatcher(t, target)
		began := time.Now()
		email := dispatch(t.Context(), d)["email"]
		assert.Equal(t, fanout.Degraded, email.Outcome)
		assert.Equal(t, 9*time.Second, time.Since(began), "a fifth is kept, and a second of it used")
		assert.Equal(t, 9*time.Second, email.Duration)
	})
}

func TestFallback_ThatFailsTooIsInTheError(t *testing.T) {
	email := dispatch(t.Context(), newDispatcher(t, withFallback(via("email", answering(400)), via("backup", answering(403)))))["email"]
	assert.Equal(t, fanout.Failed, email.Outcome)
	require.EqualError(t, email.Err(), "email: not retried after 1 attempt: 400 Bad Request; fallback: backup: not retried after 1 attempt: 403 Forbidden")
	broken := func(*http.Request) (*http.Response, error) { return nil, errors.New("connection lost") }
	once := fanout.Policy{Retry: fanout.Retry{MaxAttempts: 1}}
	email = dispatch(t.Context(), newDispatcher(t, withFallback(via("email", answering(400)), with(via("backup", broken), once), via("never", answering(200)))))["email"]
	assert.Equal(t, fanout.Unknown, email.Outcome, "the fallback may have taken effect")
	assert.Len(t, email.Attempts, 2)
}

func TestFallback_IsNotUsedForACallerWhoHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := withFallback(via("email", hanging), via("backup", answering(200)))
		target.FallbackOn = []fanout.Outcome{fanout.Unknown}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		assert.Equal(t, fanout.Unknown, dispatch(ctx, newDispatcher(t, target))["email"].Outcome)
	})
}

func TestFallback_ThatCannotBeIsRefused(t *testing.T) {
	fine := via("email", answering(200))
	for want, change := range map[string]func(*fanout.Target){
		`target "email": Fallback[0].URL: `:      func(t *fanout.Target) { t.Fallback = []fanout.Target{{Name: "backup"}} },
		`target "email": Fallback[0].Optional: `: func(t *fanout.Target) { t.Fallback = []fanout.Target{optional(via("backup", answering(200)))} },
		`target "email": FallbackOn: delivered is not one of`: func(t *fanout.Target) {
			t.Fallback, t.FallbackOn = []fanout.Target{via("b", answering(200))}, []fanout.Outcome{fanout.Delivered}
		},
		`target "email": FallbackReserve: 1m0s leaves nothing of`: func(t *fanout.Target) {
			t.Fallback, t.FallbackReserve = []fanout.Target{via("b", answering(200))}, time.Minute
		},
		`target "email": Name: given twice`:                        func(t *fanout.Target) { t.Fallback = []fanout.Target{via("email", answering(200))} },
		`target "email": Fallback: none, but FallbackOn or Fallba`: func(t *fanout.Target) { t.FallbackOn = []fanout.Outcome{fanout.Failed} },
	} {
		target := fine
		change(&target)
		_, err := fanout.New(fanout.Config{Targets: []fanout.Target{target}})
		require.ErrorContains(t, err, want)
	}
}

func TestFallback_HasANameOfItsOwn(t *testing.T) {
	d := newDispatcher(t, withFallback(via("email", answering(400)), via("backup", answering(200))))
	require.ErrorContains(t, d.SetTargets(via("backup", answering(200))), `target "backup": Name: given twice`)
	dispatch(t.Context(), d)
	s := d.Snapshot(t.Context()).Targets
	require.Len(t, s, 2)
	assert.EqualValues(t, 1, s[0].Degraded)
	assert.Equal(t, "backup", s[1].Target)
	assert.EqualValues(t, 1, s[1].Delivered)
}

func TestFallback_IsSeenInLogsSpansAndMetrics(t *testing.T) {
	var log records
	recorded, measured := newSpans(t), newMeter()
	var results fanouttest.Results
	d := newWith(t, fanout.Config{
		Targets: []fanout.Target{withFallback(via("email", answering(400)), via("backup", answering(200)))},
		Logger:  log.logger(0), TracerProvider: recorded.provider, MeterProvider: measured.provider, OnResult: results.OnResult,
		OnDeadLetter: func(context.Context, fanout.Result) { t.Error("it was delivered") },
	})
	dispatch(t.Context(), d)
	record := log.all(t)[0]
	assert.Equal(t, "WARN", record["level"])
	assert.Equal(t, "degraded", record["failures"].([]any)[0].(map[string]any)["outcome"])
	got := measured.read(t)
	assert.InDelta(t, 1, got["fanout.deliveries{error.type=400,fanout.outcome=degraded,fanout.target=email}"], 0)
	assert.InDelta(t, 1, got["fanout.deliveries{fanout.outcome=delivered,fanout.target=backup}"], 0)
	backup := recorded.named(t, "deliver backup")
	assert.Equal(t, recorded.named(t, "deliver email").SpanContext.SpanID(), backup.Parent.SpanID())

	_, err := results.Wait(t.Context(), submit(t, d))
	require.NoError(t, err)
}
