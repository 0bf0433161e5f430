package fanout_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestSaga_ThatFailsUndoesWhatWasDoneInReverseOrder(t *testing.T) {
	var j callLog
	ok := answering(200)
	d := newDispatcher(t, j.step("reserve", ok, ok), after(j.step("pay", ok, ok), "reserve"), after(j.step("ship", answering(422), ok), "pay"), after(j.step("notify", ok, nil), "ship"))
	results, err := d.Dispatch(t.Context(), "order")
	assert.Equal(t, []string{"reserve", "pay", "ship", "undo pay", "undo reserve"}, j.entries)
	assert.Equal(t, map[string]string{"reserve": "compensated", "pay": "compensated", "ship": "failed", "notify": "skipped"}, outcomesOf(results))
	require.EqualError(t, results["pay"].Err(), `pay: compensated, as "ship" failed`)
	require.EqualError(t, err, `fanout: 4 of 4 targets not delivered: reserve: compensated, as "ship" failed; `+
		`pay: compensated, as "ship" failed; ship: not retried after 1 attempt: 422 Unprocessable Entity; notify: skipped, as it comes after "ship": failed`)
	pay := results["pay"]
	require.Len(t, pay.Attempts, 2)
	assert.Equal(t, fanout.CompensationAttempt, pay.Attempts[1].Kind)
	assert.Equal(t, pay.Payload.ID+":pay-compensation.1", pay.Attempts[1].RequestID)
}

func TestSaga_UndoesWhatMayHaveBeenDoneToo(t *testing.T) {
	var j callLog
	d := newDispatcher(t, with(j.step("pay", lost, answering(200)), once))
	results := dispatch(t.Context(), d)
	assert.Equal(t, []string{"pay", "undo pay"}, j.entries)
	require.EqualError(t, results["pay"].Err(), `pay: compensated, as "pay" failed: pay: given up after 1 attempt: connection lost; it may have taken effect`)
}

func TestSaga_DoesNotUndoWhatWasNeverDone(t *testing.T) {
	var j callLog
	ok := answering(200)
	d := newDispatcher(t, j.step("refused", answering(400), ok), after(j.step("later", ok, ok), "refused"))
	assert.Equal(t, map[string]string{"refused": "failed", "later": "skipped"}, outcomesOf(dispatch(t.Context(), d)))
	assert.Equal(t, []string{"refused"}, j.entries)
}

func TestSaga_ThatFailedBeginsNoTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j callLog
		ok := answering(200)
		d := newDispatcher(t, j.step("fails", answering(400), nil), j.step("slow", slow(time.Second), ok), after(j.step("next", ok, ok), "slow"))
		results := dispatch(t.Context(), d)
		assert.Equal(t, map[string]string{"fails": "failed", "slow": "compensated", "next": "skipped"}, outcomesOf(results))
		require.EqualError(t, results["next"].Err(), `next: skipped, as the saga failed with "fails"`)
	})
}

func TestSaga_IsNotFailedByAnOptionalTarget(t *testing.T) {
	var j callLog
	ok := answering(200)
	results, err := newDispatcher(t, j.step("pay", ok, ok), optional(j.step("survey", answering(400), nil))).Dispatch(t.Context(), "order")
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"pay": "delivered", "survey": "failed"}, outcomesOf(results))
}

// slow400 answers 400 after a second.
var slow400 = delayed(time.Second, answering(400))

func TestSaga_IndependentCompensationsRunAtOnceAndOneThatFailsStopsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j callLog
		var dead []string
		second := slow(time.Second)
		d := newWith(t, fanout.Config{
			Targets: []fanout.Target{j.step("a", answering(200), second), j.step("b", answering(200), delayed(time.Second, answering(403))), j.step("c", answering(200), second), j.step("fails", slow400, nil)},
			OnDeadLetter: func(_ context.Context, r fanout.Result) {
				dead = append(dead, r.Payload.ID+" "+r.Target+" "+r.Outcome.String())
			},
		})
		began := time.Now()
		results := dispatch(t.Context(), d)
		assert.Equal(t, 2*time.Second, time.Since(began))
		assert.Equal(t, map[string]string{"a": "compensated", "b": "compensation_failed", "c": "compensated", "fails": "failed"}, outcomesOf(results))
		require.EqualError(t, results["b"].Err(), "b: compensation failed: b-compensation: not retried after 1 attempt: 403 Forbidden")
		assert.Equal(t, []string{results["b"].Payload.ID + " b compensation_failed"}, dead, "somebody has to look at it")
	})
}

