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

// Hedge starts a second attempt while a slow one still runs. It does so only where that
// is safe: if the method is idempotent (RFC 9110, section 9.2.2) or there is an
// idempotency key. The first success wins, and the other attempt is cut short. If one
// fails, the other goes on.
//
// A hedge counts as one of [Retry.MaxAttempts], takes a token of [Retry.Budget], and
// passes the same gates as any attempt. An attempt has at most one hedge.
type Hedge struct {
	// After is how long an attempt may take before it gets a hedge. Zero and negative mean
	// no hedges, unless Quantile is set. At most one year.
	After time.Duration
	// Quantile sets that time by the durations of the target's latest 128 successful
	// attempts. For example, 0.95 gives hedges to the slowest 5 %. It is used when there are
	// at least 20 such attempts; before that, After is used. Must be less than 1. Zero and
	// negative mean that only After is used.
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

// hedging decides when an attempt gets a hedge. Nil means never.
type hedging struct {
	Hedge

	mu     sync.Mutex
	latest []time.Duration // a ring buffer
	next   int
}

const latestKept, latestNeeded = 128, 20

func newHedging(h Hedge) *hedging {
	if h.After <= 0 && h.Quantile <= 0 {
		return nil
	}
	return &hedging{Hedge: h}
}

// took stores the duration of a success.
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

// patience returns how long to wait for an attempt before its hedge starts.
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

// race is an attempt and its hedge, of which one counts.
type race struct {
	turns   [2]turn
	clock   *clock
	budget  *budget
	try     func(*trial, turn)
	refused func() // reports a hedge that got no token

	trials  [2]trial
	started int
	done    [2]bool // its goroutine has ended, so the trial may be read
	ended   chan int
	cancel  [2]context.CancelCauseFunc
}

var errOutrun = fmt.Errorf("%w: the other attempt won", context.Canceled)

// run returns when all trials have ended. If the timer and the end of the first trial
// come at the same moment, no hedge starts.
func (r *race) run(after time.Duration) {
	running := 0
	start := func() {
		r.start()
		running++
	}
	defer func() { // deferred, because a hook may panic or call Goexit
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
			case len(r.ended) > 0: // the first has just ended
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

// start makes a trial on a new goroutine, because user code may end it by Goexit.
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

// counts returns the trial that decides what comes next. That is one that succeeded, or
// else the first one. If only the hedge was sent, it is the hedge.
func (r *race) counts() *trial {
	if winner := r.winner(); winner != nil {
		return winner
	}
	if r.started == 2 && r.trials[0].unsent != nil && r.trials[1].unsent == nil {
		return &r.trials[1]
	}
	return &r.trials[0]
}
