package fanout

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Journal keeps what became of the targets of a submission that is
// [Submission.Chained], so that its queue can go on with it after a crash, or later.
// It belongs to one submission. Note is called from several goroutines.
type Journal interface {
	// Past is what was noted before.
	Past() []Step
	// Note keeps a step for good, before anything that comes after it begins. If it
	// fails, nothing more is begun.
	Note(context.Context, Step) error
}

// Step is what became of a target, or of its compensation.
type Step struct {
	Result       Result
	Compensation bool
}

// journal is a chain's. A nil one keeps nothing: then there is no going on later.
type journal struct {
	Journal
	past, undone map[string]Result
	stop         context.CancelCauseFunc

	mu         sync.Mutex
	unfinished error
}

func newJournal(ctx context.Context, j Journal) (context.Context, *journal) {
	if j == nil {
		return ctx, nil
	}
	ctx, stop := context.WithCancelCause(ctx)
	kept := &journal{Journal: j, past: map[string]Result{}, undone: map[string]Result{}, stop: stop}
	for _, step := range j.Past() {
		if step.Compensation {
			kept.undone[step.Result.Target] = step.Result
		} else {
			kept.past[step.Result.Target] = step.Result
		}
	}
	return ctx, kept
}

func (j *journal) close() {
	if j != nil {
		j.stop(nil)
	}
}

// note stops everything if it cannot be kept.
func (j *journal) note(ctx context.Context, r Result, compensation bool) {
	if j == nil {
		return
	}
	if err := j.Note(context.WithoutCancel(ctx), Step{Result: r, Compensation: compensation}); err != nil {
		j.leave(err)
		j.stop(err)
	}
}

// leave has the chain go on another time, for the first reason there is.
func (j *journal) leave(why error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.unfinished == nil {
		j.unfinished = why
	}
}

func (j *journal) left() error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.unfinished
}

// recall gives a delivery the result it had.
func (j *journal) recall(dl *delivery) bool {
	if j == nil {
		return false
	}
	r, ok := j.past[dl.target.Name]
	if ok {
		dl.recall(r)
	}
	return ok
}

func (j *journal) recallCompensation(dl *delivery) bool {
	if j == nil {
		return false
	}
	r, ok := j.undone[dl.target.Name]
	if ok {
		dl.recall(r)
	}
	return ok
}

func (dl *delivery) recall(r Result) {
	dl.outcome, dl.response, dl.err, dl.attempts, dl.duration = r.Outcome, r.Response, r.Err, r.Attempts, r.Duration
	if dl.clock == nil {
		dl.clock = &clock{ctx: dl.dispatch.ctx, started: time.Now()}
	}
}

// interrupted reports whether a delivery ended for a reason that says nothing about
// its chain, and why: it was cut short, or not let through a gate.
func (j *journal) interrupted(ctx context.Context, dl *delivery) error {
	switch {
	case j == nil, dl.outcome.succeeded(), dl.outcome == Skipped:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case dl.outcome == Rejected && Postponed(dl.err):
		return dl.err
	}
	return nil
}

// Postponed reports whether a delivery ended only because its target's breaker was
// open, its bulkhead full or its rate limit used up: a queue that can wait tries it
// again later.
func Postponed(err error) bool {
	e, ok := lone[*TargetError](err)
	return ok && e.Attempts == 0 && (errors.Is(e.Reason, ErrBreakerOpen) || errors.Is(e.Reason, ErrRateLimited) || errors.Is(e.Reason, ErrBulkheadFull))
}
