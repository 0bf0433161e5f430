package fanout

import (
	"cmp"
	"context"
	"math"
	"time"

	"golang.org/x/time/rate"
)

// RateLimit spaces the attempts to one target: a bucket of Burst tokens that
// refills at PerSecond; every attempt, retries included, takes one and waits
// for it if need be. An attempt that is not sent after all gives its token back.
type RateLimit struct {
	// PerSecond is the mean rate. Default and negative: no rate limit.
	PerSecond float64
	// Burst is how many attempts may start at once. Default PerSecond rounded
	// up; negative is refused.
	Burst int
	// MaxWait is the longest wait for a token; beyond it the attempt is
	// rejected at once with [ErrRateLimited], as it is when the token would come
	// after the deadline. Default: as long as [Policy.Timeout] leaves; negative
	// means no wait.
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

// rateLimit is the gate of a [RateLimit]; nil lets everything through.
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

// allow takes a token, which giveBack returns, if there is one.
func (r *rateLimit) allow(now time.Time) bool { return r == nil || r.limiter.AllowN(now, 1) }

// wait takes the next token to come.
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

// giveBack returns the token of an attempt that was not sent. A reservation can
// not be cancelled in full once a later one was made or its time has come, but
// one of -1 token undoes it.
func (r *rateLimit) giveBack() {
	if r != nil {
		r.limiter.ReserveN(time.Now(), -1)
	}
}