func TestSaga_CompensationsOutliveTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j callLog
		d := newDispatcher(t, j.step("pay", answering(200), slow(5*time.Second)), after(j.step("ship", hanging, nil), "pay"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		results := dispatch(ctx, d)
		assert.Equal(t, 6*time.Second, time.Since(began))
		assert.Equal(t, map[string]string{"pay": "compensated", "ship": "unknown"}, outcomesOf(results))
	})
}

func TestSaga_CompensationHasAKeyPolicyAndResultOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var keys []string
		var body []byte
		answers := inTurn(503, 503, 503, 200)
		pay := via("pay", func(*http.Request) (*http.Response, error) { return answer(201, `{"id":"p-1"}`), nil })
		pay.Compensate = &fanout.Target{
			Name: "refund", URL: "https://pay.example/refunds", Policy: fanout.Policy{Retry: fanout.Retry{MaxAttempts: 5}},
			Transport: wire(func(r *http.Request) (*http.Response, error) {
				keys = append(keys, r.Header.Get("Idempotency-Key"))
				return answer(answers(), ""), nil
			}),
			Prepare: func(_ context.Context, r *fanout.Request) error {
				paid, err := fanout.Decode[struct{ ID string }](r.Earlier["pay"])
				body = []byte(paid.ID)
				r.Body = body
				return err
			},
		}
		results := dispatch(t.Context(), newDispatcher(t, pay, after(via("ship", answering(400)), "pay")))
		assert.Equal(t, "compensated", results["pay"].Outcome.String())
		assert.Equal(t, "p-1", string(body))
		key := results["pay"].Payload.ID + ":refund"
		assert.Equal(t, []string{key, key, key, key}, keys)
	})
}

func TestSaga_OnlyGoesForwardAfterThePivot(t *testing.T) {
	pivot := func(t fanout.Target) fanout.Target {
		t.Pivot = true
		return t
	}
	ok := answering(200)
	for name, test := range map[string]struct {
		pivot   wire
		undo    wire
		next    wire
		want    map[string]string
		journal []string
	}{
		"passed": {ok, nil, answering(400), map[string]string{"reserve": "delivered", "pay": "delivered", "ship": "failed", "slow": "delivered"},
			[]string{"reserve", "pay", "ship"}},
		"failed": {answering(400), nil, ok, map[string]string{"reserve": "compensated", "pay": "failed", "ship": "skipped", "slow": "delivered"},
			[]string{"reserve", "pay", "undo reserve"}},
		"unknown": {lost, nil, ok, map[string]string{"reserve": "delivered", "pay": "unknown", "ship": "skipped", "slow": "delivered"},
			[]string{"reserve", "pay"}},
		"unknown, but can be undone": {lost, ok, ok, map[string]string{"reserve": "compensated", "pay": "compensated", "ship": "skipped", "slow": "delivered"},
			[]string{"reserve", "pay", "undo pay", "undo reserve"}},
	} {
		t.Run(name, func(t *testing.T) {
			var j callLog
			d := newDispatcher(t, j.step("reserve", ok, ok), pivot(with(after(j.step("pay", test.pivot, test.undo), "reserve"), once)), after(j.step("ship", test.next, ok), "pay"), via("slow", ok))
			assert.Equal(t, test.want, outcomesOf(dispatch(t.Context(), d)))
			assert.Equal(t, test.journal, j.entries)
		})
	}
}

func TestSaga_HasNotFailedWhileItsPivotIsUnderWay(t *testing.T) {
	for name, test := range map[string]struct {
		pivot wire
		want  map[string]string
	}{
		"it passes": {slow(3 * time.Second), map[string]string{"pay": "delivered", "fails": "failed", "first": "delivered", "second": "delivered"}},
		"it fails":  {delayed(3*time.Second, answering(400)), map[string]string{"pay": "failed", "fails": "failed", "first": "compensated", "second": "skipped"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var j callLog
				pay := via("pay", test.pivot)
				pay.Pivot = true
				d := newDispatcher(t, pay, via("fails", slow400), j.step("first", slow(2*time.Second), answering(200)), after(j.step("second", answering(200), nil), "first"))
				assert.Equal(t, test.want, outcomesOf(dispatch(t.Context(), d)))
			})
		})
	}
}

func TestSaga_ReportsEveryTargetWhenSubmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j callLog
		var results fanouttest.Results
		dead := make(map[string]string)
		ok := answering(200)
		d := newWith(t, fanout.Config{
			Targets:      []fanout.Target{j.step("a", ok, ok), after(j.step("b", ok, answering(400)), "a"), after(j.step("c", answering(400), ok), "b")},
			OnResult:     results.OnResult,
			OnDeadLetter: func(_ context.Context, r fanout.Result) { dead[r.Target] = r.Outcome.String() },
		})
		got, err := results.Wait(t.Context(), submit(t, d), "a", "b", "c")
		require.NoError(t, err)
		synctest.Wait()
		assert.Equal(t, map[string]string{"a": "compensated", "b": "compensation_failed", "c": "failed"}, outcomesOf(got))
		assert.Equal(t, map[string]string{"b": "compensation_failed", "c": "failed"}, dead)
	})
}

func TestSaga_CompensationCutShortByCloseIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j callLog
		d, err := fanout.New(fanout.Config{Targets: []fanout.Target{j.step("a", answering(200), hanging), after(j.step("b", answering(400), nil), "a")}})
		require.NoError(t, err)
		submit(t, d)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var left *fanout.UndeliveredError
		require.ErrorAs(t, d.Close(ctx), &left)
		outcomes := map[string]string{}
		for _, u := range left.Left {
			outcomes[u.Target] = u.Outcome.String()
		}
		assert.Equal(t, map[string]string{"a": "compensation_failed", "b": "failed"}, outcomes)
	})
}

func TestSaga_CompensationsAreNotStoppedByUserCodeThatEndsItsGoroutine(t *testing.T) {
	for name, misbehaving := range misbehavingSenders() {
		var j callLog
		bad := j.step("a", answering(200), answering(200))
		bad.Compensate = &fanout.Target{Sender: misbehaving.Sender}
		results := dispatch(t.Context(), newDispatcher(t, bad, j.step("b", answering(200), answering(200)), j.step("c", answering(400), nil)))
		assert.Equal(t, map[string]string{"a": "compensation_failed", "b": "compensated", "c": "failed"}, outcomesOf(results), name)
	}
}

func TestSaga_CompensationWaitsForAnOpenBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j callLog
		pay := j.step("pay", answering(200), answering(500, 200))
		pay.Compensate.Policy = fanout.Policy{Retry: fanout.Retry{MaxAttempts: 2}, Breaker: fanout.Breaker{ConsecutiveFailures: 1, OpenFor: 3 * time.Second}}
		d := newDispatcher(t, pay, after(via("ship", answering(400)), "pay"))
		assert.Equal(t, "compensated", dispatch(t.Context(), d)["pay"].Outcome.String())
	})
}

// crashingJournal is what is noted of a saga, by a process that crashes when it has kept so
// many notes.
type crashingJournal struct {
	mu    sync.Mutex
	steps []fanout.Result
	left  int
}

func (n *crashingJournal) round() fanout.Round {
	return fanout.Round{Past: n.steps, Note: n.note}
}

func (n *crashingJournal) note(_ context.Context, r fanout.Result) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.left == 0 {
		return errCrash
	}
	n.left--
	n.steps = append(n.steps, r)
	return nil
}

// errCrash is what a crashingJournal returns instead of keeping a note.
var errCrash = errors.New("crash")

// resultsByTarget are the results of a round by target.
func resultsByTarget(all []fanout.Result, err error) (fanout.Results, error) {
	results := fanout.Results{}
	for _, r := range all {
		results[r.Target] = r
	}
	return results, err
}

