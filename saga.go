package fanout

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
)

// chain is a dispatch whose targets depend on each other. Each delivery begins when
// those it comes after have ended.
type chain struct {
	*dispatch
	graph   *graph
	saga    *saga
	journal *journal // nil if nothing is kept
}

// runChain makes the deliveries, and undoes them if the saga failed. The error says why it
// is not at its end, if there is another round.
func runChain(p *dispatch, g *graph, j *journal) (Results, error) {
	defer p.release()
	c := &chain{dispatch: p, graph: g, saga: newSaga(g), journal: j}
	walk(g.after, g.next, c.deliver)
	if c.isUndone() {
		c.compensateAll()
	}
	c.conclude()
	return p.results(), j.left()
}

func (c *chain) deliver(i int) {
	dl := &c.deliveries[i]
	if r, ok := c.journal.recall(dl.result.Target); ok {
		dl.endAs(r)
		c.saga.ended(i, dl.target, r.Outcome)
		return
	}
	if c.journal != nil && c.ctx.Err() != nil { // a note could not be kept: nothing more begins
		dl.endAs(unmade(dl.result.Payload, dl.result.Target, Rejected, endOf(c.ctx)))
		c.journal.leave(context.Cause(c.ctx))
		c.saga.interrupted(i)
		return
	}
	defer c.ended(i)
	if missing := c.missing(i); missing != "" {
		dl.skip(fmt.Errorf("%w, as it comes after %s", ErrSkipped, missing))
		return
	}
	if failed := c.saga.begin(i); failed != "" {
		dl.skip(fmt.Errorf("%w, as the saga failed with %q", ErrSkipped, failed))
		return
	}
	if c.journal.isUndoing() {
		dl.skip(fmt.Errorf("%w, as the saga failed in an earlier round", ErrSkipped))
		return
	}
	clock := dl.clock
	if clock == nil {
		clock = startClock(c.ctx, dl.target)
		defer clock.stop()
	}
	dl.begin(clock, c.earlier(i))
	dl.run()
}

// ended notes how a delivery ended, unless it is to be made in another round. How one
// failed is noted when it is known what comes of that.
func (c *chain) ended(i int) {
	dl := &c.deliveries[i]
	if why := c.journal.interrupted(c.ctx, &dl.result); why != nil {
		c.journal.leave(why)
		c.saga.interrupted(i)
		return
	}
	if dl.result.Outcome.succeeded() {
		c.journal.note(c.ctx, dl.result)
	}
	c.saga.ended(i, dl.target, dl.result.Outcome)
}

// missing names what did not succeed of those that i comes after.
func (c *chain) missing(i int) string {
	var names []string
	for _, j := range c.graph.after[i] {
		if earlier := &c.deliveries[j].result; !earlier.Outcome.succeeded() {
			names = append(names, fmt.Sprintf("%q: %s", earlier.Target, earlier.Outcome))
		}
	}
	return strings.Join(names, ", ")
}

func (c *chain) earlier(i int) Results {
	if len(c.graph.after[i]) == 0 {
		return nil
	}
	earlier := make(Results, len(c.graph.after[i]))
	for _, j := range c.graph.after[i] {
		r := c.deliveries[j].result
		earlier[r.Target] = r
	}
	return earlier
}

// isUndone reports whether the saga failed and there is a way back. What was cut short
// and can go on later decides then. That a compensation was noted settles it: definitions
// may have changed since.
func (c *chain) isUndone() bool {
	failed := c.saga.failed != "" && !c.saga.passed
	return c.graph.saga && (failed || c.journal.isUndoing()) && (c.journal == nil || c.ctx.Err() == nil)
}

// compensateAll undoes what was done or may have been, in reverse order, what does
// not depend on each other at the same time. It outlives a caller; a queue's context
// ends only when the time is over.
func (c *chain) compensateAll() {
	ctx := c.ctx
	if !c.submitted {
		var cancel context.CancelFunc
		ctx, cancel = outlive(ctx, c.overtime)
		defer cancel()
	}
	if !c.noteFailures() {
		return
	}
	walk(c.graph.next, c.graph.after, func(i int) {
		dl := &c.deliveries[i]
		if r, ok := c.journal.undone(dl.result.Target); ok {
			dl.endAs(r)
			return
		}
		if dl.target.compensate != nil && (dl.result.Outcome.succeeded() || dl.result.Outcome == Unknown) {
			c.compensate(ctx, i)
		}
	})
}

