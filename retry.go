package fanout

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// Retry says which failed attempts are retried, and how long to wait before.
//
// Failures to connect, timeouts, broken answers and the [Retry.Statuses] are retried.
// Certificate errors and other statuses are not. If the request may have reached the
// target, it is only retried if its method is idempotent (RFC 9110, section 9.2.2) or it
// carries an idempotency key.
//
// The wait grows exponentially from InitialBackoff to MaxBackoff, with random jitter.
// With the defaults, for example, the first wait is 50 to 150 ms, and the second one 100
// to 300 ms. If an answer has a Retry-After header, the wait is that long and a little
// longer. If the time left is too short for that, the delivery ends at once.
type Retry struct {
	// MaxAttempts is the number of attempts, including the first one. Zero means the
	// default, 3; 1 switches retries off; negative is refused.
	MaxAttempts int
	// InitialBackoff is the first wait, before jitter. Zero means the default, 100 ms;
	// negative is refused.
	InitialBackoff time.Duration
	// MaxBackoff is the longest wait, including jitter. Only a Retry-After can be longer.
	// Zero means the default, 20 s; negative is refused.
	MaxBackoff time.Duration
	// Multiplier is the factor from one wait to the next. Zero means the default, 2; less
	// than 1 is refused.
	Multiplier float64
	// Jitter says how much a wait varies at random. A wait w becomes any value from
	// w·(1-Jitter) to w·(1+Jitter). It is at most 1. Zero means the default, 0.5; negative
	// means no jitter.
	Jitter float64
	// ThrottledBackoff is the shortest first wait, before jitter, after a 429 or a 503
	// without a Retry-After. Zero means the default, 1 s; negative means that InitialBackoff
	// applies as after any other failure.
	ThrottledBackoff time.Duration
	// Statuses are the HTTP statuses that are retried, from 300 to 599. Nil means the
	// default: 408, 425, 429, 500, 503, those that a gateway answers by itself (502, 504,
	// 520 to 527, 530, 598 and 599), and also 409 if the request carries an idempotency key.
	// An empty list means none.
	Statuses []int
	// Budget limits the retries to a target over all dispatches. It is the size of a bucket
	// of tokens, which is full at first. A retry takes one token; if there is none, the
	// delivery ends with [ErrRetryBudget], unless its queue lets it wait, see
	// [Round.Patient]. Zero means the default, 10; negative means no limit; a value between
	// 0 and 1 is refused.
	Budget float64
	// BudgetRefill is what a success adds to the bucket. It is the largest share of retries
	// in the long run. For example, 0.1 allows one retry for ten successes. Zero means the
	// default, 0.1; negative means that nothing is added.
	BudgetRefill float64
}

var defaultStatuses = append([]int{408, 425, 429, 500, 503}, gatewayStatuses...)

// gatewayStatuses are answered by a gateway that gave up on the target. The gateway cannot
// know whether the target acted. 502 and 504 are those of RFC 9110, sections 15.6.3 and
// 15.6.5. 520 to 527 and 530 are Cloudflare's own, by its documentation of 5xx errors: for
// example, 524 means that the target was connected and did not answer in time. 598 and 599
// are used by some proxies for their own timeouts.
var gatewayStatuses = []int{502, 504, 520, 521, 522, 523, 524, 525, 526, 527, 530, 598, 599}

func (r Retry) over(base Retry) Retry {
	statuses := r.Statuses
	if statuses == nil {
		statuses = base.Statuses
	}
	return Retry{
		MaxAttempts:      cmp.Or(r.MaxAttempts, base.MaxAttempts),
		InitialBackoff:   cmp.Or(r.InitialBackoff, base.InitialBackoff),
		MaxBackoff:       cmp.Or(r.MaxBackoff, base.MaxBackoff),
		Multiplier:       cmp.Or(r.Multiplier, base.Multiplier),
		Jitter:           cmp.Or(r.Jitter, base.Jitter),
		ThrottledBackoff: cmp.Or(r.ThrottledBackoff, base.ThrottledBackoff),
		Statuses:         slices.Clone(statuses),
		Budget:           cmp.Or(r.Budget, base.Budget),
		BudgetRefill:     cmp.Or(r.BudgetRefill, base.BudgetRefill),
	}
}

