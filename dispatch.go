package fanout

import (
	"context"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/fanout-go/fanout/internal/otel"
)

// dispatch is one payload for a set of targets. It is one call of Dispatch, or one round
// of a delivery that a queue makes.
type dispatch struct {
	setting
	payload    *Payload
	ctx        context.Context // the caller's, with the correlation ID and the span
	deliveries []delivery
	clocks     *clock // a linked list
	pool       pool
	ended      chan Result // gets each result when it is known; nil if nobody reads it

	span    trace.Span // nil if there is none
	traced  otel.Tracing
	watched bool // somebody besides the tally observes it
}

// setting is what a dispatch needs of its dispatcher.
type setting struct {
	observer *observer
	gatesOf  func(*target) *gates
	overtime context.Context // ends when Close has waited long enough

	submitted bool        // a queue makes it
	patience  func() bool // the queue's Patient; nil means never
}

// newDispatch prepares one delivery for each target. It allocates memory for all of them
// together, because many small allocations would be slower.
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

// lay prepares a delivery for run.
func (d *dispatch) lay(dl *delivery, t *target, x *exchange) {
	dl.dispatch, dl.target, dl.gates, dl.first = d, t, d.gatesOf(t), x
	key := t.keyFor(d.payload, strings.TrimSuffix(dl.id, firstAttempt))
	dl.request = t.request(d.payload, key)
	dl.request.RequestID, dl.request.Attempt = dl.id, 1
	x.sent = &dl.request
	dl.result.Target, dl.result.Optional, dl.result.Payload, dl.result.Key = t.Name, t.Optional, d.payload, key
}

// firstAttempt is the end of the ID of a delivery's first request. That of the second one
// ends in ".2".
const firstAttempt = ".1"

// requestIDs returns the IDs of all first requests in one string. An ID without its ".1"
// is unique to the delivery, and is by default its idempotency key.
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

// clock returns the clock for this target's timeouts, and starts it if there is none.
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

// run makes all deliveries at the same time and waits for them.
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

// release releases the gates and stops the clocks. tell recovers a panic, because code of
// the caller's context runs when a clock stops.
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

// patient reports whether deliveries may wait, for example for an open breaker to close.
func (d *dispatch) patient() bool {
	return d.patience != nil && d.patience()
}

// underWay returns the result of a delivery that goes on in the background.
func (d *dispatch) underWay(i int) Result {
	dl := &d.deliveries[i]
	t := dl.target
	r := unmade(d.payload, t.Name, Unknown, ErrUnderWay)
	r.position, r.Optional, r.Key = int32(i), t.Optional, t.keyFor(d.payload, strings.TrimSuffix(dl.id, firstAttempt)) //nolint:gosec // no dispatch has that many targets
	return r
}

// single makes one more delivery, for a fallback or a compensation. It has a goroutine of
// its own: without it, a Goexit of user code would also end the delivery that called
// single.
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

// pool makes the deliveries of one dispatch. At any time, at most one new goroutine is
// starting up to take the next delivery. A goroutine whose delivery ends at once, for
// example because a breaker is open, takes another one instead of exiting. So deliveries
// that take time run at the same time, and those that end at once share goroutines.
type pool struct {
	group      errgroup.Group
	work       func() error // a field, so that it is allocated once
	deliveries []delivery
	begun      atomic.Int32
	starting   atomic.Bool // a goroutine was started and does not run yet
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

// growStack gives a new goroutine a large stack while it is empty and nothing has to be
// copied. Without this, the stack grew several times during a delivery, which took a
// fifth of the CPU time of a dispatch in memory.
//
//go:noinline
func growStack() byte {
	var frame [3 << 10]byte
	return frame[one] // an index the compiler does not know, or it would drop frame
}

var one = 1
