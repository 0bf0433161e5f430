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
	more       chan struct{} // closed when a result comes; nil if nobody waits
}

// OnResult records one delivery's result.
func (r *Results) OnResult(_ context.Context, result fanout.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byDispatch == nil {
		r.byDispatch = make(map[string]fanout.Results)
	}
	id := result.Payload.ID
	if r.byDispatch[id] == nil {
		r.byDispatch[id] = fanout.Results{}
	}
	r.byDispatch[id][result.Target] = result
	if r.more != nil {
		close(r.more)
		r.more = nil
	}
}

// Wait returns the results of a dispatch when there is one for each of the targets named;
// without names, when there is any. If ctx ends before, it returns those there are, and an
// error that names the targets without one.
func (r *Results) Wait(ctx context.Context, dispatchID string, targets ...string) (fanout.Results, error) {
	if dispatchID == "" {
		return nil, errors.New("fanouttest: no dispatch ID: did Submit fail?")
	}
	for {
		results, missing, more := r.look(dispatchID, targets)
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

func (r *Results) look(dispatchID string, targets []string) (so fanout.Results, missing []string, more <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.more == nil {
		r.more = make(chan struct{})
	}
	so = maps.Clone(r.byDispatch[dispatchID])
	for _, name := range targets {
		if _, ok := so[name]; !ok {
			missing = append(missing, name)
		}
	}
	if len(so) == 0 && len(targets) == 0 {
		missing = []string{"any target"}
	}
	return so, missing, r.more
}
