package fanouttest

import (
	"context"
	"slices"
	"sync"
)

// script returns its steps one after the other, and then the last one forever.
type script[T any] struct {
	mu    sync.Mutex
	steps []T
}

func (s *script[T]) next() T {
	s.mu.Lock()
	defer s.mu.Unlock()
	step := s.steps[0]
	if len(s.steps) > 1 {
		s.steps = s.steps[1:]
	}
	return step
}

// record keeps what arrived.
type record[T any] struct {
	mu      sync.Mutex
	arrived []T
	more    chan struct{} // closed when something arrives; nil if nobody waits
}

func (r *record[T]) add(v T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.arrived = append(r.arrived, v)
	if r.more != nil {
		close(r.more)
		r.more = nil
	}
}

func (r *record[T]) all() []T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.arrived)
}

func (r *record[T]) wait(ctx context.Context, n int) error {
	for {
		r.mu.Lock()
		if len(r.arrived) >= n {
			r.mu.Unlock()
			return nil
		}
		if r.more == nil {
			r.more = make(chan struct{})
		}
		more := r.more
		r.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
