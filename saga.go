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

// compensateAll undoes what was done or may have been, in reverse order, what does
// not depend on each other at the same time. It outlives the caller.
func (c *chain) compensateAll() {
	if !c.graph.saga || c.saga.failed == "" || c.saga.passed {
		return
	}
	ctx, cancel := c.outlive(c.ctx)
	defer cancel()
	walk(c.graph.next, c.graph.after, func(i int) {
		if dl := &c.deliveries[i]; dl.target.compensate != nil && (dl.outcome.succeeded() || dl.outcome == Unknown) {
			c.compensate(ctx, i)
		}
	})
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
