package fanout

import (
	"cmp"
	"time"
)

// Policy says how one target is called. Zero fields of a target's policy
// inherit [Config.Defaults], whose zero fields take the defaults given here. So the zero
// Policy is complete, and safe to use as it is.
//
// An attempt goes through these steps, in this order:
//
//  1. The breaker is asked whether it is open.
//  2. The rate limit gives a token.
//  3. The bulkhead gives a place.
//  4. The breaker admits the attempt, as one of its probes if it is half-open.
//  5. The attempt timeout starts.
//  6. [Target.Auth] and [Target.Sign] add to the request.
//  7. The request is sent. The answer is read, within bounds, and judged.
//
// Then [Retry] decides whether there is another attempt, and waits for it without a place
// or a token. Timeout bounds it all. What waits in steps 1 to 4 never counts against a
// target, and what is rejected there, or cancelled by the caller, never moves its breaker.
type Policy struct {
	// Timeout bounds the whole delivery: queues, attempts and backoff.
	// Default 30 s; negative means no bound but the caller's context.
	Timeout time.Duration
	// AttemptTimeout bounds one attempt, from leaving the queues to the last
	// byte of the answer. Default 10 s, and never more than what is left of
	// Timeout; negative means no bound of its own.
	AttemptTimeout time.Duration
	// MaxResponseBytes bounds the answer's body after decompression; a larger
	// one is refused with [ErrResponseTooLarge]. Default 1 MiB; negative means
	// no bound.
	MaxResponseBytes int64

	Retry       Retry
	Breaker     Breaker
	Bulkhead    Bulkhead
	RateLimit   RateLimit
	Hedge       Hedge
	Idempotency Idempotency
}

const (
	defaultTimeout          = 30 * time.Second
	defaultAttemptTimeout   = 10 * time.Second
	defaultMaxResponseBytes = 1 << 20
)

// over fills p's zero fields from base.
func (p Policy) over(base Policy) Policy {
	return Policy{
		Timeout:          cmp.Or(p.Timeout, base.Timeout),
		AttemptTimeout:   cmp.Or(p.AttemptTimeout, base.AttemptTimeout),
		MaxResponseBytes: cmp.Or(p.MaxResponseBytes, base.MaxResponseBytes),
		Retry:            p.Retry.over(base.Retry),
		Breaker:          p.Breaker.over(base.Breaker),
		Bulkhead:         p.Bulkhead.over(base.Bulkhead),
		RateLimit:        p.RateLimit.over(base.RateLimit),
		Hedge:            p.Hedge.over(base.Hedge),
		Idempotency:      p.Idempotency.over(base.Idempotency),
	}
}

func (p Policy) withDefaults() Policy {
	p.Timeout = cmp.Or(p.Timeout, defaultTimeout)
	p.AttemptTimeout = cmp.Or(p.AttemptTimeout, defaultAttemptTimeout)
	p.MaxResponseBytes = cmp.Or(p.MaxResponseBytes, defaultMaxResponseBytes)
	p.Retry = p.Retry.withDefaults()
	p.Breaker = p.Breaker.withDefaults(p.longestAttempt())
	p.Bulkhead = p.Bulkhead.withDefaults()
	p.RateLimit = p.RateLimit.withDefaults()
	p.Idempotency = p.Idempotency.withDefaults()
	return p
}

// longestAttempt is how long one attempt may last, zero if nothing bounds it.
func (p Policy) longestAttempt() time.Duration {
	switch {
	case p.Timeout > 0 && p.AttemptTimeout > 0:
		return min(p.Timeout, p.AttemptTimeout)
	default:
		return max(p.Timeout, p.AttemptTimeout, 0)
	}
}

// check refuses what cannot be meant. It is called before the defaults are in,
// so that a default never contradicts a setting.
func (p Policy) check() error {
	return join(
		notTooLong("Timeout", p.Timeout),
		notTooLong("AttemptTimeout", p.AttemptTimeout),
		notTooLong("Bulkhead.MaxWait", p.Bulkhead.MaxWait),
		notTooLong("RateLimit.MaxWait", p.RateLimit.MaxWait),
		p.Retry.check(),
		p.Breaker.check(p.withDefaults().longestAttempt()),
		p.RateLimit.check(),
		p.Hedge.check(),
		p.Idempotency.check(),
	)
}

// memory is how long a policy's gates remember anything: an open breaker, a
// window of failures, an empty bucket.
func (p Policy) memory() time.Duration {
	longest := max(p.Breaker.Window, p.Breaker.OpenFor+p.Breaker.OpenFor/10)
	if p.RateLimit.PerSecond > 0 {
		refill := float64(p.RateLimit.Burst) / p.RateLimit.PerSecond
		longest = max(longest, time.Duration(min(refill, longestDuration.Seconds())*float64(time.Second)))
	}
	return longest
}
