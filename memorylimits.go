package fanout

import (
	"cmp"
	"fmt"
	"time"
)

// MemoryLimits bounds a queue in memory.
type MemoryLimits struct {
	// MaxDispatches may be accepted and not yet done; as many again if they keep
	// nobody waiting, so that targets that hang do not shut out the others. Default
	// 1024.
	MaxDispatches int
	// MaxPerTarget deliveries to one target may be accepted and not yet done, so
	// that a target that hangs leaves room for the others. Default half of
	// MaxDispatches.
	MaxPerTarget int
	// Workers deliveries to one target are made at once. Default 64.
	Workers int
	// MaxWait is how long Submit waits for room, at most until its context ends.
	// Default and negative: it does not wait.
	MaxWait time.Duration
}

func (l MemoryLimits) withDefaults() MemoryLimits {
	l.MaxDispatches = cmp.Or(l.MaxDispatches, 1024)
	l.MaxPerTarget = cmp.Or(l.MaxPerTarget, l.MaxDispatches/2+l.MaxDispatches%2)
	l.Workers = cmp.Or(l.Workers, 64)
	return l
}

func (l MemoryLimits) check() error {
	for field, v := range map[string]int{"MaxDispatches": l.MaxDispatches, "MaxPerTarget": l.MaxPerTarget, "Workers": l.Workers} {
		if err := notNegative("MemoryLimits."+field, v); err != nil {
			return err
		}
	}
	return nil
}

func (q *memoryQueue) room(s *Submission) error {
	if q.undone >= q.limits.MaxDispatches && (q.undone >= 2*q.limits.MaxDispatches || !q.quiet(s)) {
		return fmt.Errorf("%w: %d dispatches are not done", ErrFull, q.undone)
	}
	for _, t := range s.targets[:s.lanes()] {
		if (!t.Optional || s.Chained()) && q.crowded(t.Name) {
			return fmt.Errorf("%w: target %q: %d deliveries are not done", ErrFull, t.Name, q.limits.MaxPerTarget)
		}
	}
	return nil
}

// quiet reports whether a submission keeps nobody waiting: then targets that hang do
// not shut out the others.
func (q *memoryQueue) quiet(s *Submission) bool {
	for _, t := range s.targets[:s.lanes()] {
		l := q.lanes[t.Name]
		if l != nil && l.undone >= min(q.limits.Workers, q.limits.MaxPerTarget/4) && (!t.Optional || !q.crowded(t.Name)) {
			return false
		}
	}
	return true
}

// lanes is how many of its targets' lanes a submission waits in.
func (s *Submission) lanes() int {
	if s.Chained() {
		return 1
	}
	return len(s.targets)
}

func (q *memoryQueue) crowded(target string) bool {
	l := q.lanes[target]
	return l != nil && l.undone >= q.limits.MaxPerTarget
}

// hasRoom reports whether a delivery may take its time: not while draining.
func (q *memoryQueue) hasRoom(target string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[target]
	return !q.closed && (l == nil || 2*l.undone <= q.limits.MaxPerTarget)
}
