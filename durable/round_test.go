package durable_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestSchedule_IsTheTargetsOwnAndKeysAreKept(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{Targets: map[string]durable.TargetConfig{"flaky": {Schedule: fast(3)}}})
		var keys []string
		flaky := sending("flaky", func(r *fanout.Request) error {
			if keys = append(keys, r.Key); len(keys) < 3 {
				return errDown
			}
			return nil
		})
		var results fanouttest.Results
		d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{flaky}, OnResult: results.OnResult})
		id := submit(t, d, "entry")
		assert.Equal(t, fanout.Delivered, wait(t, &results, id)["flaky"].Outcome)
		assert.Equal(t, []string{id + ":flaky", id + ":flaky", id + ":flaky"}, keys)
	})
}

func TestRound_TheLastMakesADeadLetter(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{Schedule: fast(2)})
		api := fanouttest.NewTarget(t, fanouttest.Status(http.StatusGone))
		var told atomic.Int32
		d := dispatcher(t, q, fanout.Config{
			Targets: []fanout.Target{
				sending("down", func(*fanout.Request) error { return errDown }),
				{Name: "strict", URL: api.URL()},
			},
			OnDeadLetter: func(context.Context, fanout.Result) { told.Add(1) },
		})
		id := submit(t, d, map[string]int{"amount": 7})
		eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 2 }, "two dead letters")
		assert.EqualValues(t, 2, told.Load())
		for _, dead := range deadLetters(t, q, durable.Filter{}) {
			want := map[string]durable.DeadLetter{
				"down":   {Rounds: 3, Class: "_OTHER", Error: "down: given up after 1 attempt: down; it may have taken effect"},
				"strict": {Rounds: 1, Class: "410", Error: "strict: not retried after 1 attempt: 410 Gone"},
			}[dead.Target]
			assert.Equal(t, []any{id, want.Rounds, want.Class, want.Error}, []any{dead.DispatchID, dead.Rounds, dead.Class, dead.Error})
			assert.WithinDuration(t, time.Now(), dead.Died, time.Minute)
			one, err := q.Inspect(t.Context(), dead.ID)
			require.NoError(t, err)
			assert.JSONEq(t, `{"amount":7}`, string(one.Payload.Body))
			require.Len(t, one.History, want.Rounds)
			require.Len(t, one.History[0].Attempts, 1)
			if dead.Target == "strict" {
				assert.Equal(t, http.StatusGone, one.History[0].Response.StatusCode)
			}
		}
	})
}

func TestRound_IsNotUsedUpByAnOpenBreaker(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{Schedule: fast(1)})
		var results fanouttest.Results
		var up atomic.Bool
		target := sending("crm", func(*fanout.Request) error {
			if up.Load() {
				return nil
			}
			return errDown
		})
		target.Breaker = fanout.Breaker{ConsecutiveFailures: 1, OpenFor: time.Second}
		d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{target}, OnResult: results.OnResult})
		ids := []string{submit(t, d, "opens it")}
		eventually(t, func() bool { state, _ := d.BreakerState("crm"); return state == fanout.BreakerOpen }, "the breaker to open")
		up.Store(true)
		for range 5 {
			ids = append(ids, submit(t, d, "waits"))
		}
		for _, id := range ids {
			assert.Equal(t, fanout.Delivered, wait(t, &results, id)["crm"].Outcome)
		}
	})
}

func TestRound_ThatHangsDelaysNoOtherTarget(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{Concurrency: 2})
		var reached atomic.Int32
		hung := fanout.Target{Name: "hung", Sender: fanout.SenderFunc(func(ctx context.Context, _ *fanout.Request) (*fanout.Response, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})}
		well := sending("well", func(*fanout.Request) error { reached.Add(1); return nil })
		d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{hung, well}})
		for range 20 {
			submit(t, d, "entry")
		}
		eventually(t, func() bool { return reached.Load() == 20 }, "all at the one that is well")
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		require.NoError(t, d.Close(ctx), "what hangs is handed back")
	})
}

func TestRound_FindsALookedUpTargetAgainAfterARestart(t *testing.T) {
	q, again := inFile(t, durable.Config{})
	hook := fanouttest.NewSender()
	begun := make(chan struct{})
	d := dispatcher(t, q, fanout.Config{Lookup: func(context.Context, string) (fanout.Target, error) {
		return fanout.Target{Sender: fanout.SenderFunc(func(ctx context.Context, _ *fanout.Request) (*fanout.Response, error) {
			close(begun)
			<-ctx.Done()
			return nil, ctx.Err()
		})}, nil
	}})
	id := submit(t, d, "event", fanout.To("customer 7"))
	<-begun
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, d.Close(ctx))
	var results fanouttest.Results
	dispatcher(t, again(t, durable.Config{}), fanout.Config{OnResult: results.OnResult, Lookup: func(_ context.Context, name string) (fanout.Target, error) {
		if name != "customer 7" {
			return fanout.Target{}, errors.New("no such customer")
		}
		return hook.Target(""), nil
	}})
	assert.Equal(t, fanout.Delivered, wait(t, &results, id)["customer 7"].Outcome)
}

// lookingUp submits an event to "customer 7", whom only a look-up knows. Its first round
// begins when the look-up returns failure. Call mended to let the look-up succeed again.
func lookingUp(t *testing.T, q *durable.Queue, failure error) (customer *fanouttest.Sender, mended func()) {
	t.Helper()
	require.NoError(t, q.Hold(t.Context(), "customer 7"))
	customer = fanouttest.NewSender()
	var failing atomic.Bool
	d := dispatcher(t, q, fanout.Config{Lookup: func(context.Context, string) (fanout.Target, error) {
		if failing.Load() {
			return fanout.Target{}, failure
		}
		return customer.Target(""), nil
	}})
	submit(t, d, "event", fanout.To("customer 7"))
	failing.Store(true)
	require.NoError(t, q.Resume(t.Context(), "customer 7"))
	return customer, func() { failing.Store(false) }
}

