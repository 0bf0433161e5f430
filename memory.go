package fanout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// MemoryLimits limits the queue in memory. A negative number is an error of [New], except
// for MaxWait.
type MemoryLimits struct {
	// MaxDispatches is how many dispatches may be accepted and not yet done. Up to twice as
	// many may be, if the further ones go only to targets that have few deliveries: fewer
	// than Workers, and fewer than a quarter of MaxPerTarget. So targets that hang do not
	// block the others. Zero means the default, 1024.
	MaxDispatches int
	// MaxPerTarget is how many deliveries to one target may be accepted and not yet done. So
	// a target that hangs leaves room for the others. Zero means the default, half of
	// MaxDispatches.
	MaxPerTarget int
	// Workers is how many deliveries to one target are made at the same time. Zero means the
	// default, 64.
	Workers int
	// MaxWait is how long Submit waits for room, at most until its context ends. Zero and
	// negative mean that it does not wait.
	MaxWait time.Duration
}

func (l MemoryLimits) withDefaults() MemoryLimits {
	l.MaxDispatches = cmp.Or(l.MaxDispatches, 1024)
	l.MaxPerTarget = cmp.Or(l.MaxPerTarget, l.MaxDispatches/2+l.MaxDispatches%2)
	l.Workers = cmp.Or(l.Workers, 64)
	return l
}

func (l MemoryLimits) check() error {
	return join(
		notNegative("MemoryLimits.MaxDispatches", l.MaxDispatches),
		notNegative("MemoryLimits.MaxPerTarget", l.MaxPerTarget),
		notNegative("MemoryLimits.Workers", l.Workers),
	)
}

// memoryQueue has a queue for each target. The queue of a target and its workers exist
// only while there is work for it.
type memoryQueue struct {
	limits MemoryLimits
	worker *Worker

	mu      sync.Mutex
	queues  map[string]*targetQueue
	undone  int // number of dispatches
	closed  bool
	changed chan struct{} // closed when a dispatch is done, nil if nobody waits

	cut    context.Context // ends when the time to drain is over, and cuts short what runs
	cutOff context.CancelCauseFunc
	// making holds the entries that a worker has taken. The value is nil while the delivery
	// runs. It has the failed results while hooks run, so that Close can return them.
	making map[*entry][]Result
	lost   *UndeliveredError
}

// targetQueue is the work for one target.
type targetQueue struct {
	name    string
	waiting []entry // oldest first
	workers int
	undone  int // number of entries, with those that workers have taken
}

// entry is one delivery in the queue of its target.
type entry struct {
	ctx      context.Context // the submitter's
	delivery *Delivery
	batch    *batch
	refused  bool // there was no room for it: it is reported and not made
}

// batch counts the deliveries of one dispatch, if there are several.
type batch struct{ undone int }

// done counts one delivery as done, and reports whether it was the last.
func (b *batch) done() bool {
	if b == nil {
		return true
	}
	b.undone--
	return b.undone == 0
}

// NewMemoryQueue returns a queue that keeps deliveries in memory only. [New] makes one,
// with default limits, if [Config.Queue] is nil. A queue is for one dispatcher.
//
// Submit returns [ErrFull] if too many dispatches are not done, or too many deliveries to
// one of the required targets. An optional target without room is left out: its result is
// [Rejected] with ErrFull.
func NewMemoryQueue(limits MemoryLimits) Queue {
	q := &memoryQueue{limits: limits.withDefaults(), queues: make(map[string]*targetQueue), making: make(map[*entry][]Result)}
	q.cut, q.cutOff = context.WithCancelCause(context.Background())
	return q
}

func (q *memoryQueue) Start(w *Worker) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.worker != nil {
		return errors.New("fanout: a queue is for one dispatcher, and has one")
	}
	if err := q.limits.check(); err != nil {
		return err
	}
	q.worker = w
	return nil
}

func (q *memoryQueue) Submit(ctx context.Context, deliveries []Delivery) error {
	for i := range deliveries {
		if err := deliveries[i].Check(); err != nil {
			return err
		}
	}
	if len(deliveries) == 0 {
		return nil
	}
	changed, full := q.trySubmit(ctx, deliveries)
	if full == nil || q.limits.MaxWait <= 0 || !errors.Is(full, ErrFull) {
		return full
	}
	patience := time.NewTimer(q.limits.MaxWait)
	defer patience.Stop()
	for {
		select {
		case <-changed:
		case <-patience.C:
			return full
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", full, ctx.Err())
		}
		if changed, full = q.trySubmit(ctx, deliveries); !errors.Is(full, ErrFull) {
			return full
		}
	}
}

