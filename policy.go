package fanout

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Policy says how one target is called. Zero fields of a target's policy
// inherit [Config.Defaults], whose zero fields take the defaults given here.
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

// join is errors.Join, but leaves a single error as it is.
func join(errs ...error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

func invalid(field, format string, args ...any) error {
	return &InvalidError{Field: field, Err: fmt.Errorf(format, args...)}
}

// notNegative refuses a negative value where it has no meaning.
func notNegative[T int | float64 | time.Duration](field string, v T) error {
	if v < 0 {
		return invalid(field, "%v is negative", v)
	}
	return nil
}

// longestDuration bounds what is not negative, so that sums do not overflow.
const longestDuration = 365 * 24 * time.Hour

func notTooLong(field string, d time.Duration) error {
	if d > longestDuration {
		return invalid(field, "%v is more than a year", d)
	}
	return nil
}

func finite(field string, v float64) error {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return invalid(field, "%v is not a number to use", v)
	}
	return nil
}