func TestSaga_GoesOnFromItsJournalWhereverItCrashed(t *testing.T) {
	for name, c := range map[string]struct {
		targets func(*callLog) []fanout.Target
		want    map[string]string
		calls   map[string]int // of what succeeds: once, but for what could not be noted
	}{
		"to its end": {
			func(j *callLog) []fanout.Target {
				return []fanout.Target{j.step("a", answering(200), answering(200)), after(j.step("b", answering(200), answering(200)), "a"), after(j.step("c", answering(200), nil), "b")}
			},
			map[string]string{"a": "delivered", "b": "delivered", "c": "delivered"},
			map[string]int{"a": 1, "b": 1, "c": 1},
		},
		"back to its beginning": {
			func(j *callLog) []fanout.Target {
				return []fanout.Target{j.step("a", answering(200), answering(200)), after(j.step("b", answering(200), answering(200)), "a"), after(j.step("c", answering(400), nil), "b")}
			},
			map[string]string{"a": "compensated", "b": "compensated", "c": "failed"},
			map[string]int{"a": 1, "b": 1, "undo a": 1, "undo b": 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for notes := range 6 {
				var j callLog
				q := &manualQueue{}
				var log records
				d := newWith(t, fanout.Config{Targets: c.targets(&j), Queue: q, Logger: log.logger(slog.LevelWarn)})
				submit(t, d)
				kept := &crashingJournal{left: notes}
				results, err := q.deliver(t.Context(), kept)
				crashed := err != nil
				if crashed {
					require.ErrorIs(t, err, errCrash)
					kept.left = 100
					results, err = q.deliver(t.Context(), kept)
				}
				require.NoError(t, err)
				assert.Equal(t, c.want, outcomesOf(results))
				assert.NotContains(t, log.String(), "hook failed")
				calls := j.count()
				again := 0
				for call, n := range c.calls {
					again += calls[call] - n
				}
				if crashed {
					assert.LessOrEqual(t, again, 1, "%v: what was not noted is repeated, and nothing else", calls)
				} else {
					assert.Zero(t, again, "%v", calls)
				}
			}
		})
	}
}

func TestSaga_GoesOnThoughItsTargetsDependOnEachOtherNoMore(t *testing.T) {
	var j callLog
	q := &manualQueue{}
	a, b := j.step("a", answering(200), nil), j.step("b", answering(400, 200), nil)
	accepted := newWith(t, fanout.Config{Targets: []fanout.Target{a, after(b, "a")}, Queue: q})
	submit(t, accepted)
	later := &manualQueue{}
	newWith(t, fanout.Config{Targets: []fanout.Target{a, b}, Queue: later})
	later.delivery = &fanout.Delivery{Payload: q.delivery.Payload, Targets: q.delivery.Targets, Chained: true}
	kept := &crashingJournal{left: 100}
	_, err := later.deliver(t.Context(), kept)
	require.Error(t, err, "b is left for later")
	results, err := later.deliver(t.Context(), kept)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"a": "delivered", "b": "delivered"}, outcomesOf(results))
	assert.Equal(t, 1, j.count()["a"])
}

func TestSaga_WithAJournalIsSuspendedNotUndoneWhenItsTimeIsOver(t *testing.T) {
	var j callLog
	q := &manualQueue{}
	ctx, cancel := context.WithCancel(t.Context())
	stop := func(ctx context.Context, _ *fanout.Request) (*fanout.Response, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	b := fanout.Target{Name: "b", Sender: fanout.SenderFunc(stop), Compensate: &fanout.Target{Sender: fanout.SenderFunc(stop)}}
	d := newWith(t, fanout.Config{Targets: []fanout.Target{j.step("a", answering(200), answering(200)), after(b, "a")}, Queue: q})
	submit(t, d)
	kept := &crashingJournal{left: 100}
	_, err := q.deliver(ctx, kept)
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, map[string]int{"a": 1}, j.count(), "nothing is undone")
	require.Len(t, kept.steps, 1)
	assert.Equal(t, "a", kept.steps[0].Target)
}

func TestSaga_LeavesAFailureWithNoWayBackForAnotherRound(t *testing.T) {
	var j callLog
	q := &manualQueue{}
	pay := j.step("pay", answering(200), answering(200))
	pay.Pivot = true
	answers := answering(400, 200)
	d := newWith(t, fanout.Config{Targets: []fanout.Target{pay, after(j.step("ship", answers, nil), "pay")}, Queue: q})
	submit(t, d)
	kept := &crashingJournal{left: 100}
	results, err := q.deliver(t.Context(), kept)
	require.Error(t, err)
	assert.Equal(t, map[string]string{"pay": "delivered", "ship": "failed"}, outcomesOf(results))
	results, err = q.deliver(t.Context(), kept)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"pay": "delivered", "ship": "delivered"}, outcomesOf(results))
	assert.Equal(t, 1, j.count()["pay"])
}

