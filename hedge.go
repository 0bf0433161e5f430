package fanout

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// Hedge starts one more attempt beside one that is slow, where that is safe: if the
// method is idempotent (RFC 9110, section 9.2.2) or there is an idempotency key.
// The first success wins, and the other attempt is cut short; a failure waits for
// the other. A hedge counts as one of [Retry.MaxAttempts], takes a token of
// [Retry.Budget], and passes the same gates as any attempt. There is at most one
// for each attempt.
type Hedge struct {
	// After is how long an attempt may take before it is hedged. Default and
	// negative: there are no hedges, unless Quantile is set.
	After time.Duration
	// Quantile, of the target's latest 128 successful attempts, is how long an
	// attempt may take, once there are 20 of them; until then it is After, if
	// that is set. 0.95 hedges one in twenty. Less than 1. Default and negative:
	// After alone counts.
	Quantile float64
}

func (h Hedge) over(base Hedge) Hedge {
	return Hedge{After: cmp.Or(h.After, base.After), Quantile: cmp.Or(h.Quantile, base.Quantile)}
}

func (h Hedge) check() error {
	errs := []error{finite("Hedge.Quantile", h.Quantile), notTooLong("Hedge.After", h.After)}
	if h.Quantile >= 1 {
		errs = append(errs, invalid("Hedge.Quantile", "%v is not less than 1", h.Quantile))
	}
	return join(errs...)
}

// hedging is the gate of a [Hedge]; nil makes no hedges.
type hedging struct {
	Hedge

	mu     sync.Mutex
	latest []time.Duration // a ring
	next   int
}

const latestKept, latestNeeded = 128, 20

func newHedging(h Hedge) *hedging {
	if h.After <= 0 && h.Quantile <= 0 {
		return nil
	}
	return &hedging{Hedge: h}
}

// took notes how long a success took.
func (h *hedging) took(d time.Duration) {
	if h == nil || h.Quantile <= 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.latest) < latestKept {
		h.latest = append(h.latest, d)
		return
	}
	h.latest[h.next] = d
	h.next = (h.next + 1) % latestKept
}

// patience is how long to wait for an attempt before hedging it.
func (h *hedging) patience() (time.Duration, bool) {
	h.mu.Lock()
	latest := slices.Clone(h.latest)
	h.mu.Unlock()
	if h.Quantile <= 0 || len(latest) < latestNeeded {
		return h.After, h.After > 0
	}
	slices.Sort(latest)
	return latest[int(math.Ceil(h.Quantile*float64(len(latest))))-1], true
}

// race is an attempt and its hedge: two trials, of which one counts.
type race struct {
	turns   [2]turn
	clock   *clock
	budget  *budget
	try     func(*trial, turn)
	refused func() // tells of a hedge that was not paid for

	trials  [2]trial
	started int
	done    [2]bool // the trial may be looked at
	ended   chan int
	cancel  [2]context.CancelCauseFunc
}

var errOutrun = fmt.Errorf("%w: the other attempt won", context.Canceled)

// run returns when all trials have ended.
func (r *race) run(after time.Duration) {
	running := 0
	start := func() {
		r.start()
		running++
	}
	defer func() { // though a hook panics or calls Goexit
		r.stopAll()
		for ; running > 0; running-- {
			r.done[<-r.ended] = true
		}
		if r.started == 2 && r.trials[1].unsent != nil {
			r.budget.giveBack()
		}
	}()
	start()
	timer := time.NewTimer(after)
	defer timer.Stop()
	for running > 0 {
		select {
		case <-timer.C:
			switch {
			case len(r.ended) > 0: // at the same moment
			case r.budget.take():
				start()
			default:
				r.refused()
			}
		case i := <-r.ended:
			running--
			r.done[i] = true
			if r.winner() != nil {
				r.stopAll()
			}
		}
	}
}

// start makes a trial on a goroutine of its own, which user code may end.
func (r *race) start() {
	i := r.started
	r.started++
	var ctx context.Context
	ctx, r.cancel[i] = context.WithCancelCause(r.clock.total())
	go func() {
		defer func() { r.ended <- i }()
		n := r.turns[i]
		n.whole = ctx
		r.try(&r.trials[i], n)
	}()
}

func (r *race) winner() *trial {
	for i := range r.trials {
		if r.done[i] && r.trials[i].delivers() {
			return &r.trials[i]
		}
	}
	return nil
}

func (r *race) stopAll() {
	for _, cancel := range r.cancel[:r.started] {
		cancel(errOutrun)
	}
}

// counts is the trial that decides what comes next: a success, or else the first
// one's failure, unless it was not sent.
func (r *race) counts() *trial {
	if winner := r.winner(); winner != nil {
		return winner
	}
	if r.started == 2 && r.trials[0].unsent != nil && r.trials[1].unsent == nil {
		return &r.trials[1]
	}
	return &r.trials[0]
}