// outlive returns a context that ends only when the time to close is over.
func outlive(parent, overtime context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(parent))
	stop := context.AfterFunc(overtime, func() { cancel(ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// noteFailures settles that the saga failed: whoever goes on with it does not try again.
func (c *chain) noteFailures() bool {
	if c.journal == nil {
		return true
	}
	for i := range c.deliveries {
		r := &c.deliveries[i].result
		_, noted := c.journal.step(r.Target)
		if !noted && !r.Outcome.succeeded() && r.Outcome != Skipped {
			c.journal.note(c.ctx, *r)
		}
	}
	return c.ctx.Err() == nil
}

func (c *chain) compensate(ctx context.Context, i int) {
	dl := &c.deliveries[i]
	earlier := Results{dl.result.Target: dl.result}
	maps.Copy(earlier, c.earlier(i))
	undo := c.single(ctx, dl.target.compensate, CompensationAttempt, earlier)
	dl.endAs(undoneBy(dl.result, undo, c.saga.failed))
	defer dl.tellCompensation()
	if dl.result.Outcome == Compensated {
		c.journal.note(ctx, dl.result)
	}
}

// undoneBy is a result whose target's compensation came to undo, because failed did.
func undoneBy(done, undo Result, failed string) Result {
	e := &TargetError{Target: done.Target, Outcome: CompensationFailed, Reason: ErrCompensationFailed, Err: undo.err}
	if undo.Outcome == Delivered {
		why := strconv.Quote(failed)
		if failed == "" {
			why = "the saga"
		}
		e.Outcome, e.Reason, e.Err = Compensated, fmt.Errorf("%w, as %s failed", ErrCompensated, why), nil
		if done.Outcome == Unknown {
			e.Err = done.err // its own failure
		}
	}
	done.Attempts = append(done.Attempts, undo.Attempts...)
	e.Attempts = len(done.Attempts)
	done.Outcome, done.err = e.Outcome, e
	return done
}

// conclude leaves for another round what has no good end yet, if there is one.
func (c *chain) conclude() {
	if c.journal == nil || c.journal.left() != nil {
		return
	}
	undone := c.isUndone()
	for i := range c.deliveries {
		switch r := &c.deliveries[i].result; {
		case r.Outcome.succeeded(), r.Outcome == Skipped, r.Outcome == Compensated:
		case !undone, r.Outcome == CompensationFailed:
			c.journal.leave(r.Err())
		}
	}
}

// saga is whether the targets of a chain may still begin.
type saga struct {
	graph *graph

	mu         sync.Mutex
	failed     string // the first required target that did not succeed
	passed     bool   // the pivot did: from here on only forward
	pivotBegun bool
	pivotEnded chan struct{}
}

// newSaga counts those that come after nobody as begun.
func newSaga(g *graph) *saga {
	return &saga{graph: g, pivotEnded: make(chan struct{}), pivotBegun: g.pivot >= 0 && len(g.after[g.pivot]) == 0}
}

// begin returns who failed if a target must not begin any more. While the pivot is
// under way, whether that is so is not known yet.
func (s *saga) begin(i int) (failed string) {
	if !s.graph.saga || len(s.graph.after[i]) == 0 {
		return ""
	}
	s.mu.Lock()
	if i == s.graph.pivot && s.failed == "" {
		s.pivotBegun = true
	}
	decided := s.failed == "" || s.passed || !s.pivotBegun
	s.mu.Unlock()
	if !decided {
		<-s.pivotEnded
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.passed {
		return ""
	}
	return s.failed
}

// ended notes how a target ended. A pivot that may have taken effect, and cannot be
// undone, is behind us.
func (s *saga) ended(i int, t *target, outcome Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i == s.graph.pivot {
		s.passed = outcome.succeeded() || (outcome == Unknown && t.compensate == nil)
		close(s.pivotEnded)
	}
	if !outcome.succeeded() && outcome != Compensated && !t.Optional && s.failed == "" {
		s.failed = t.Name
	}
}

// interrupted is ended for what will be made in another round.
func (s *saga) interrupted(i int) {
	if i == s.graph.pivot {
		close(s.pivotEnded)
	}
}

// journal is what earlier rounds noted, and where this one notes. A nil one keeps
// nothing: then there is no other round.
type journal struct {
	steps, compensations map[string]Result // of earlier rounds, by target
	keep                 func(context.Context, Result) error
	stop                 context.CancelCauseFunc

	mu         sync.Mutex
	unfinished error
}

func newJournal(ctx context.Context, r *Round) (context.Context, *journal) {
	if r.Note == nil {
		return ctx, nil
	}
	ctx, stop := context.WithCancelCause(ctx)
	j := &journal{steps: map[string]Result{}, compensations: map[string]Result{}, keep: r.Note, stop: stop}
	for _, past := range r.Past {
		if past.Outcome == Compensated {
			j.compensations[past.Target] = past
		} else {
			j.steps[past.Target] = past
		}
	}
	return ctx, j
}

func (j *journal) close() {
	if j != nil {
		j.stop(nil)
	}
}

// recall is a target's result of an earlier round, the latest if there are two.
func (j *journal) recall(target string) (r Result, ok bool) {
	if r, ok = j.undone(target); !ok {
		r, ok = j.step(target)
	}
	return r, ok
}

// isUndoing reports whether a target was compensated in an earlier round.
func (j *journal) isUndoing() bool { return j != nil && len(j.compensations) > 0 }

// step is what became of a target in an earlier round.
func (j *journal) step(target string) (r Result, ok bool) {
	if j == nil {
		return r, false
	}
	r, ok = j.steps[target]
	return r, ok
}

// undone is a target's result if it was compensated in an earlier round.
func (j *journal) undone(target string) (r Result, ok bool) {
	if j == nil {
		return r, false
	}
	r, ok = j.compensations[target]
	return r, ok
}

// note stops everything if a result cannot be kept, or if the code that keeps it panics or
// calls Goexit, for which it has a goroutine of its own.
func (j *journal) note(ctx context.Context, r Result) {
	if j == nil {
		return
	}
	err := ErrGoexit
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				err = newPanicError(p)
			}
		}()
		err = j.keep(context.WithoutCancel(ctx), r)
	}()
	<-done
	if err != nil {
		j.leave(err)
		j.stop(err)
	}
}

// leave has the chain go on in another round, for the first reason there is.
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

// interrupted reports whether a delivery ended for a reason that says nothing about
// its chain, and why: it was cut short, or not let through a gate.
func (j *journal) interrupted(ctx context.Context, r *Result) error {
	switch {
	case j == nil, r.Outcome.succeeded(), r.Outcome == Skipped:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case r.Outcome == Rejected && Postponed(r.err):
		return r.err
	}
	return nil
}
