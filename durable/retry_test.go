package durable_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/fanouttest"
)

const patience = 30 * time.Second

// dispatcher is closed after the test.
func dispatcher(t *testing.T, q *durable.Queue, config fanout.Config) *fanout.Dispatcher {
	t.Helper()
	config.Queue = q
	d, err := fanout.New(config)
	require.NoError(t, err)
	t.Cleanup(func() { closeNow(t, d) })
	return d
}

func closeNow(t *testing.T, d *fanout.Dispatcher) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	assert.NoError(t, d.Close(ctx))
}

func submit(t *testing.T, d *fanout.Dispatcher, payload any, options ...fanout.Option) string {
	t.Helper()
	id, err := d.Submit(t.Context(), payload, options...)
	require.NoError(t, err)
	return id
}

// wait is for the results of a dispatch.
func wait(t *testing.T, results *fanouttest.Results, id string) fanout.Results {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got, err := results.Wait(ctx, id)
	require.NoError(t, err)
	return got
}

func eventually(t *testing.T, condition func() bool, what string) {
	t.Helper()
	require.Eventually(t, condition, patience, 5*time.Millisecond, what)
}

// once makes each round one attempt.
var once = fanout.Policy{Retry: fanout.Retry{MaxAttempts: 1}}

// sending is a target that does as told.
func sending(name string, send func(*fanout.Request) error) fanout.Target {
	return fanout.Target{Name: name, Policy: once, Sender: fanout.SenderFunc(func(_ context.Context, r *fanout.Request) (*fanout.Response, error) {
		return nil, send(r)
	})}
}

var errDown = errors.New("down")

func fast(waits int) []time.Duration { return make([]time.Duration, waits) }

func deadLetters(t *testing.T, q *durable.Queue, f durable.Filter) []durable.DeadLetter {
	t.Helper()
	var all []durable.DeadLetter
	for dead, err := range q.DeadLetters(t.Context(), f) {
		require.NoError(t, err)
		all = append(all, dead)
	}
	return all
}

func TestADeliveryIsTriedAgainByItsTargetsScheduleAndKeepsItsKey(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{Targets: map[string]durable.TargetConfig{"flaky": {Schedule: fast(3)}}})
		var keys []string
		flaky := sending("flaky", func(r *fanout.Request) error {
			if keys = append(keys, r.IdempotencyKey); len(keys) < 3 {
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

func TestADeliveryIsADeadLetterWhenTheScheduleIsOverOrTheTargetSaysNo(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{Schedule: fast(2)})
		api := fanouttest.NewTarget(t, fanouttest.Status(http.StatusUnprocessableEntity))
		var told atomic.Int32
		d := dispatcher(t, q, fanout.Config{
			Targets: []fanout.Target{
				sending("down", func(*fanout.Request) error { return errDown }),
				{Name: "strict", URL: api.URL()},
			},
			OnDeadLetter: func(context.Context, *fanout.Submission, fanout.Result) { told.Add(1) },
		})
		id := submit(t, d, map[string]int{"amount": 7})
		eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 2 }, "two dead letters")
		assert.EqualValues(t, 2, told.Load())
		for _, dead := range deadLetters(t, q, durable.Filter{}) {
			want := map[string]durable.DeadLetter{
				"down":   {Rounds: 3, Class: "_OTHER", Error: "down: given up after 1 attempt: down; it may have taken effect"},
				"strict": {Rounds: 1, Class: "422", Error: "strict: not retried after 1 attempt: 422 Unprocessable Entity"},
			}[dead.Target]
			assert.Equal(t, []any{id, want.Rounds, want.Class, want.Error}, []any{dead.DispatchID, dead.Rounds, dead.Class, dead.Error})
			assert.WithinDuration(t, time.Now(), dead.Died, time.Minute)
			one, err := q.Inspect(t.Context(), dead.ID)
			require.NoError(t, err)
			assert.JSONEq(t, `{"amount":7}`, string(one.Payload.Body))
			require.Len(t, one.History, want.Rounds)
			require.Len(t, one.History[0].Attempts, 1)
			if dead.Target == "strict" {
				assert.Equal(t, http.StatusUnprocessableEntity, one.History[0].Response.StatusCode)
			}
		}
	})
}

func TestAnOpenBreakerSnoozesADeliveryWithoutUsingUpARound(t *testing.T) {
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

func TestATargetThatHangsDelaysNobodyElse(t *testing.T) {
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

func TestWhatWasCutShortByCloseIsMadeByTheNextProcess(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, again := open(t, durable.Config{Schedule: []time.Duration{}})
		begun := make(chan string, 1)
		d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{{Name: "ledger", Sender: fanout.SenderFunc(func(ctx context.Context, r *fanout.Request) (*fanout.Response, error) {
			begun <- r.IdempotencyKey
			<-ctx.Done()
			return nil, ctx.Err()
		})}}})
		id := submit(t, d, "entry")
		key := <-begun
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		require.NoError(t, d.Close(ctx))

		var results fanouttest.Results
		ledger := fanouttest.NewSender()
		dispatcher(t, again(t, durable.Config{}), fanout.Config{Targets: []fanout.Target{ledger.Target("ledger")}, OnResult: results.OnResult})
		assert.Equal(t, fanout.Delivered, wait(t, &results, id)["ledger"].Outcome)
		assert.Equal(t, key, ledger.Requests()[0].IdempotencyKey)
	})
}