func TestSaga_GoesOnThoughItsQueueKeptTheLatestNoteOfEachTargetAlone(t *testing.T) {
	var j callLog
	q := &manualQueue{}
	d := newWith(t, fanout.Config{Queue: q, Logger: slog.New(slog.DiscardHandler), Targets: []fanout.Target{
		j.step("a", answering(200), answering(200)), after(j.step("b", answering(400), nil), "a"),
	}})
	submit(t, d)
	latest := map[string]fanout.Result{}
	round := fanout.Round{Note: func(_ context.Context, r fanout.Result) error { latest[r.Target] = r; return nil }}
	_, err := q.worker.Deliver(t.Context(), q.delivery, round)
	require.NoError(t, err)
	for _, r := range latest {
		round.Past = append(round.Past, r)
	}
	results, err := resultsByTarget(q.worker.Deliver(t.Context(), q.delivery, round))
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"a": "compensated", "b": "failed"}, outcomesOf(results))
	assert.Equal(t, map[string]int{"a": 1, "b": 1, "undo a": 1}, j.count(), "nothing is sent again")
}

func TestSaga_WhoseNoteMisbehavesIsLeftForAnotherRound(t *testing.T) {
	for name, note := range map[string]func(context.Context, fanout.Result) error{
		"fails":  func(context.Context, fanout.Result) error { return errCrash },
		"panics": func(context.Context, fanout.Result) error { panic("no database") },
		"goexit": func(context.Context, fanout.Result) error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			var j callLog
			q := &manualQueue{}
			var prepared atomic.Bool
			pivot := j.step("a", answering(200), nil)
			pivot.Pivot = true
			b := after(j.step("b", answering(200), nil), "a")
			b.Prepare = func(context.Context, *fanout.Request) error { prepared.Store(true); return nil }
			d := newWith(t, fanout.Config{Queue: q, Targets: []fanout.Target{pivot, b}})
			submit(t, d)
			_, err := q.worker.Deliver(t.Context(), q.delivery, fanout.Round{Note: note})
			require.Error(t, err)
			assert.False(t, prepared.Load(), "nothing more is begun")
			assert.Equal(t, map[string]int{"a": 1}, j.count())
		})
	}
}

func TestSaga_ThatIsUndoneAfterAFallbackIsNoDeadLetter(t *testing.T) {
	var j callLog
	pay := withFallback(j.step("pay", answering(400), answering(200)), via("backup", answering(200)))
	results := dispatch(t.Context(), newDispatcher(t, pay, after(j.step("ship", answering(400), nil), "pay")))
	assert.Equal(t, fanout.Compensated, results["pay"].Outcome)
	assert.False(t, results["pay"].IsDeadLetter())
}

func TestSaga_WhoseLaterRoundPanicsIsLeftForAnother(t *testing.T) {
	var j callLog
	q := &manualQueue{}
	d := newWith(t, fanout.Config{Queue: q, Targets: []fanout.Target{
		j.step("a", answering(200), answering(200)), after(j.step("b", answering(400), nil), "a"),
	}})
	submit(t, d)
	round := fanout.Round{}
	ctx, cancel := context.WithCancel(t.Context())
	round.Note = func(_ context.Context, r fanout.Result) error {
		cancel() // the process is told to stop
		round.Past = append(round.Past, r)
		return nil
	}
	_, err := q.worker.Deliver(ctx, q.delivery, round)
	require.Error(t, err)
	require.Len(t, round.Past, 1)
	_, err = q.worker.Deliver(panickingContext{t.Context()}, q.delivery, round)
	require.Error(t, err, "a was delivered, and is not undone")
	assert.Equal(t, map[string]int{"a": 1}, j.count())
}

