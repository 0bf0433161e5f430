package fanout

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
)

// chain is a dispatch whose targets depend on each other. A delivery begins when all
// deliveries that it comes after have ended.
type chain struct {
	*dispatch
	graph   *graph
	saga    *saga
	journal *journal // nil if nothing is stored
}

// runChain makes the deliveries, and undoes them if the saga failed. If another round
// must go on, the error says why.
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
	if c.journal != nil && c.ctx.Err() != nil { // the time is over, or a note could not be stored: nothing more begins
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

// ended notes a delivery that succeeded, unless it was interrupted and another round
// makes it again. A failure is noted later, when it is known whether the saga goes back.
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

// missing returns the names and outcomes of those that i comes after and that did not
// succeed.
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

// isUndone reports whether the saga goes back: a required target failed, and the pivot
// has not passed. If an earlier round noted a compensation, it goes back too, because the
// definitions may have changed since. If the round was cut short, another round decides.
func (c *chain) isUndone() bool {
	failed := c.saga.failed != "" && !c.saga.passed
	return c.graph.saga && (failed || c.journal.isUndoing()) && (c.journal == nil || c.ctx.Err() == nil)
}

// compensateAll undoes what was done or may have been, in reverse order. Compensations
// that do not depend on each other run at the same time. They do not end with a caller's
// context. The context of a queue ends only when the time to close is over.
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

// noteFailures notes the failures, so that another round does not try these targets again
// but goes on undoing.
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

// undoneBy returns the result done, changed by undo, the result of its compensation.
// failed is the name of the target that made the saga fail.
func undoneBy(done, undo Result, failed string) Result {
	e := &TargetError{Target: done.Target, Outcome: CompensationFailed, Reason: ErrCompensationFailed, Err: undo.err}
	if undo.Outcome == Delivered {
		why := strconv.Quote(failed)
		if failed == "" {
			why = "the saga"
		}
		e.Outcome, e.Reason, e.Err = Compensated, fmt.Errorf("%w, as %s failed", ErrCompensated, why), nil
		if done.Outcome == Unknown {
			e.Err = done.err // the target's own failure
		}
	}
	done.Attempts = append(done.Attempts, undo.Attempts...)
	e.Attempts = len(done.Attempts)
	done.Outcome, done.err = e.Outcome, e
	return done
}

// conclude leaves the chain for another round if a target failed and the saga did not go
// back, or a compensation failed.
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

// saga decides whether the targets of a chain may still begin.
type saga struct {
	graph *graph

	mu         sync.Mutex
	failed     string // name of the first required target that did not succeed
	passed     bool   // the pivot succeeded: nothing is undone any more
	pivotBegun bool
	pivotEnded chan struct{}
}

// newSaga counts a pivot without After as begun, because it begins at once.
func newSaga(g *graph) *saga {
	return &saga{graph: g, pivotEnded: make(chan struct{}), pivotBegun: g.pivot >= 0 && len(g.after[g.pivot]) == 0}
}

// begin returns the name of the target that failed if i must not begin any more. If a
// target has failed while the pivot runs, i waits until the pivot ends: if the pivot
// succeeds, the saga goes forward, and i must begin. Otherwise i must not.
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

// ended notes how a target ended. A pivot that is Unknown and has no compensation counts
// as passed, because it may have taken effect and cannot be undone.
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

// interrupted is called instead of ended for a target that another round will make. It
// wakes those that wait for the pivot.
func (s *saga) interrupted(i int) {
	if i == s.graph.pivot {
		close(s.pivotEnded)
	}
}

// journal has the notes of earlier rounds, and stores those of this one. A nil journal
// stores nothing: then there is no other round.
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

// recall returns a target's result of an earlier round. A compensation's comes before its
// own.
func (j *journal) recall(target string) (r Result, ok bool) {
	if r, ok = j.undone(target); !ok {
		r, ok = j.step(target)
	}
	return r, ok
}

// isUndoing reports whether a target was compensated in an earlier round.
func (j *journal) isUndoing() bool { return j != nil && len(j.compensations) > 0 }

// step returns a target's own result of an earlier round.
func (j *journal) step(target string) (r Result, ok bool) {
	if j == nil {
		return r, false
	}
	r, ok = j.steps[target]
	return r, ok
}

// undone returns a target's result if it was compensated in an earlier round.
func (j *journal) undone(target string) (r Result, ok bool) {
	if j == nil {
		return r, false
	}
	r, ok = j.compensations[target]
	return r, ok
}

// note stores a result. If that fails, nothing more begins. It calls user code on a new
// goroutine, because that may call Goexit; that and a panic count as failures too.
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

// leave says that another round must go on. The first reason is kept.
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

// interrupted returns why another round must make a delivery again, or nil. It was cut
// short, or a gate rejected it, which says nothing about its chain.
func (j *journal) interrupted(ctx context.Context, r *Result) error {
	switch {
	case j == nil, r.Outcome.succeeded(), r.Outcome == Skipped:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case Postponed(r.err):
		return r.err
	}
	return nil
}