func (r Retry) withDefaults() Retry {
	r = r.over(Retry{MaxAttempts: 3, MaxBackoff: 20 * time.Second, Multiplier: 2, Jitter: 0.5,
		ThrottledBackoff: time.Second, Statuses: defaultStatuses, Budget: 10, BudgetRefill: 0.1})
	if r.InitialBackoff == 0 {
		r.InitialBackoff = min(100*time.Millisecond, r.MaxBackoff)
	}
	return r
}

func (r Retry) check() error {
	errs := []error{
		notNegative("Retry.MaxAttempts", r.MaxAttempts),
		notNegative("Retry.InitialBackoff", r.InitialBackoff),
		notNegative("Retry.MaxBackoff", r.MaxBackoff),
		notTooLong("Retry.InitialBackoff", r.InitialBackoff),
		notTooLong("Retry.MaxBackoff", r.MaxBackoff),
		notTooLong("Retry.ThrottledBackoff", r.ThrottledBackoff),
		finite("Retry.Multiplier", r.Multiplier),
		finite("Retry.Jitter", r.Jitter),
		finite("Retry.Budget", r.Budget),
		finite("Retry.BudgetRefill", r.BudgetRefill),
	}
	if r.MaxBackoff > 0 && r.InitialBackoff > r.MaxBackoff {
		errs = append(errs, invalid("Retry.InitialBackoff", "%v is more than MaxBackoff, %v", r.InitialBackoff, r.MaxBackoff))
	}
	if r.Multiplier != 0 && r.Multiplier < 1 {
		errs = append(errs, invalid("Retry.Multiplier", "%v is less than 1", r.Multiplier))
	}
	if r.Jitter > 1 {
		errs = append(errs, invalid("Retry.Jitter", "%v is more than 1", r.Jitter))
	}
	if r.Budget > 0 && r.Budget < 1 {
		errs = append(errs, invalid("Retry.Budget", "%v is less than one retry", r.Budget))
	}
	for _, s := range r.Statuses {
		if s < 300 || s > 599 {
			errs = append(errs, invalid("Retry.Statuses", "%d is not a status of failure", s))
		}
	}
	return join(errs...)
}

// schedule calculates the waits of one delivery. The zero value is ready for the first
// wait.
type schedule struct{ waits *backoff.ExponentialBackOff }

// next returns the wait before the next attempt. It is never shorter than hint.
func (s *schedule) next(r *Retry, throttled bool, hint time.Duration) time.Duration {
	if s.waits == nil {
		s.waits = &backoff.ExponentialBackOff{
			InitialInterval:     r.InitialBackoff,
			RandomizationFactor: max(0, r.Jitter),
			Multiplier:          r.Multiplier,
			MaxInterval:         r.MaxBackoff,
			Stop:                backoff.Stop,
			Clock:               backoff.SystemClock,
		}
		if throttled {
			s.waits.InitialInterval = min(max(r.InitialBackoff, r.ThrottledBackoff), r.MaxBackoff)
		}
		s.waits.Reset()
	}
	wait := min(s.waits.NextBackOff(), r.MaxBackoff)
	if hint <= 0 {
		return wait
	}
	spread := max(wait, hint/10)
	return saturatingAdd(hint, rand.N(spread+1))
}

const maxDuration time.Duration = 1<<63 - 1

func saturatingAdd(a, b time.Duration) time.Duration {
	if sum := a + b; sum >= a {
		return sum
	}
	return maxDuration
}

// budget is a bucket of tokens. Each retry of a target takes one.
type budget struct {
	mu     sync.Mutex
	tokens float64
	size   float64
	refill float64
}

func newBudget(r Retry) *budget {
	if r.Budget < 0 {
		return nil
	}
	return &budget{tokens: r.Budget, size: r.Budget, refill: max(0, r.BudgetRefill)}
}

func (b *budget) take() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// giveBack returns the token of a retry that was not sent.
func (b *budget) giveBack() { b.add(1) }

func (b *budget) success() {
	if b != nil {
		b.add(b.refill)
	}
}

func (b *budget) add(tokens float64) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens = min(b.size, b.tokens+tokens)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return endOf(ctx)
	}
}
