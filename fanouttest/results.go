package fanouttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/fanout-go/fanout"
)

// Results records what became of submitted dispatches: give its OnResult to
// [fanout.Config]. It is safe for concurrent use, and its zero value is ready.
type Results struct {
	mu         sync.Mutex
	byDispatch map[string]fanout.Results
	targets    map[string][]string // by dispatch
	more       chan struct{}       // closed when a result comes; nil if nobody waits
}

// OnResult records one delivery's result.
func (r *Results) OnResult(_ context.Context, s *fanout.Submission, result fanout.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byDispatch == nil {
		r.byDispatch, r.targets = make(map[string]fanout.Results), make(map[string][]string)
	}
	if r.byDispatch[s.DispatchID] == nil {
		r.byDispatch[s.DispatchID], r.targets[s.DispatchID] = fanout.Results{}, s.Targets
	}
	r.byDispatch[s.DispatchID][result.Target] = result
	if r.more != nil {
		close(r.more)
		r.more = nil
	}
}

// Wait returns the results of a dispatch when there is one for each of its
// targets. If ctx ends before, it returns those there are, and an error that names
// the targets without one.
func (r *Results) Wait(ctx context.Context, dispatchID string) (fanout.Results, error) {
	if dispatchID == "" {
		return nil, errors.New("fanouttest: no dispatch ID: did Submit fail?")
	}
	for {
		results, missing, more := r.look(dispatchID)
		if len(results) > 0 && len(missing) == 0 {
			return results, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return results, fmt.Errorf("fanouttest: dispatch %s: no result yet of %v: %w", dispatchID, missing, ctx.Err())
		}
	}
}

func (r *Results) look(dispatchID string) (so fanout.Results, missing []string, more <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.more == nil {
		r.more = make(chan struct{})
	}
	so = maps.Clone(r.byDispatch[dispatchID])
	for _, name := range r.targets[dispatchID] {
		if _, ok := so[name]; !ok {
			missing = append(missing, name)
		}
	}
	if so == nil {
		missing = []string{"any target"}
	}
	return so, missing, r.more
}