// trySubmit accepts the deliveries if there is room. If not, it returns ErrFull and a
// channel that is closed when something has changed. Both happen under one lock:
// otherwise a delivery could end between the two, and Submit would wait although there is
// room.
func (q *memoryQueue) trySubmit(ctx context.Context, deliveries []Delivery) (changed <-chan struct{}, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, ErrClosed
	}
	if err := q.room(deliveries); err != nil {
		return q.nextChange(), err
	}
	q.undone++
	var b *batch
	if len(deliveries) > 1 {
		b = &batch{len(deliveries)}
	}
	for i := range deliveries {
		d := &deliveries[i]
		q.add(entry{ctx: ctx, delivery: d, batch: b, refused: d.Optional && q.crowded(firstTarget(d))})
	}
	return nil, nil
}

// firstTarget returns the name of the queue in which a delivery waits.
func firstTarget(d *Delivery) string { return d.Targets[0] }

func (q *memoryQueue) room(deliveries []Delivery) error {
	if q.undone >= q.limits.MaxDispatches && (q.undone >= 2*q.limits.MaxDispatches || !q.quiet(deliveries)) {
		return fmt.Errorf("%w: %d dispatches are not done", ErrFull, q.undone)
	}
	for i := range deliveries {
		if d := &deliveries[i]; !d.Optional && q.crowded(firstTarget(d)) {
			return fmt.Errorf("%w: target %q: %d deliveries are not done", ErrFull, firstTarget(d), q.limits.MaxPerTarget)
		}
	}
	return nil
}

// quiet reports whether a submission goes only to targets that have few deliveries. It is
// then accepted although MaxDispatches is reached, so that targets that hang do not block
// others.
func (q *memoryQueue) quiet(deliveries []Delivery) bool {
	for i := range deliveries {
		d := &deliveries[i]
		l := q.queues[firstTarget(d)]
		if l != nil && l.undone >= min(q.limits.Workers, q.limits.MaxPerTarget/4) && (!d.Optional || !q.crowded(l.name)) {
			return false
		}
	}
	return true
}

func (q *memoryQueue) crowded(target string) bool {
	l := q.queues[target]
	return l != nil && l.undone >= q.limits.MaxPerTarget
}

// patient reports whether a delivery may wait for its target. It may while at least half
// of the room for the target is free, so that a target that stays down does not fill it.
// It may not while the queue drains.
func (q *memoryQueue) patient(d *Delivery) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.queues[firstTarget(d)]
	return !q.closed && (l == nil || 2*l.undone <= q.limits.MaxPerTarget)
}

// refusals begins the name of a queue whose entries are only reported. No target's name
// can begin with it.
const refusals = "\x00"

func (q *memoryQueue) add(e entry) {
	name := firstTarget(e.delivery)
	if e.refused {
		name = refusals + name
	}
	l := q.queues[name]
	if l == nil {
		l = &targetQueue{name: name}
		q.queues[name] = l
	}
	l.undone++
	l.waiting = append(l.waiting, e)
	if l.workers < q.limits.Workers {
		l.workers++
		go q.work(l)
	}
}

// work makes the deliveries of one target until none waits.
func (q *memoryQueue) work(l *targetQueue) {
	for {
		e := new(entry)
		if !q.next(l, e) {
			return
		}
		q.carryOut(l, e)
	}
}

// carryOut makes a delivery and reports its results. If code of the submitter's context
// calls Goexit, this goroutine ends. Then the deferred function reports the delivery as
// not made and starts another worker in place of this one.
func (q *memoryQueue) carryOut(l *targetQueue, e *entry) {
	var results []Result
	defer func() {
		if results == nil {
			e.ctx = context.Background() // because code of e.ctx called Goexit
			q.report(l, e, e.delivery.Results(Rejected, ErrGoexit))
			go q.work(l)
		}
	}()
	results = q.deliver(e)
	q.report(l, e, results)
}

