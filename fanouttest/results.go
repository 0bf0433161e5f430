package fanouttest

import (
	"context"
	"maps"
	"sync"

	"github.com/fanout-go/fanout"
)

// Results records what became of submitted dispatches: give its OnResult to
// [fanout.Config]. It is safe for concurrent use, and its zero value is ready.
type Results struct {
	mu         sync.Mutex
	byDispatch map[string]fanout.Results
	more       chan struct{} // closed when a result comes; nil if nobody waits
}

// OnResult records one delivery's result.
func (r *Results) OnResult(_ context.Context, s *fanout.Submission, result fanout.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byDispatch == nil {
		r.byDispatch = make(map[string]fanout.Results)
	}
	if r.byDispatch[s.DispatchID] == nil {
		r.byDispatch[s.DispatchID] = fanout.Results{}
	}
	r.byDispatch[s.DispatchID][result.Target] = result
	if r.more != nil {
		close(r.more)
		r.more = nil
	}
}

// Wait returns the results of a dispatch when there are n of them, one for each
// of its targets, or with ctx's error when that ends.
func (r *Results) Wait(ctx context.Context, dispatchID string, n int) (fanout.Results, error) {
	for {
		results, more := r.look(dispatchID)
		if len(results) >= n {
			return results, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return results, ctx.Err()
		}
	}
}

func (r *Results) look(dispatchID string) (so fanout.Results, more <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.more == nil {
		r.more = make(chan struct{})
	}
	return maps.Clone(r.byDispatch[dispatchID]), r.more
}
