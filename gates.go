package fanout

import (
	"sync"
	"sync/atomic"
	"time"
)

// gates is the state that a target's name has over all dispatches: its breaker, bulkhead,
// rate limit and retry budget.
type gates struct {
	breaker   *breaker
	bulkhead  *bulkhead
	rateLimit *rateLimit
	budget    *budget
	hedging   *hedging
	tally     tally

	keep time.Duration // how long they are kept after the last use
	idle *idleness     // nil if the target is configured: its gates are kept forever
}

// idleness says how long gates have been unused. The mutex of owner guards its fields.
type idleness struct {
	owner *namedGates
	users int       // how many dispatches use the gates
	since time.Time // when users fell to zero
}

func newGates(p Policy) *gates {
	return &gates{
		keep:      max(sweepEvery, p.memory()),
		breaker:   newBreaker(p.Breaker),
		bulkhead:  newBulkhead(p.Bulkhead),
		rateLimit: newRateLimit(p.RateLimit),
		budget:    newBudget(p.Retry),
		hedging:   newHedging(p.Hedge),
	}
}

// sweepEvery is how often unused gates are removed. Gates are kept for at least that
// time.
const sweepEvery = 10 * time.Minute

// namedGates keeps the gates of targets that are given in the call, by name. It forgets
// gates that are no longer used, so that a million targets that are used once leak no
// memory.
type namedGates struct {
	mu     sync.Mutex
	byName map[string]*gates
	swept  time.Time
}

func (n *namedGates) acquire(name string, p Policy) *gates {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sweep(time.Now())
	g := n.byName[name]
	if g == nil {
		if n.byName == nil {
			n.byName = make(map[string]*gates)
		}
		g = newGates(p)
		g.idle = &idleness{owner: n}
		n.byName[name] = g
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

// sweep removes unused gates. It runs within a call, at most once per sweepEvery, so that
// neither a goroutine nor a timer is needed.
func (n *namedGates) sweep(now time.Time) {
	if now.Sub(n.swept) < sweepEvery {
		return
	}
	n.swept = now
	for name, g := range n.byName {
		if g.idle.users == 0 && now.Sub(g.idle.since) >= g.keep {
			delete(n.byName, name)
		}
	}
}

func (n *namedGates) get(name string) (*gates, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	g, ok := n.byName[name]
	return g, ok
}

// tally counts what happened to the deliveries to one name so far.
type tally struct {
	inFlight          atomic.Int64
	attempts, retries atomic.Uint64
	outcomes          [len(outcomeNames)]atomic.Uint64
	lastError         atomic.Pointer[lastError]
}

type lastError struct {
	class string
	at    time.Time
}

func (t *tally) sent(again bool) {
	t.inFlight.Add(1)
	t.attempts.Add(1)
	if again {
		t.retries.Add(1)
	}
}

// ended counts a delivery that ended. class is the class of its error, or empty if that
// should not be remembered.
func (t *tally) ended(outcome Outcome, class string) {
	t.outcomes[outcome].Add(1)
	if class != "" {
		t.lastError.Store(&lastError{class, time.Now()})
	}
}