func (q *memoryQueue) deliver(e *entry) []Result {
	if e.refused {
		return e.delivery.Results(Rejected, ErrFull)
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(e.ctx))
	defer cancel(nil)
	defer context.AfterFunc(q.cut, func() { cancel(context.Cause(q.cut)) })()
	results, _ := q.worker.Deliver(ctx, e.delivery, Round{Patient: func() bool { return q.patient(e.delivery) }})
	return results
}

// report reports the results of a delivery. While its hooks run, making has the failed
// results. If Close gives up in that time, it can still return them.
func (q *memoryQueue) report(l *targetQueue, e *entry, results []Result) {
	q.made(e, results)
	var lost []Result
	for _, r := range results {
		if q.cut.Err() == nil || !r.IsDeadLetter() {
			q.worker.Done(context.WithoutCancel(e.ctx), r)
		} else {
			lost = append(lost, r)
		}
	}
	q.done(l, e, lost)
}

// next fills e with the oldest entry. If there is none, the worker ends. The last worker
// removes the queue of the target.
func (q *memoryQueue) next(l *targetQueue, e *entry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(l.waiting) == 0 {
		l.workers--
		if l.workers == 0 {
			delete(q.queues, l.name)
		}
		return false
	}
	*e = l.waiting[0]
	l.waiting[0] = entry{}
	l.waiting = l.waiting[1:]
	q.making[e] = nil
	return true
}

// made stores what Close returns if it gives up while hooks run.
func (q *memoryQueue) made(e *entry, results []Result) {
	var failed []Result
	for _, r := range results {
		if r.IsDeadLetter() {
			failed = append(failed, r)
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(failed) == 0 {
		delete(q.making, e)
	} else {
		q.making[e] = failed
	}
}

// done counts an entry as done.
func (q *memoryQueue) done(l *targetQueue, e *entry, lost []Result) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.making, e)
	q.settle(l, e, lost)
}

func (q *memoryQueue) settle(l *targetQueue, e *entry, lost []Result) {
	if len(lost) > 0 {
		q.lost.Left = append(q.lost.Left, lost...)
	}
	l.undone--
	if e.batch.done() {
		q.undone--
	}
	q.wakeWaiting()
}

func (q *memoryQueue) nextChange() <-chan struct{} {
	if q.changed == nil {
		q.changed = make(chan struct{})
	}
	return q.changed
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
	byTarget := make(map[string]*Backlog, len(q.queues))
	count := func(d *Delivery) {
		target := firstTarget(d)
		b := byTarget[target]
		if b == nil {
			b = &Backlog{Target: target, Oldest: d.Submitted}
			byTarget[target] = b
		}
		b.Deliveries++
		if d.Submitted.Before(b.Oldest) {
			b.Oldest = d.Submitted
		}
	}
	for e := range q.making {
		count(e.delivery)
	}
	for _, l := range q.queues {
		for i := range l.waiting {
			count(l.waiting[i].delivery)
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

// drained waits until all is done or ctx ends. It reports whether all is done.
func (q *memoryQueue) drained(ctx context.Context) bool {
	for {
		q.mu.Lock()
		left, changed := q.undone, q.nextChange()
		q.mu.Unlock()
		if left == 0 {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// giveUp removes the entries that wait, notes them as lost, and cuts short those that
// run.
func (q *memoryQueue) giveUp(ctx context.Context) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lost == nil {
		q.lost = &UndeliveredError{Err: ctx.Err()}
	}
	for _, l := range q.queues {
		for i := range l.waiting {
			q.settle(l, &l.waiting[i], l.waiting[i].delivery.Results(Rejected, ErrClosed))
		}
		l.waiting = nil
	}
	q.cutOff(ErrClosed)
}

// cutShortGrace is how long Close waits for deliveries after it has cut them short.
const cutShortGrace = time.Second

// whatIsLost returns an error with all that is lost. That includes what still runs, for
// example in a Sender that ignores its context.
func (q *memoryQueue) whatIsLost() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lost == nil {
		return nil
	}
	lost := &UndeliveredError{Left: append([]Result(nil), q.lost.Left...), Err: q.lost.Err}
	for e, results := range q.making {
		if results == nil { // it still runs
			results = e.delivery.Results(Unknown, ErrClosed)
		}
		lost.Left = append(lost.Left, results...)
	}
	if len(lost.Left) == 0 {
		return nil
	}
	return lost
}
