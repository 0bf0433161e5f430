package fanout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// memoryQueue has a lane of work per target. A lane exists, and goroutines run,
// only while there is work in it.
type memoryQueue struct {
	limits MemoryLimits
	worker Worker

	mu      sync.Mutex
	lanes   map[string]*lane
	undone  int // dispatches
	closed  bool
	changed chan struct{} // closed when a dispatch is done, nil if nobody waits

	cut    context.Context // ends what runs when the time to drain is over
	cutOff context.CancelCauseFunc
	making map[*task][]Result // by the goroutines there are; what came of it, if its hooks are still told
	lost   *UndeliveredError
}

// lane is the work for one target.
type lane struct {
	name    string
	waiting []task // oldest first
	running int    // goroutines
	undone  int    // tasks, those being made included
}

// task is one delivery, or all of a chained submission. One that found its lane full
// is refused: it is only reported.
type task struct {
	ctx     context.Context // the submitter's
	s       *Submission
	target  string // the first one's, if it is all
	refused bool
}

// NewMemoryQueue returns the queue that is used if [Config.Queue] is nil, with
// limits of its own. It holds what was submitted in memory only.
//
// A submission finds no room if too many dispatches wait already, or too many
// deliveries to one of its required targets. An optional target without room is
// left out: its result is [Rejected] with [ErrFull].
func NewMemoryQueue(limits MemoryLimits) Queue {
	q := &memoryQueue{limits: limits.withDefaults(), lanes: make(map[string]*lane), making: make(map[*task][]Result)}
	q.cut, q.cutOff = context.WithCancelCause(context.Background())
	return q
}

func (q *memoryQueue) Start(w Worker) error {
	q.worker = w
	return q.limits.check()
}

func (q *memoryQueue) Submit(ctx context.Context, s *Submission) error {
	switch {
	case s.Tx() != nil:
		return invalid("InTx", "the queue in memory has no transactions")
	case s.OrderKey() != "":
		return invalid("InOrder", "the queue in memory keeps no order")
	}
	done, full := q.trySubmit(ctx, s)
	if full == nil || q.limits.MaxWait <= 0 || !errors.Is(full, ErrFull) {
		return full
	}
	patience := time.NewTimer(q.limits.MaxWait)
	defer patience.Stop()
	for {
		select {
		case <-done:
		case <-patience.C:
			_, full = q.trySubmit(ctx, s)
			return full
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", full, ctx.Err())
		}
		if done, full = q.trySubmit(ctx, s); !errors.Is(full, ErrFull) {
			return full
		}
	}
}

// trySubmit returns, with ErrFull, what tells that there may be room again.
func (q *memoryQueue) trySubmit(ctx context.Context, s *Submission) (done <-chan struct{}, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, ErrClosed
	}
	if err := q.room(s); err != nil {
		return q.nextDone(), err
	}
	q.undone++
	s.job.queue, s.job.undone = q, s.lanes()
	if s.Chained() {
		q.add(task{ctx: ctx, s: s, target: s.targets[0].Name})
		return nil, nil
	}
	for _, t := range s.targets {
		q.add(task{ctx: ctx, s: s, target: t.Name, refused: q.crowded(t.Name)})
	}
	return nil, nil
}

func (q *memoryQueue) nextDone() <-chan struct{} {
	if q.changed == nil {
		q.changed = make(chan struct{})
	}
	return q.changed
}

// refusals begins the name of a lane of what is only reported. No target's name does.
const refusals = "\x00"

func (q *memoryQueue) add(t task) {
	name := t.target
	if t.refused {
		name = refusals + t.target
	}
	l := q.lanes[name]
	if l == nil {
		l = &lane{name: name}
		q.lanes[name] = l
	}
	l.undone++
	l.waiting = append(l.waiting, t)
	if l.running < q.limits.Workers {
		l.running++
		go q.work(l)
	}
}

// work makes the lane's deliveries until none waits.
func (q *memoryQueue) work(l *lane) {
	for {
		t := new(task)
		if !q.next(l, t) {
			return
		}
		q.carryOut(l, t)
	}
}

// carryOut makes a task, whatever the code of a user's context does.
func (q *memoryQueue) carryOut(l *lane, t *task) {
	results := t.notBegun(ErrGoexit)
	returned := false
	defer func() {
		if returned {
			return
		}
		p := recover()
		if p != nil {
			results = t.notBegun(newPanicError(p))
		}
		t.ctx = context.Background() // as it is not to be trusted
		q.report(l, t, results)
		if p == nil {
			go q.work(l) // instead of this goroutine, which is ending
		}
	}()
	results = q.deliver(t)
	q.report(l, t, results)
	returned = true
}

// report tells what came of a task. Until its hooks have returned, Close would name
// what failed.
func (q *memoryQueue) report(l *lane, t *task, results []Result) {
	q.made(t, results)
	var lost []Undelivered
	for _, r := range results {
		if q.cut.Err() == nil || !r.dead() {
			q.worker.Done(context.WithoutCancel(t.ctx), t.s, r)
		} else {
			lost = append(lost, Undelivered{t.s, r})
		}
	}
	q.done(l, t, lost)
}

