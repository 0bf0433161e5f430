package durable

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"golang.org/x/time/rate"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable/internal/river"
)

// Hold stops deliveries to a target: in this process at once, in others within a
// second or two. What is under way ends as it does; what is submitted meanwhile is
// kept. It lasts until [Queue.Resume], over restarts too. A saga is held if one of its
// targets is. A name that no target has can be held, too.
func (q *Queue) Hold(ctx context.Context, target string) error {
	if target == "" {
		return errors.New("durable: no target to hold is named")
	}
	if err := q.engine.Holds.Add(ctx, target); err != nil {
		return fmt.Errorf("durable: holding %q: %w", target, err)
	}
	return nil
}

// Resume undoes [Queue.Hold]. A target that is not held is no error.
func (q *Queue) Resume(ctx context.Context, target string) error {
	if err := q.engine.Holds.Remove(ctx, target); err != nil {
		return fmt.Errorf("durable: resuming %q: %w", target, err)
	}
	return nil
}

// Held names the targets that are held, sorted.
func (q *Queue) Held(ctx context.Context) ([]string, error) {
	held, err := q.engine.Holds.List(ctx)
	return held, named(err)
}

// Backlog implements [fanout.BacklogReporter]: what is not delivered and what is
// dead, of all processes, and what is held. It reads every such delivery's row: some
// 10 ms for 100,000. If there is an error, the list is nil.
func (q *Queue) Backlog(ctx context.Context) ([]fanout.Backlog, error) {
	waiting, err := q.engine.Backlog(ctx)
	if err != nil {
		return nil, named(err)
	}
	held, err := q.Held(ctx)
	if err != nil {
		return nil, err
	}
	byTarget := map[string]*fanout.Backlog{}
	for target, w := range waiting {
		byTarget[target] = &fanout.Backlog{Target: target, Deliveries: w.Jobs, Oldest: w.Oldest, DeadLetters: w.Dead}
	}
	for _, target := range held {
		if byTarget[target] == nil {
			byTarget[target] = &fanout.Backlog{Target: target}
		}
		byTarget[target].Held = true
	}
	backlog := make([]fanout.Backlog, 0, len(byTarget))
	for _, b := range byTarget {
		backlog = append(backlog, *b)
	}
	return backlog, nil
}

// DeadLetter is a delivery that failed for good. It is kept until it is replayed or
// discarded.
type DeadLetter struct {
	ID         int64        `json:"id"`
	DispatchID string       `json:"dispatch_id"`
	Target     string       `json:"target"` // of a saga the one that keeps it from its end
	Targets    []string     `json:"targets"`
	Submitted  time.Time    `json:"submitted"`
	Died       time.Time    `json:"died"`
	Rounds     int          `json:"rounds"`
	Class      fanout.Class `json:"class"` // of the last error
	Error      string       `json:"error"`
}

// Inspection is all there is of a dead letter.
type Inspection struct {
	DeadLetter
	CorrelationID string         `json:"correlation_id"`
	Payload       fanout.Payload `json:"-"`
	// History is the results of the rounds that failed, the first one first, with
	// the attempts, their errors and the beginning of the last answer; of a saga,
	// those of its steps too. Of an error they have the text and the [fanout.Class].
	History []fanout.Result `json:"-"`
}

// Filter selects dead letters. Its zero value selects all.
type Filter struct {
	Target string       // of a saga any of its targets
	Class  fanout.Class // of the last error
	Since  time.Time    // of when it died; itself included
	Until  time.Time    // itself not included
}

// ErrNotFound says that there is no dead letter of that ID.
var ErrNotFound = river.ErrNotFound

// DeadLetters lists them, the oldest submission first. An error ends the list, as its
// last element.
func (q *Queue) DeadLetters(ctx context.Context, f Filter) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		for dead, err := range q.engine.DeadLetters.List(ctx, river.Filter{Target: f.Target, Class: string(f.Class), Since: f.Since, Until: f.Until}) {
			if !yield(deadLetter(dead), named(err)) {
				return
			}
		}
	}
}

