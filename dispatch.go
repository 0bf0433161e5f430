package fanout

import (
	"context"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/fanout-go/fanout/internal/otel"
)

// dispatch is one payload to a set of targets: a call of Dispatch, or one round of a
// queue's delivery.
type dispatch struct {
	setting
	payload    *Payload
	ctx        context.Context // the caller's, with the correlation ID and the span
	deliveries []delivery
	clocks     *clock // a list
	pool       pool
	ended      chan Result // nil if nobody waits for single ones

	span    trace.Span // nil if there is none
	traced  otel.Tracing
	watched bool // by more than the tally
}

// setting is what a dispatch needs of its dispatcher.
type setting struct {
	observer *observer
	gatesOf  func(*target) *gates
	overtime context.Context // ends when Close has waited long enough

	submitted bool        // nobody waits: a queue has it made
	patience  func() bool // the queue's; nil is none
}

// newDispatch lays out one delivery for each target, all in a few pieces of memory.
func newDispatch(ctx context.Context, s setting, p *Payload, chosen *selection) *dispatch {
	targets := chosen.targets
	d := &dispatch{setting: s, payload: p, ctx: ctx, deliveries: make([]delivery, len(targets))}
	d.ctx, d.span, d.traced = d.observer.dispatchStarted(ctx, p, len(targets), s.submitted, chosen.graph != nil)
	d.watched = d.traced != otel.Untraced || d.observer.watching(ctx)
	if CorrelationID(ctx) != p.CorrelationID {
		d.ctx = WithCorrelationID(d.ctx, p.CorrelationID)
	}
	laidOut := false
	defer func() {
		if !laidOut { // code of ctx panics
			d.release()
		}
	}()
	exchanges, attempts, answers := make([]exchange, len(targets)), make([]Attempt, len(targets)), make([]Response, len(targets))
	ids := requestIDs(p.ID, targets)
	for i, t := range targets {
		length := len(p.ID) + len(t.keySuffix) + len(firstAttempt)
		dl := &d.deliveries[i]
		dl.id, ids = ids[:length], ids[length:]
		exchanges[i].answer = &answers[i]
		d.lay(dl, t, &exchanges[i])
		dl.result.Attempts = attempts[i : i : i+1]
		dl.result.position = int32(i)
		if chosen.graph == nil || len(chosen.graph.after[i]) == 0 {
			dl.clock = d.clock(t) // those that come after others start their own
		}
	}
	laidOut = true
	return d
}

// lay makes a delivery ready to be run.
func (d *dispatch) lay(dl *delivery, t *target, x *exchange) {
	dl.dispatch, dl.target, dl.gates, dl.first = d, t, d.gatesOf(t), x
	key := t.keyFor(d.payload, strings.TrimSuffix(dl.id, firstAttempt))
	dl.request = t.request(d.payload, key)
	dl.request.RequestID, dl.request.Attempt = dl.id, 1
	x.sent = &dl.request
	dl.result.Target, dl.result.Optional, dl.result.Payload, dl.result.Key = t.Name, t.Optional, d.payload, key
}

// firstAttempt ends the ID of a delivery's first request; the next ends in ".2".
const firstAttempt = ".1"

// requestIDs is one string of the IDs of all first requests. What comes before
// their end is unique for the delivery, and is its idempotency key.
func requestIDs(dispatchID string, targets []*target) string {
	size := 0
	for _, t := range targets {
		size += len(dispatchID) + len(t.keySuffix) + len(firstAttempt)
	}
	var b strings.Builder
	b.Grow(size)
	for _, t := range targets {
		b.WriteString(dispatchID)
		b.WriteString(t.keySuffix)
		b.WriteString(firstAttempt)
	}
	return b.String()
}

// clock finds or starts the one for deliveries with this target's timeouts.
func (d *dispatch) clock(t *target) *clock {
	for c := d.clocks; c != nil; c = c.next {
		if c.fits(t) {
			return c
		}
	}
	c := startClock(d.ctx, t)
	c.next, d.clocks = d.clocks, c
	return c
}

// run makes all deliveries at once and waits for them.
func (d *dispatch) run() Results {
	defer d.release()
	d.pool.run(d.deliveries)
	return d.results()
}

func (d *dispatch) results() Results {
	results := make(Results, len(d.deliveries))
	for i := range d.deliveries {
		results[d.deliveries[i].result.Target] = d.deliveries[i].result
	}
	return results
}

// release gives back what the deliveries share, also if code of the caller's context panics
// when it is let go.
func (d *dispatch) release() {
	for i := range d.deliveries {
		if g := d.deliveries[i].gates; g != nil {
			g.release()
		}
	}
	for c := d.clocks; c != nil; c = c.next {
		d.observer.tell(c.stop)
	}
}

// patient reports whether deliveries may wait before a gate that is shut.
func (d *dispatch) patient() bool {
	return d.patience != nil && d.patience()
}

// underWay is the result of a delivery that is left to go on.
func (d *dispatch) underWay(i int) Result {
	dl := &d.deliveries[i]
	t := dl.target
	r := unmade(d.payload, t.Name, Unknown, ErrUnderWay)
	r.position, r.Optional, r.Key = int32(i), t.Optional, t.keyFor(d.payload, strings.TrimSuffix(dl.id, firstAttempt)) //nolint:gosec // no dispatch has that many targets
	return r
}

// single makes one more delivery, for a target that stands in for another or undoes what
// it did. It is made on a goroutine of its own, so that a Goexit of user code ends no more.
func (d *dispatch) single(ctx context.Context, t *target, kind AttemptKind, earlier Results) Result {
	dl := &delivery{kind: kind, clock: startClock(ctx, t), id: requestIDs(d.payload.ID, []*target{t})}
	d.lay(dl, t, &exchange{answer: new(Response)})
	defer dl.gates.release()
	defer dl.clock.stop()
	dl.request.Earlier = earlier
	done := make(chan struct{})
	go func() {
		defer close(done)
		dl.run()
	}()
	<-done
	return dl.result
}

// pool is the goroutines that make the deliveries of one dispatch. At any time one new
// goroutine is starting up to take the next delivery. A goroutine whose delivery ends at
// once, as behind an open circuit, takes another instead of exiting. So all deliveries are
// under way together, and those that end at once share goroutines.
type pool struct {
	group      errgroup.Group
	work       func() error // as a field, so that it is made once
	deliveries []delivery
	begun      atomic.Int32
	starting   atomic.Bool // a goroutine was started and is not yet at work
}

// run returns when all deliveries have ended.
func (p *pool) run(deliveries []delivery) {
	p.deliveries, p.work = deliveries, p.makeDeliveries
	p.startOne()
	_ = p.group.Wait()
}

func (p *pool) startOne() {
	if p.starting.CompareAndSwap(false, true) {
		p.group.Go(p.work)
	}
}

func (p *pool) makeDeliveries() error {
	p.starting.Store(false)
	growStack()
	for {
		next, count := int(p.begun.Add(1)), len(p.deliveries)
		if next > count {
			return nil
		}
		if next < count {
			p.startOne()
		}
		p.deliveries[next-1].run()
	}
}

// growStack gives a fresh goroutine the stack that a delivery ends up with,
// while there is nothing on it to move. Growing it on the way, frame by frame,
// took a fifth of the CPU time of a dispatch in memory.
//
//go:noinline
func growStack() byte {
	var frame [3 << 10]byte
	return frame[one] // an index the compiler does not know, or it would drop frame
}

var one = 1
