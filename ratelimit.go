package fanout

import (
	"cmp"
	"context"
	"math"
	"time"

	"golang.org/x/time/rate"
)

// RateLimit limits how many attempts per second are sent to one target. It is a bucket of
// Burst tokens, which is refilled with PerSecond tokens a second. Every attempt, also a
// retry, takes a token, and waits for one if the bucket is empty. For example, with a
// PerSecond of 10 and a Burst of 20, 20 attempts can start at once, and then one every
// 100 ms. If an attempt is not sent after all, it gives its token back.
type RateLimit struct {
	// PerSecond is the average rate. Zero, the default, and negative mean no limit.
	PerSecond float64
	// Burst is how many attempts may start at once. Zero means the default: PerSecond,
	// rounded up. Negative is refused, and so is a Burst without PerSecond.
	Burst int
	// MaxWait is how long an attempt may wait for a token. If it would have to wait longer,
	// or beyond the deadline of its delivery, it is rejected at once with [ErrRateLimited].
	// Zero, the default, means as long as [Policy.Timeout] allows; negative means that no
	// attempt waits.
	MaxWait time.Duration
}

func (r RateLimit) over(base RateLimit) RateLimit {
	return RateLimit{
		PerSecond: cmp.Or(r.PerSecond, base.PerSecond),
		Burst:     cmp.Or(r.Burst, base.Burst),
		MaxWait:   cmp.Or(r.MaxWait, base.MaxWait),
	}
}

func (r RateLimit) withDefaults() RateLimit {
	if r.Burst == 0 {
		r.Burst = int(min(math.Ceil(max(r.PerSecond, 1)), math.MaxInt32))
	}
	if r.MaxWait == 0 {
		r.MaxWait = math.MaxInt64
	}
	return r
}

func (r RateLimit) check() error {
	errs := []error{finite("RateLimit.PerSecond", r.PerSecond), notNegative("RateLimit.Burst", r.Burst)}
	if r.PerSecond == 0 && r.Burst > 0 {
		errs = append(errs, invalid("RateLimit.Burst", "set without PerSecond"))
	}
	return join(errs...)
}

// rateLimit is the gate of a [RateLimit]. A nil rateLimit lets everything through.
type rateLimit struct {
	limiter *rate.Limiter
	maxWait time.Duration
}

func newRateLimit(r RateLimit) *rateLimit {
	if r.PerSecond <= 0 {
		return nil
	}
	return &rateLimit{rate.NewLimiter(rate.Limit(r.PerSecond), r.Burst), max(0, r.MaxWait)}
}

// allow takes a token if there is one. giveBack returns it.
func (r *rateLimit) allow(now time.Time) bool { return r == nil || r.limiter.AllowN(now, 1) }

// wait takes the next token, and waits until it is there.
func (r *rateLimit) wait(ctx context.Context) error {
	reservation := r.limiter.Reserve()
	delay := reservation.Delay()
	if deadline, ok := ctx.Deadline(); delay > r.maxWait || (ok && delay >= time.Until(deadline)) {
		r.giveBack()
		return ErrRateLimited
	}
	if err := sleep(ctx, delay); err != nil {
		r.giveBack()
		return err
	}
	return nil
}

// giveBack returns the token of an attempt that was not sent. It does not cancel the
// reservation: that would not return the whole token if a later reservation exists, or if
// the time of this one has come. Reserving -1 token always returns it.
func (r *rateLimit) giveBack() {
	if r != nil {
		r.limiter.ReserveN(time.Now(), -1)
	}
}