// next fills t with the lane's oldest task. If there is none, the goroutine
// ends, and with its last one the lane.
func (q *memoryQueue) next(l *lane, t *task) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(l.waiting) == 0 {
		l.running--
		if l.running == 0 {
			delete(q.lanes, l.name)
		}
		return false
	}
	*t = l.waiting[0]
	l.waiting[0] = task{}
	l.waiting = l.waiting[1:]
	q.making[t] = nil
	return true
}

// made notes what Close has to name while hooks are told.
func (q *memoryQueue) made(t *task, results []Result) {
	q.mu.Lock()
	defer q.mu.Unlock()
	failed := slices.DeleteFunc(slices.Clone(results), func(r Result) bool { return !r.dead() })
	if len(failed) == 0 {
		delete(q.making, t)
	} else {
		q.making[t] = failed
	}
}

func (q *memoryQueue) deliver(t *task) []Result {
	if t.refused {
		return t.notBegun(ErrFull)
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(t.ctx))
	defer cancel(nil)
	defer context.AfterFunc(q.cut, func() { cancel(context.Cause(q.cut)) })()
	if t.s.Chained() {
		results, _ := q.worker.DeliverAll(ctx, t.s, nil)
		return results.Sorted()
	}
	return []Result{q.worker.Deliver(ctx, t.s, t.target)}
}

func (t *task) notBegun(reason error) []Result {
	if t.s.Chained() {
		return refusal(t.s, reason).Sorted()
	}
	return []Result{t.s.refused(slices.Index(t.s.Targets, t.target), reason)}
}

func (t *task) lost(results []Result) []Undelivered {
	lost := make([]Undelivered, len(results))
	for i, r := range results {
		lost[i] = Undelivered{t.s, r}
	}
	return lost
}

// done takes a task off the books.
func (q *memoryQueue) done(l *lane, t *task, lost []Undelivered) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.making, t)
	q.settle(l, *t, lost)
}

func (q *memoryQueue) settle(l *lane, t task, lost []Undelivered) {
	if len(lost) > 0 {
		q.lost.Left = append(q.lost.Left, lost...)
	}
	l.undone--
	t.s.job.undone--
	if t.s.job.undone == 0 {
		q.undone--
	}
	q.wakeWaiting()
}

func (q *memoryQueue) wakeWaiting() {
	if q.changed != nil {
		close(q.changed)
		q.changed = nil
	}
}

// Backlog implements [BacklogReporter].
func (q *memoryQueue) Backlog(context.Context) ([]Backlog, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	byTarget := make(map[string]*Backlog, len(q.lanes))
	count := func(t *task) {
		b := byTarget[t.target]
		if b == nil {
			b = &Backlog{Target: t.target, Oldest: t.s.Submitted}
			byTarget[t.target] = b
		}
		b.Deliveries++
		if t.s.Submitted.Before(b.Oldest) {
			b.Oldest = t.s.Submitted
		}
	}
	for t := range q.making {
		count(t)
	}
	for _, l := range q.lanes {
		for i := range l.waiting {
			count(&l.waiting[i])
		}
	}
	backlog := make([]Backlog, 0, len(byTarget))
	for _, b := range byTarget {
		backlog = append(backlog, *b)
	}
	return backlog, nil
}

func (q *memoryQueue) Close(ctx context.Context) error {
	q.mu.Lock()
	q.closed = true
	q.wakeWaiting()
	q.mu.Unlock()
	if !q.drained(ctx) {
		q.giveUp(ctx)
		grace, cancel := context.WithTimeout(context.Background(), cutShortGrace)
		defer cancel()
		q.drained(grace)
	}
	return q.whatIsLost()
}

// drained waits until all is done, and reports whether that was so before ctx
// ended.
func (q *memoryQueue) drained(ctx context.Context) bool {
	for {
		q.mu.Lock()
		left, done := q.undone, q.nextDone()
		q.mu.Unlock()
		if left == 0 {
			return true
		}
		select {
		case <-done:
		case <-ctx.Done():
			return false
		}
	}
}

// giveUp takes what waits and cuts short what runs.
func (q *memoryQueue) giveUp(ctx context.Context) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lost == nil {
		q.lost = &UndeliveredError{Err: ctx.Err()}
	}
	for _, l := range q.lanes {
		for _, t := range l.waiting {
			q.settle(l, t, t.lost(t.notBegun(ErrClosed)))
		}
		l.waiting = nil
	}
	q.cutOff(ErrClosed)
}

// cutShortGrace is how long Close waits for deliveries whose contexts it ended.
const cutShortGrace = time.Second

// whatIsLost names what still runs too: a Sender that ignores its context.
func (q *memoryQueue) whatIsLost() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lost == nil {
		return nil
	}
	lost := &UndeliveredError{Left: slices.Clone(q.lost.Left), Err: q.lost.Err}
	for t, results := range q.making {
		if results == nil { // it is still out
			results = t.notBegun(ErrClosed)
			for i := range results {
				results[i].Outcome = Unknown
			}
		}
		lost.Left = append(lost.Left, t.lost(results)...)
	}
	if len(lost.Left) == 0 {
		return nil
	}
	return lost
}