func TestRound_IsNotUsedUpByALookupThatFails(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		var log safeBuffer
		q, _ := open(t, durable.Config{Schedule: []time.Duration{}, Logger: log.logger()}) // a single round
		customer, mended := lookingUp(t, q, errDown)
		eventually(t, func() bool { return strings.Contains(log.String(), "look-up failed") }, "a warning")
		mended()
		eventually(t, func() bool {
			_, err := q.DB().Exec("UPDATE " + jobs(q) + " SET scheduled_at = created_at WHERE state = 'available'") // instead of waiting
			return err == nil && customer.Count() == 1
		}, "it to arrive")
		assert.Empty(t, deadLetters(t, q, durable.Filter{}))
	})
}

func TestRound_OfATargetThatIsGoneIsTheLast(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{Schedule: []time.Duration{time.Hour}})
		customer, _ := lookingUp(t, q, fmt.Errorf("customer 7 left: %w", fanout.ErrTargetGone))
		eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 1 }, "a dead letter")
		dead := deadLetters(t, q, durable.Filter{})[0]
		assert.Equal(t, []any{"customer 7", 1, fanout.ClassTargetGone}, []any{dead.Target, dead.Rounds, dead.Class})
		assert.Zero(t, customer.Count())
	})
}

func TestRound_WritesAnErrorThatADatabaseCannot(t *testing.T) {
	long := "\x00\xff" + strings.Repeat("\u00fc", 600) + "x"
	onBoth(t, func(t *testing.T, open opener) {
		for name, failing := range map[string]func(*fanout.Request) error{
			"final":     func(*fanout.Request) error { return fanout.Permanent(errors.New(long)) },
			"not final": func(*fanout.Request) error { return errors.New(long) },
			"panic":     func(*fanout.Request) error { panic(long) },
			"cancelled": func(*fanout.Request) error { return fmt.Errorf("%s: %w", long, context.Canceled) },
			"final, cancelled": func(*fanout.Request) error {
				return fanout.Permanent(fmt.Errorf("%s: %w", long, context.Canceled))
			},
		} {
			t.Run(name, func(t *testing.T) {
				q, _ := open(t, durable.Config{Schedule: fast(1)})
				var results fanouttest.Results
				d := dispatcher(t, q, fanout.Config{OnResult: results.OnResult, Targets: []fanout.Target{
					sending("bad", failing), fanouttest.NewSender().Target("good"),
				}})
				got := wait(t, &results, submit(t, d, "entry"), "bad", "good")
				assert.Equal(t, fanout.Delivered, got["good"].Outcome)
				eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 1 }, "a dead letter")
				dead := deadLetters(t, q, durable.Filter{})[0]
				assert.Contains(t, dead.Error, "??\u00fc\u00fc")
				closeNow(t, d)
			})
		}
	})
}

func TestRound_IsMadeLaterIfItsLaneCouldNotBeOpened(t *testing.T) {
	q, _ := inPostgres(t, durable.Config{})
	ledger := fanouttest.NewSender()
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{ledger.Target("ledger")}})
	_, err := q.DB().Exec("ALTER TABLE fanout.river_queue RENAME TO away")
	require.NoError(t, err)
	submit(t, d, "entry")
	time.Sleep(500 * time.Millisecond) // until it has been tried
	assert.Zero(t, ledger.Count())
	_, err = q.DB().Exec("ALTER TABLE fanout.away RENAME TO river_queue")
	require.NoError(t, err)
	eventually(t, func() bool { return ledger.Count() == 1 }, "it to arrive")
}

func TestSchedule_WaitsOneDayForARetryAfterOfYears(t *testing.T) {
	q, _ := inFile(t, durable.Config{Schedule: []time.Duration{time.Hour}})
	api := fanouttest.NewTarget(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "9223372036")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{api.Target("crm")}})
	submit(t, d, "entry")
	eventually(t, func() bool {
		var waits int
		row := q.DB().QueryRow("SELECT count(*) FROM river_job WHERE state = 'retryable' AND scheduled_at BETWEEN datetime('now', '+23 hours') AND datetime('now', '+30 hours')")
		return row.Scan(&waits) == nil && waits == 1
	}, "it to be put off for a day")
	assert.Equal(t, 1, api.Count())
}

func TestRound_WarnsOnceOfATargetThatIsGoneBeforeItsDeliveriesDie(t *testing.T) {
	var log safeBuffer
	q, _ := inFile(t, durable.Config{Logger: log.logger(), Schedule: []time.Duration{time.Hour}})
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{fanouttest.NewSender().Target("crm")}})
	require.NoError(t, q.Hold(t.Context(), "crm"))
	const n = 30 // they begin at the same time
	for range n {
		submit(t, d, "entry")
	}
	d.RemoveTargets("crm")
	require.NoError(t, q.Resume(t.Context(), "crm"))
	eventually(t, func() bool {
		var waiting int
		row := q.DB().QueryRow("SELECT count(*) FROM river_job WHERE metadata->>'snoozes' > 0")
		return row.Scan(&waiting) == nil && waiting == n
	}, "all to wait")
	assert.Equal(t, 1, strings.Count(log.String(), "no target of this name is configured"))
}
