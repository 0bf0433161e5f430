package fanout

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// chain is a dispatch whose targets depend on each other.
type chain struct {
	*dispatch
	graph *graph
	saga  *saga
}

// runChain begins each delivery when those it comes after have ended.
func (p *dispatch) runChain(g *graph) {
	c := &chain{dispatch: p, graph: g, saga: newSaga(g)}
	walk(g.after, g.next, c.deliver)
	if c.isUndone() {
		c.compensateAll()
	}
	c.conclude()
}

// conclude leaves for later what has no good end yet, if there is a later.
func (c *chain) conclude() {
	if c.journal == nil || c.journal.left() != nil {
		return
	}
	undone := c.isUndone()
	for i := range c.deliveries {
		switch dl := &c.deliveries[i]; {
		case dl.outcome.succeeded(), dl.outcome == Skipped, dl.outcome == Compensated:
		case !undone, dl.outcome == CompensationFailed:
			c.journal.leave(dl.err)
		}
	}
}

// ended notes how a delivery ended, unless it is to be made another time. How one
// failed is noted when it is known what comes of that.
func (c *chain) ended(i int) {
	dl := &c.deliveries[i]
	if why := c.journal.interrupted(c.ctx, dl); why != nil {
		c.journal.leave(why)
		c.saga.interrupted(i)
		return
	}
	if dl.outcome.succeeded() {
		c.journal.note(c.ctx, dl.result(), false)
	}
	c.saga.ended(i, dl)
}

func (c *chain) deliver(i int) {
	dl := &c.deliveries[i]
	if c.journal.recall(dl) {
		c.saga.ended(i, dl)
		return
	}
	defer c.ended(i)
	if missing := c.missing(i); missing != "" {
		dl.skip(fmt.Errorf("%w, as it comes after %s", ErrSkipped, missing))
		return
	}
	if failed := c.saga.begin(i); failed != "" {
		dl.skip(fmt.Errorf("%w, as the saga failed with %q", ErrSkipped, failed))
		return
	}
	if dl.clock == nil {
		dl.clock = startClock(c.ctx, &dl.target.policy)
		defer dl.clock.stop()
	}
	dl.request.Earlier = c.earlier(i)
	dl.run()
}

// missing names what did not succeed of those that i comes after.
func (c *chain) missing(i int) string {
	var names []string
	for _, j := range c.graph.after[i] {
		if earlier := &c.deliveries[j]; !earlier.outcome.succeeded() {
			names = append(names, fmt.Sprintf("%q: %s", earlier.target.Name, earlier.outcome))
		}
	}
	return strings.Join(names, ", ")
}

func (c *chain) earlier(i int) Results {
	if len(c.graph.after[i]) == 0 {
		return nil
	}
	earlier := make(Results, len(c.graph.after[i]))
	for _, j := range c.graph.after[i] {
		dl := &c.deliveries[j]
		earlier[dl.target.Name] = dl.result()
	}
	return earlier
}

func (dl *delivery) skip(reason error) {
	dl.clock = &clock{ctx: dl.dispatch.ctx, started: time.Now()}
	dl.outcome = Skipped
	dl.err = &TargetError{Target: dl.target.Name, Outcome: Skipped, Reason: reason}
	dl.tellEnd()
}

// extra makes one more delivery in the dispatch, for a target that stands in or
// undoes.
func (p *dispatch) extra(ctx context.Context, t *target, kind AttemptKind, earlier Results) *delivery {
	dl := &delivery{
		dispatch: p, caller: ctx, target: t, gates: p.d.gatesOf(t), clock: startClock(ctx, &t.policy),
		exchange: &exchange{answer: new(Response)}, kind: kind, id: requestIDs(p.s.DispatchID, []*target{t}),
	}
	defer dl.gates.release()
	defer dl.clock.stop()
	dl.request = p.s.request(t, strings.TrimSuffix(dl.id, firstAttempt))
	dl.request.Earlier = earlier
	dl.run()
	return dl
}
