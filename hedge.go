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

// attemptOrHedge makes one attempt, and another beside it if that is slow.
func (dl *delivery) attemptOrHedge() error {
	h := dl.gates.hedging
	if h == nil || !dl.target.repeatable() || len(dl.attempts)+1 >= dl.target.policy.Retry.MaxAttempts {
		return dl.attempt()
	}
	patience, ok := h.patience()
	if !ok {
		return dl.attempt()
	}
	r := &race{delivery: dl, ended: make(chan *runner, 2)}
	r.run(patience)
	return r.conclude()
}

// race is an attempt and its hedge.
type race struct {
	*delivery
	runners []*runner // the attempt, and then the hedge
	ended   chan *runner
}

// runner is a delivery of one attempt, on a goroutine of its own.
type runner struct {
	delivery
	cancel context.CancelCauseFunc
	done   bool  // the race may look at it
	err    error // why nothing was sent
}

var errOutrun = fmt.Errorf("%w: the other attempt won", context.Canceled)

// run returns when all runners have ended.
func (r *race) run(patience time.Duration) {
	r.start(r.kind)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for running := 1; running > 0; {
		select {
		case <-timer.C:
			if r.gates.budget.take() {
				r.start(HedgeAttempt)
				running++
			} else {
				r.tellRefusedRetry()
			}
		case one := <-r.ended:
			running--
			one.done = true
			if r.winner() != nil {
				r.stopAll()
			}
		}
	}
}

func (r *race) start(kind AttemptKind) {
	one := &runner{delivery: *r.delivery}
	var ctx context.Context
	ctx, one.cancel = context.WithCancelCause(r.clock.total())
	one.clock = &clock{ctx: ctx, started: r.clock.started, timeout: -1, attemptTimeout: r.clock.attemptTimeout}
	one.kind, one.ahead, one.paid = kind, uint8(len(r.runners)), kind == HedgeAttempt || r.paid //nolint:gosec // there are two at most
	one.queued, one.attempts, one.response = true, slices.Clip(r.attempts), nil
	if r.spans != nil {
		one.spans = &deliverySpans{delivery: r.spans.delivery}
	}
	r.runners = append(r.runners, one)
	go func() {
		defer func() { r.ended <- one }()
		one.run()
	}()
}

// run makes the attempt, whatever user code does.
func (one *runner) run() {
	one.err = ErrGoexit // unless attempt returns or panics
	defer func() {
		if p := recover(); p != nil {
			one.err = newPanicError(p)
		}
		if one.abandon(one.err) {
			one.err = nil
		}
	}()
	one.err = one.attempt()
}

func (r *race) winner() *runner {
	for _, one := range r.runners {
		if one.done && len(one.attempts) > len(r.attempts) && one.verdict.reach == delivered {
			return one
		}
	}
	return nil
}

func (r *race) stopAll() {
	for _, one := range r.runners {
		one.cancel(errOutrun)
	}
}

// conclude makes one story of it. If none won, the first attempt's failure counts,
// unless it was not sent.
func (r *race) conclude() error {
	r.stopAll()
	dl, first := r.delivery, r.runners[0]
	tells := r.winner()
	if tells == nil {
		tells = first
	}
	made := len(dl.attempts)
	dl.paid = false
	for _, one := range r.runners {
		if len(one.attempts) > made {
			dl.attempts = append(dl.attempts, one.attempts[made])
			if len(tells.attempts) == made {
				tells = one
			}
		}
		if one.paid {
			dl.gates.budget.giveBack()
		}
		dl.effect = dl.effect || one.effect
		dl.refreshed = dl.refreshed || one.refreshed
		dl.response = cmp.Or(one.response, dl.response)
	}
	dl.response = cmp.Or(tells.response, dl.response)
	dl.verdict, dl.exchange = tells.verdict, tells.exchange
	return tells.err
}