func TestSaga_ThatIsBeingUndoneStaysSoThoughDefinitionsChange(t *testing.T) {
	var j callLog
	q := &manualQueue{}
	ok := answering(200)
	a, b := j.step("a", ok, ok), after(j.step("b", answering(400), nil), "a")
	d := newWith(t, fanout.Config{Queue: q, Targets: []fanout.Target{a, b}})
	submit(t, d)
	again := &fanout.Delivery{Payload: q.delivery.Payload, Targets: q.delivery.Targets, Chained: true}
	var past []fanout.Result
	note := func(_ context.Context, r fanout.Result) error { past = append(past, r); return nil }
	_, err := q.worker.Deliver(t.Context(), again, fanout.Round{Note: note})
	require.NoError(t, err) // and now the process dies
	require.Len(t, past, 3)
	require.NoError(t, d.SetTargets(a, optional(b)))
	results, err := resultsByTarget(q.worker.Deliver(t.Context(), again, fanout.Round{Note: note, Past: past}))
	require.NoError(t, err)
	assert.Equal(t, "compensated", outcomesOf(results)["a"])
}

func TestSaga_NamesWhoFailedInALaterRoundToo(t *testing.T) {
	var j callLog
	q := &manualQueue{}
	ok := answering(200)
	var broken atomic.Bool
	broken.Store(true)
	d := newWith(t, fanout.Config{Queue: q, Targets: []fanout.Target{
		j.step("a", ok, ok),
		j.step("c", ok, func(*http.Request) (*http.Response, error) {
			if broken.Load() {
				return answer(400, ""), nil
			}
			return answer(200, ""), nil
		}),
		after(j.step("b", answering(400), nil), "a", "c"),
	}})
	submit(t, d)
	latest := map[string]fanout.Result{}
	var mu sync.Mutex
	round := fanout.Round{Note: func(_ context.Context, r fanout.Result) error {
		mu.Lock()
		defer mu.Unlock()
		latest[r.Target] = r
		return nil
	}}
	_, err := q.worker.Deliver(t.Context(), q.delivery, round)
	require.Error(t, err)
	broken.Store(false)
	for _, r := range latest {
		round.Past = append(round.Past, r)
	}
	results, err := resultsByTarget(q.worker.Deliver(t.Context(), q.delivery, round))
	require.NoError(t, err)
	assert.Contains(t, results["c"].Err().Error(), `as "b" failed`)
}

func TestSaga_ANoteThatEndsItsGoroutineLeavesIt(t *testing.T) {
	var j callLog
	q := &manualQueue{}
	ok := answering(200)
	d := newWith(t, fanout.Config{Queue: q, Targets: []fanout.Target{j.step("a", ok, ok), after(j.step("b", answering(400), nil), "a")}})
	submit(t, d)
	returned := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := q.worker.Deliver(t.Context(), q.delivery, fanout.Round{Note: func(_ context.Context, r fanout.Result) error {
			if r.Outcome == fanout.Failed {
				runtime.Goexit()
			}
			return nil
		}})
		returned = true
		assert.Error(t, err)
	}()
	<-done
	assert.True(t, returned, "Deliver returned")
}

func TestSaga_WhoseStepIsPostponedIsLeftAndNotUndone(t *testing.T) {
	var j callLog
	q := &manualQueue{}
	d := newWith(t, fanout.Config{Queue: q, Targets: []fanout.Target{
		j.step("pay", answering(200), answering(200)),
		after(with(j.step("ship", answering(200), nil), fanout.Policy{RateLimit: fanout.RateLimit{PerSecond: 0.001, Burst: 1, MaxWait: -1}}), "pay"),
	}})
	dispatch(t.Context(), d, fanout.To("pay", "ship")) // uses the rate limit up
	submit(t, d)
	round := fanout.Round{}
	round.Note = func(_ context.Context, r fanout.Result) error {
		round.Past = append(round.Past, r)
		return nil
	}
	results, err := resultsByTarget(q.worker.Deliver(t.Context(), q.delivery, round))
	require.ErrorIs(t, err, fanout.ErrRateLimited)
	assert.Equal(t, map[string]string{"pay": "delivered", "ship": "rejected"}, outcomesOf(results))
	assert.Equal(t, map[string]int{"pay": 2, "ship": 1}, j.count(), "nothing is undone")
	assert.Len(t, round.Past, 1)
}
