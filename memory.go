package fanout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// MemoryLimits bounds a queue in memory.
type MemoryLimits struct {
	// MaxDispatches may be accepted and not yet done; as many again if they keep
	// nobody waiting, so that targets that hang do not shut out the others. Default
	// 1024; negative is refused.
	MaxDispatches int
	// MaxPerTarget deliveries to one target may be accepted and not yet done, so
	// that a target that hangs leaves room for the others. Default half of
	// MaxDispatches; negative is refused.
	MaxPerTarget int
	// Workers deliveries to one target are made at once. Default 64; negative is
	// refused.
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
	return join(
		notNegative("MemoryLimits.MaxDispatches", l.MaxDispatches),
		notNegative("MemoryLimits.MaxPerTarget", l.MaxPerTarget),
		notNegative("MemoryLimits.Workers", l.Workers),
	)
}

// memoryQueue has a queue for each target. It exists, and its workers run, only while there
// is work in it.
type memoryQueue struct {
	limits MemoryLimits
	worker *Worker

	mu      sync.Mutex
	queues  map[string]*targetQueue
	undone  int // dispatches
	closed  bool
	changed chan struct{} // closed when a dispatch is done, nil if nobody waits

	cut    context.Context // ends what runs when the time to drain is over
	cutOff context.CancelCauseFunc
	// making holds the entries that a worker has taken. The value is nil while the
	// delivery runs, and holds the failed results while hooks are called, so that Close
	// can name them.
	making map[*entry][]Result
	lost   *UndeliveredError
}

// targetQueue is the work for one target.
type targetQueue struct {
	name    string
	waiting []entry // oldest first
	workers int
	undone  int // entries, those being made included
}

// entry is one delivery in the queue of its target.
type entry struct {
	ctx      context.Context // the submitter's
	delivery *Delivery
	batch    *batch
	refused  bool // there was no room for it: it is only reported
}

// batch is the deliveries of one dispatch, if there are several.
type batch struct{ undone int }

// done reports whether the one that is done now was the last.
func (b *batch) done() bool {
	if b == nil {
		return true
	}
	b.undone--
	return b.undone == 0
}

// NewMemoryQueue returns the queue that is used if [Config.Queue] is nil, with
// limits of its own. It holds what was submitted in memory only.
//
// A submission finds no room if too many dispatches wait already, or too many
// deliveries to one of its required targets. An optional target without room is
// left out: its result is [Rejected] with [ErrFull].
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
			_, full = q.trySubmit(ctx, deliveries)
			return full
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", full, ctx.Err())
		}
		if changed, full = q.trySubmit(ctx, deliveries); !errors.Is(full, ErrFull) {
			return full
		}
	}
}

// trySubmit returns, with ErrFull, what tells that there may be room again.
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

// firstTarget names the queue in which a delivery waits.
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

// quiet reports whether a submission keeps nobody waiting: then targets that hang do
// not shut out the others.
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

// patient reports whether a delivery may take its time: while half of its queue is
// free, so that a target that stays down does not fill it, and not while draining.
func (q *memoryQueue) patient(d *Delivery) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.queues[firstTarget(d)]
	return !q.closed && (l == nil || 2*l.undone <= q.limits.MaxPerTarget)
}

// refusals begins the name of a queue of what is only reported. No target's name does.
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

// carryOut makes a delivery and tells what came of it. If code of the submitter's context
// calls Goexit, the delivery is reported as not made, and another goroutine goes on for
// this one, which is ending.
func (q *memoryQueue) carryOut(l *targetQueue, e *entry) {
	var results []Result
	defer func() {
		if results == nil {
			e.ctx = context.Background() // as it is not to be trusted
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

// report tells what came of a delivery. Until its hooks have returned, Close would name
// what failed.
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

// next fills e with the oldest entry. If there is none, the worker ends, and with the last
// worker the queue of the target.
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

// made notes what Close has to name while hooks are told.
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

// drained waits until all is done, and reports whether that was so before ctx
// ended.
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

// giveUp takes what waits and cuts short what runs.
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

// cutShortGrace is how long Close waits for deliveries whose contexts it ended.
const cutShortGrace = time.Second

// whatIsLost names what still runs too: a Sender that ignores its context.
func (q *memoryQueue) whatIsLost() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lost == nil {
		return nil
	}
	lost := &UndeliveredError{Left: append([]Result(nil), q.lost.Left...), Err: q.lost.Err}
	for e, results := range q.making {
		if results == nil { // it is still out
			results = e.delivery.Results(Unknown, ErrClosed)
		}
		lost.Left = append(lost.Left, results...)
	}
	if len(lost.Left) == 0 {
		return nil
	}
	return lost
}
