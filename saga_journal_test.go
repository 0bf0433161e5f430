package fanout_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

// notebook is what is noted of a saga, by a process that crashes when it has kept so
// many notes.
type notebook struct {
	mu    sync.Mutex
	steps []fanout.Result
	left  int
}

var errCrash = errors.New("crash")

func (n *notebook) round() fanout.Round {
	return fanout.Round{Past: n.steps, Note: n.note}
}

func (n *notebook) note(_ context.Context, r fanout.Result) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.left == 0 {
		return errCrash
	}
	n.left--
	n.steps = append(n.steps, r)
	return nil
}

// notingQueue gives its only delivery to whoever asks.
type notingQueue struct {
	worker   *fanout.Worker
	delivery *fanout.Delivery
}

func (q *notingQueue) Start(w *fanout.Worker) error { q.worker = w; return nil }
func (q *notingQueue) Submit(_ context.Context, all []fanout.Delivery) error {
	q.delivery = &all[0]
	return nil
}
func (q *notingQueue) Close(context.Context) error { return nil }

// deliver makes a round of the delivery.
func (q *notingQueue) deliver(ctx context.Context, n *notebook) (fanout.Results, error) {
	return byTarget(q.worker.Deliver(ctx, q.delivery, n.round()))
}

func byTarget(all []fanout.Result, err error) (fanout.Results, error) {
	results := fanout.Results{}
	for _, r := range all {
		results[r.Target] = r
	}
	return results, err
}

func TestSaga_GoesOnFromItsJournalWhereverItCrashed(t *testing.T) {
	for name, c := range map[string]struct {
		targets func(*journal) []fanout.Target
		want    map[string]string
		calls   map[string]int // of what succeeds: once, but for what could not be noted
	}{
		"to its end": {
			func(j *journal) []fanout.Target {
				return []fanout.Target{j.step("a", answering(200), answering(200)), after(j.step("b", answering(200), answering(200)), "a"), after(j.step("c", answering(200), nil), "b")}
			},
			map[string]string{"a": "delivered", "b": "delivered", "c": "delivered"},
			map[string]int{"a": 1, "b": 1, "c": 1},
		},
		"back to its beginning": {
			func(j *journal) []fanout.Target {
				return []fanout.Target{j.step("a", answering(200), answering(200)), after(j.step("b", answering(200), answering(200)), "a"), after(j.step("c", answering(400), nil), "b")}
			},
			map[string]string{"a": "compensated", "b": "compensated", "c": "failed"},
			map[string]int{"a": 1, "b": 1, "undo a": 1, "undo b": 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for notes := range 6 {
				var j journal
				q := &notingQueue{}
				var log records
				d := newWith(t, fanout.Config{Targets: c.targets(&j), Queue: q, Logger: log.logger(slog.LevelWarn)})
				submit(t, d)
				kept := &notebook{left: notes}
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
	var j journal
	q := &notingQueue{}
	a, b := j.step("a", answering(200), nil), j.step("b", answering(400, 200), nil)
	accepted := newWith(t, fanout.Config{Targets: []fanout.Target{a, after(b, "a")}, Queue: q})
	submit(t, accepted)
	later := &notingQueue{}
	newWith(t, fanout.Config{Targets: []fanout.Target{a, b}, Queue: later})
	later.delivery = &fanout.Delivery{Payload: q.delivery.Payload, Targets: q.delivery.Targets, Chained: true}
	kept := &notebook{left: 100}
	_, err := later.deliver(t.Context(), kept)
	require.Error(t, err, "b is left for later")
	results, err := later.deliver(t.Context(), kept)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"a": "delivered", "b": "delivered"}, outcomesOf(results))
	assert.Equal(t, 1, j.count()["a"])
}

func TestSaga_WithAJournalIsSuspendedNotUndoneWhenItsTimeIsOver(t *testing.T) {
	var j journal
	q := &notingQueue{}
	ctx, cancel := context.WithCancel(t.Context())
	stop := func(ctx context.Context, _ *fanout.Request) (*fanout.Response, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	b := fanout.Target{Name: "b", Sender: fanout.SenderFunc(stop), Compensate: &fanout.Target{Sender: fanout.SenderFunc(stop)}}
	d := newWith(t, fanout.Config{Targets: []fanout.Target{j.step("a", answering(200), answering(200)), after(b, "a")}, Queue: q})
	submit(t, d)
	kept := &notebook{left: 100}
	_, err := q.deliver(ctx, kept)
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, map[string]int{"a": 1}, j.count(), "nothing is undone")
	require.Len(t, kept.steps, 1)
	assert.Equal(t, "a", kept.steps[0].Target)
}

func TestSaga_LeavesAFailureWithNoWayBackForAnotherRound(t *testing.T) {
	var j journal
	q := &notingQueue{}
	pay := j.step("pay", answering(200), answering(200))
	pay.Pivot = true
	answers := answering(400, 200)
	d := newWith(t, fanout.Config{Targets: []fanout.Target{pay, after(j.step("ship", answers, nil), "pay")}, Queue: q})
	submit(t, d)
	kept := &notebook{left: 100}
	results, err := q.deliver(t.Context(), kept)
	require.Error(t, err)
	assert.Equal(t, map[string]string{"pay": "delivered", "ship": "failed"}, outcomesOf(results))
	results, err = q.deliver(t.Context(), kept)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"pay": "delivered", "ship": "delivered"}, outcomesOf(results))
	assert.Equal(t, 1, j.count()["pay"])
}

func (j *journal) count() map[string]int {
	j.mu.Lock()
	defer j.mu.Unlock()
	counts := map[string]int{}
	for _, call := range j.entries {
		counts[call]++
	}
	return maps.Clone(counts)
}
