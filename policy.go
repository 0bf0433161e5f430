package fanout

import (
	"cmp"
	"time"
)

// Policy says how one target is called. A zero field of a target's policy is taken from
// [Config.Defaults]. A field that is zero there too has the default given here. So the
// zero Policy is complete, and safe to use.
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
// After that, [Retry] decides whether there is another attempt. The wait before it
// occupies no place and no token. Timeout limits the whole delivery. Waiting in steps 1
// to 4 is never counted against a target. Attempts that are rejected there, and those
// that the caller cancels, never change the breaker's state.
type Policy struct {
	// Timeout limits the whole delivery: waiting, attempts, and backoff. Zero means the
	// default, 30 s; negative means that only the caller's context limits it.
	Timeout time.Duration
	// AttemptTimeout limits one attempt, from step 5 to the last byte of the answer. It is
	// never more than what is left of Timeout. Zero means the default, 10 s; negative means
	// that only Timeout limits an attempt.
	AttemptTimeout time.Duration
	// MaxResponseBytes limits the body of an answer, after decompression. A larger one is an
	// error, [ErrResponseTooLarge]. Zero means the default, 1 MiB; negative means no limit.
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

// over returns p, with its zero fields taken from base.
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

// longestAttempt returns how long one attempt may last. It is zero if nothing limits it.
func (p Policy) longestAttempt() time.Duration {
	switch {
	case p.Timeout > 0 && p.AttemptTimeout > 0:
		return min(p.Timeout, p.AttemptTimeout)
	default:
		return max(p.Timeout, p.AttemptTimeout, 0)
	}
}

// check refuses invalid values. It is called before the defaults are filled in, so that a
// default never contradicts a value that the user set.
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

// memory returns how long a policy's gates remember anything, such as an open breaker,
// failures within the window, or an empty bucket.
func (p Policy) memory() time.Duration {
	longest := max(p.Breaker.Window, p.Breaker.OpenFor+p.Breaker.OpenFor/10)
	if p.RateLimit.PerSecond > 0 {
		refill := float64(p.RateLimit.Burst) / p.RateLimit.PerSecond
		longest = max(longest, time.Duration(min(refill, longestDuration.Seconds())*float64(time.Second)))
	}
	return longest
}