func deadLetter(d river.DeadLetter) DeadLetter {
	return DeadLetter{ID: d.ID, DispatchID: d.DispatchID, Target: d.Target, Targets: d.Targets, Submitted: d.Submitted,
		Died: d.Died, Rounds: d.Rounds, Class: fanout.Class(d.Class), Error: d.Error}
}

// Inspect returns a dead letter with its payload and history. The error is
// [ErrNotFound] if it is none.
func (q *Queue) Inspect(ctx context.Context, id int64) (*Inspection, error) {
	one, err := q.inspect(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("durable: dead letter %d: %w", id, err)
	}
	return one, nil
}

func (q *Queue) inspect(ctx context.Context, id int64) (*Inspection, error) {
	dead, job, err := q.engine.DeadLetters.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	d, err := q.sealer.delivery(job)
	if err != nil {
		return nil, err
	}
	entries, err := q.engine.Journal.Read(ctx, id, river.RoundFailed, river.StepEnded, river.StepCompensated)
	if err != nil {
		return nil, err
	}
	one := &Inspection{DeadLetter: deadLetter(dead), Payload: *d.Payload, CorrelationID: d.Payload.CorrelationID}
	for _, e := range entries {
		result, err := q.sealer.result(e, dead.DispatchID)
		if err != nil {
			return nil, err
		}
		one.History = append(one.History, result)
	}
	return one, nil
}

// Replay delivers a dead letter again, with the same idempotency keys and a schedule
// that begins anew. A saga goes on where it was. In an order it comes before what was
// submitted later and is not under way. The error is [ErrNotFound] if it is no dead
// letter, or not any more.
func (q *Queue) Replay(ctx context.Context, id int64) error {
	if err := q.engine.DeadLetters.Replay(ctx, id); err != nil {
		return fmt.Errorf("durable: replaying %d: %w", id, err)
	}
	return nil
}

// Discard removes a dead letter for good. The error is [ErrNotFound] if it is none.
func (q *Queue) Discard(ctx context.Context, id int64) error {
	if err := q.engine.DeadLetters.Discard(ctx, id); err != nil {
		return fmt.Errorf("durable: discarding %d: %w", id, err)
	}
	return nil
}

// Bulk is how much is done at once.
type Bulk struct {
	// PerSecond is how many are done in a second. Default 50; negative means as many
	// as can be.
	PerSecond float64
	// Progress, if set, is called after each.
	Progress func(done, total int)
}

// ReplayAll replays the dead letters that there are when it begins, and returns how
// many it did. It ends with the first error, or when ctx does; then it can be called again.
func (q *Queue) ReplayAll(ctx context.Context, f Filter, b Bulk) (int, error) {
	return q.all(ctx, f, b, q.Replay)
}

// DiscardAll is ReplayAll for [Queue.Discard].
func (q *Queue) DiscardAll(ctx context.Context, f Filter, b Bulk) (int, error) {
	return q.all(ctx, f, b, q.Discard)
}

func (q *Queue) all(ctx context.Context, f Filter, b Bulk, do func(context.Context, int64) error) (done int, err error) {
	var ids []int64
	for dead, err := range q.DeadLetters(ctx, f) {
		if err != nil {
			return 0, err
		}
		ids = append(ids, dead.ID)
	}
	pace := b.pace()
	for i, id := range ids {
		if err := pace.Wait(ctx); err != nil {
			return done, err
		}
		switch err := do(ctx, id); {
		case err == nil:
			done++
		case !errors.Is(err, ErrNotFound): // somebody else was faster
			return done, err
		}
		if b.Progress != nil {
			b.Progress(i+1, len(ids))
		}
	}
	return done, nil
}

func (b *Bulk) pace() *rate.Limiter {
	switch {
	case b.PerSecond == 0:
		return rate.NewLimiter(50, 1)
	case b.PerSecond < 0:
		return rate.NewLimiter(rate.Inf, 1)
	}
	return rate.NewLimiter(rate.Limit(b.PerSecond), 1)
}
