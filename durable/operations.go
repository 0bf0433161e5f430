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

// Hold stops deliveries to a target: at once in this process, and within about two
// seconds in other processes. Deliveries that are running are finished. What is submitted
// during the hold is kept. The hold lasts until [Queue.Resume], and survives restarts. A
// saga is held if any of its targets is. The name need not belong to a configured target.
// An empty name is an error.
func (q *Queue) Hold(ctx context.Context, target string) error {
	if target == "" {
		return errors.New("durable: no target to hold is named")
	}
	if err := q.engine.Holds.Add(ctx, target); err != nil {
		return fmt.Errorf("durable: holding %q: %w", target, err)
	}
	return nil
}

// Resume ends a [Queue.Hold]. It is no error if the target is not held.
func (q *Queue) Resume(ctx context.Context, target string) error {
	if err := q.engine.Holds.Remove(ctx, target); err != nil {
		return fmt.Errorf("durable: resuming %q: %w", target, err)
	}
	return nil
}

// Held returns the names of the targets that are held, sorted.
func (q *Queue) Held(ctx context.Context) ([]string, error) {
	held, err := q.engine.Holds.List(ctx)
	return held, named(err)
}

// Backlog implements [fanout.BacklogReporter]. It counts the undelivered deliveries and
// the dead letters of all processes, and says which targets are held. It reads the row of
// every such delivery, which takes about 10 ms for 100,000 rows. If there is an error,
// the list is nil.
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

// DeadLetter is a delivery that failed for good. The queue keeps it until it is replayed
// or discarded.
type DeadLetter struct {
	ID         int64        `json:"id"`
	DispatchID string       `json:"dispatch_id"`
	Target     string       `json:"target"` // of a saga the step that failed last
	Targets    []string     `json:"targets"`
	Submitted  time.Time    `json:"submitted"`
	Died       time.Time    `json:"died"`
	Rounds     int          `json:"rounds"`
	Class      fanout.Class `json:"class"` // class of the last error
	Error      string       `json:"error"` // text of the last error
}

// Inspection is everything that is stored about a dead letter.
type Inspection struct {
	DeadLetter
	CorrelationID string         `json:"correlation_id"`
	Payload       fanout.Payload `json:"-"`
	// History holds the results of the failed rounds, the first round first, with their
	// attempts, errors and the beginning of the last answer. For a saga it also holds the
	// results of its steps. Errors are restored as their text and their [fanout.Class].
	History []fanout.Result `json:"-"`
}

// Filter selects dead letters. Its zero value selects all: an empty field selects
// everything.
type Filter struct {
	Target string       // a saga matches by any of its targets
	Class  fanout.Class // class of the last error
	Since  time.Time    // died at this time or later
	Until  time.Time    // died before this time
}

// ErrNotFound says that there is no dead letter with this ID.
var ErrNotFound = river.ErrNotFound

// DeadLetters lists the dead letters that the filter selects, the oldest submission
// first. If there is an error, it is the last element of the list.
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

// Inspect returns a dead letter with its payload and history. The error is [ErrNotFound]
// if no dead letter has this ID.
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

// Replay delivers a dead letter again, with the same idempotency keys, and its schedule
// starts from the beginning. A saga continues where it stopped. In an order, see
// [InOrder], a replayed delivery goes before all that were submitted later and have not
// begun. The error is [ErrNotFound] if no dead letter has this ID any more.
func (q *Queue) Replay(ctx context.Context, id int64) error {
	if err := q.engine.DeadLetters.Replay(ctx, id); err != nil {
		return fmt.Errorf("durable: replaying %d: %w", id, err)
	}
	return nil
}

// Discard removes a dead letter for good. The error is [ErrNotFound] if no dead letter
// has this ID.
func (q *Queue) Discard(ctx context.Context, id int64) error {
	if err := q.engine.DeadLetters.Discard(ctx, id); err != nil {
		return fmt.Errorf("durable: discarding %d: %w", id, err)
	}
	return nil
}

// Bulk controls [Queue.ReplayAll] and [Queue.DiscardAll].
type Bulk struct {
	// PerSecond is how many dead letters are processed per second. Zero means the default,
	// 50; negative means no limit.
	PerSecond float64
	// Progress, if not nil, is called after each dead letter. Default nil.
	Progress func(done, total int)
}

// ReplayAll replays the dead letters that exist when it begins, and returns how many it
// replayed. It stops at the first error, or when ctx ends. It can then be called again
// for the rest. A dead letter that somebody else replays or discards meanwhile is no
// error, and is not counted.
func (q *Queue) ReplayAll(ctx context.Context, f Filter, b Bulk) (int, error) {
	return q.all(ctx, f, b, q.Replay)
}

// DiscardAll discards dead letters with [Queue.Discard]. Otherwise it works like
// [Queue.ReplayAll].
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
		case !errors.Is(err, ErrNotFound): // ErrNotFound: somebody else was faster
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
