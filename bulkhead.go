package fanout

import (
	"cmp"
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// Bulkhead bounds the attempts under way to one target, so that a slow target
// cannot take all of a service's memory and connections. Attempts beyond it
// wait in a queue, which is bounded in length and in time; beyond that they are
// rejected with [ErrBulkheadFull]. Backoff holds no place in either.
type Bulkhead struct {
	// MaxConcurrent attempts may be under way. Default 64; negative means no
	// bound: no bulkhead.
	MaxConcurrent int
	// MaxQueue attempts may wait. Default 256; negative means none.
	MaxQueue int
	// MaxWait is the longest wait. Default 1 s; negative means none.
	MaxWait time.Duration
}

func (b Bulkhead) over(base Bulkhead) Bulkhead {
	return Bulkhead{
		MaxConcurrent: cmp.Or(b.MaxConcurrent, base.MaxConcurrent),
		MaxQueue:      cmp.Or(b.MaxQueue, base.MaxQueue),
		MaxWait:       cmp.Or(b.MaxWait, base.MaxWait),
	}
}

func (b Bulkhead) withDefaults() Bulkhead {
	return b.over(Bulkhead{MaxConcurrent: 64, MaxQueue: 256, MaxWait: time.Second})
}

// bulkhead is the gate of a [Bulkhead]; nil lets everything through.
type bulkhead struct {
	permits  *semaphore.Weighted
	maxWait  time.Duration
	maxQueue int64
	waiting  atomic.Int64
}

func newBulkhead(b Bulkhead) *bulkhead {
	if b.MaxConcurrent < 0 {
		return nil
	}
	return &bulkhead{
		permits:  semaphore.NewWeighted(int64(b.MaxConcurrent)),
		maxWait:  max(0, b.MaxWait),
		maxQueue: int64(max(0, b.MaxQueue)),
	}
}

// tryEnter takes a permit, which leave gives back, if there is one.
func (b *bulkhead) tryEnter() bool { return b == nil || b.permits.TryAcquire(1) }

// enter queues for a permit.
func (b *bulkhead) enter(ctx context.Context) error {
	defer b.waiting.Add(-1)
	if b.waiting.Add(1) > b.maxQueue {
		return ErrBulkheadFull
	}
	waitCtx, cancel := context.WithTimeout(ctx, b.maxWait)
	defer cancel()
	if b.permits.Acquire(waitCtx, 1) == nil {
		return nil
	}
	if ctx.Err() != nil {
		return endOf(ctx)
	}
	return ErrBulkheadFull
}

// queued is how many wait for a permit.
func (b *bulkhead) queued() int64 {
	if b == nil {
		return 0
	}
	return b.waiting.Load()
}

func (b *bulkhead) leave() {
	if b != nil {
		b.permits.Release(1)
	}
}
