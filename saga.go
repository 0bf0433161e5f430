package fanout

import (
	"context"
	"fmt"
	"maps"
	"sync"
)

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
func (s *saga) ended(i int, dl *delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i == s.graph.pivot {
		s.passed = dl.outcome.succeeded() || (dl.outcome == Unknown && dl.target.compensate == nil)
		close(s.pivotEnded)
	}
	if !dl.outcome.succeeded() && !dl.target.Optional && s.failed == "" {
		s.failed = dl.target.Name
	}
}

// interrupted is ended for what will be made another time.
func (s *saga) interrupted(i int) {
	if i == s.graph.pivot {
		close(s.pivotEnded)
	}
}

// isUndone reports whether the saga failed and there is a way back. What was cut short
// and can go on later decides then.
func (c *chain) isUndone() bool {
	return c.graph.saga && c.saga.failed != "" && !c.saga.passed && (c.journal == nil || c.ctx.Err() == nil)
}

// compensateAll undoes what was done or may have been, in reverse order, what does
// not depend on each other at the same time. It outlives a caller; a queue's context
// ends only when the time is over.
func (c *chain) compensateAll() {
	ctx := c.ctx
	if !c.background {
		var cancel context.CancelFunc
		ctx, cancel = c.outlive(ctx)
		defer cancel()
	}
	if !c.noteFailures() {
		return
	}
	walk(c.graph.next, c.graph.after, func(i int) {
		dl := &c.deliveries[i]
		if c.journal.recallCompensation(dl) || dl.target.compensate == nil || (!dl.outcome.succeeded() && dl.outcome != Unknown) {
			return
		}
		defer func() { // though user code calls Goexit
			if dl.outcome == Compensated {
				c.journal.note(ctx, dl.result(), true)
			}
		}()
		c.compensate(ctx, i)
	})
}

// noteFailures settles that the saga failed: whoever goes on with it does not try again.
func (c *chain) noteFailures() bool {
	if c.journal == nil {
		return true
	}
	for i := range c.deliveries {
		dl := &c.deliveries[i]
		_, noted := c.journal.past[dl.target.Name]
		if !noted && !dl.outcome.succeeded() && dl.outcome != Skipped {
			c.journal.note(c.ctx, dl.result(), false)
		}
	}
	return c.ctx.Err() == nil
}

// outlive ends only when the time to close is over.
func (p *dispatch) outlive(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(parent))
	stop := context.AfterFunc(p.d.overtime, func() { cancel(ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

func (c *chain) compensate(ctx context.Context, i int) {
	dl := &c.deliveries[i]
	failed := dl.err // if it had
	earlier := Results{dl.target.Name: dl.result()}
	maps.Copy(earlier, c.earlier(i))
	// Should user code call Goexit, this stands.
	dl.outcome = CompensationFailed
	dl.err = dl.compensated(fmt.Errorf("%w: %w", ErrCompensationFailed, ErrGoexit), nil)
	defer dl.tellCompensation()
	undo := c.extra(ctx, dl.target.compensate, CompensationAttempt, earlier)
	dl.attempts = append(dl.attempts, undo.attempts...)
	if undo.outcome == Delivered {
		dl.outcome = Compensated
		dl.err = dl.compensated(fmt.Errorf("%w, as %q failed", ErrCompensated, c.saga.failed), failed)
		return
	}
	dl.err = dl.compensated(ErrCompensationFailed, undo.err)
}

func (dl *delivery) compensated(reason, err error) error {
	return &TargetError{Target: dl.target.Name, Outcome: dl.outcome, Attempts: len(dl.attempts), Reason: reason, Err: err}
}
