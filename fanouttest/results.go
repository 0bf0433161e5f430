package fanouttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/fanout-go/fanout"
)

// Results records the results of submitted dispatches. Use its OnResult method as the
// OnResult of [fanout.Config]. The zero value is usable. It is safe for concurrent use.
type Results struct {
	mu         sync.Mutex
	byDispatch map[string]fanout.Results
	more       chan struct{} // closed when a result comes; nil if nobody waits
}

// OnResult records the result of one delivery.
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

// Wait waits until there is a result for each of the named targets, and returns all
// results of the dispatch. Without names it waits for the first result. If ctx ends
// before, it returns the results so far, and an error that names the targets without a
// result.
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
