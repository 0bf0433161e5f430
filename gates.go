package fanout

import (
	"sync"
	"time"
)

// gates is what a target's name has going over all dispatches: its breaker,
// bulkhead, rate limit and retry budget.
type gates struct {
	breaker   *breaker
	bulkhead  *bulkhead
	rateLimit *rateLimit
	budget    *budget

	idle *idleness // nil if the target is configured: kept for ever
}

// idleness is guarded by its owner's mutex.
type idleness struct {
	owner *namedGates
	users int       // dispatches under way
	since time.Time // when users fell to zero
}

func newGates(p Policy) *gates {
	return &gates{
		breaker:   newBreaker(p.Breaker),
		bulkhead:  newBulkhead(p.Bulkhead),
		rateLimit: newRateLimit(p.RateLimit),
		budget:    newBudget(p.Retry),
	}
}

// gatesIdle is how long the gates of a target that is named in calls only are
// kept after their last use. It must outlast what they remember that matters: an
// open breaker, an emptied bucket.
const gatesIdle = 10 * time.Minute

// namedGates keeps the gates of targets given in the call, by name, and forgets
// those no longer used, so that a million one-off destinations leak nothing.
type namedGates struct {
	mu     sync.Mutex
	byName map[string]*gates
	swept  time.Time
}

func (n *namedGates) acquire(t *target) *gates {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sweep(time.Now())
	g := n.byName[t.Name]
	if g == nil {
		if n.byName == nil {
			n.byName = make(map[string]*gates)
		}
		g = newGates(t.policy)
		g.idle = &idleness{owner: n}
		n.byName[t.Name] = g
	}
	g.idle.users++
	return g
}

func (g *gates) release() {
	if g.idle == nil {
		return
	}
	g.idle.owner.mu.Lock()
	defer g.idle.owner.mu.Unlock()
	g.idle.users--
	g.idle.since = time.Now()
}

// sweep looks at all names once in a gatesIdle: no goroutine, no timer, and an
// entry lives twice that long at most.
func (n *namedGates) sweep(now time.Time) {
	if now.Sub(n.swept) < gatesIdle {
		return
	}
	n.swept = now
	for name, g := range n.byName {
		if g.idle.users == 0 && now.Sub(g.idle.since) >= gatesIdle {
			delete(n.byName, name)
		}
	}
}

func (n *namedGates) breakerState(name string) (BreakerState, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	g, ok := n.byName[name]
	if !ok {
		return "", false
	}
	return g.breaker.state(), true
}
