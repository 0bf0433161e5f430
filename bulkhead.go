package fanout

import (
	"cmp"
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// Bulkhead limits how many attempts to one target run at the same time, so that a slow
// target cannot use up the memory and connections of a service. Further attempts wait in
// a queue, which has a limited length and a limited waiting time. If a limit is exceeded,
// the attempt is rejected with [ErrBulkheadFull]. While a delivery waits for its next
// retry, it occupies neither a place nor the queue.
type Bulkhead struct {
	// MaxConcurrent is how many attempts may run at the same time. Zero means the default,
	// 64; negative means no limit: there is no bulkhead.
	MaxConcurrent int
	// MaxQueue is how many attempts may wait. Zero means the default, 256; negative means
	// none.
	MaxQueue int
	// MaxWait is how long an attempt may wait. Zero means the default, 1 s; negative means
	// that none waits.
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

// bulkhead is the gate of a [Bulkhead]. A nil bulkhead lets everything through.
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

// tryEnter takes a permit if one is free. leave gives it back.
func (b *bulkhead) tryEnter() bool { return b == nil || b.permits.TryAcquire(1) }

// enter waits in the queue for a permit.
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

// queued returns how many attempts wait for a permit.
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
