package fanout

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// clock is the deadlines of the deliveries in one dispatch that share their
// timeouts: one context for the whole, and one for all the first attempts that
// start with the dispatch, because they did not have to queue.
type clock struct {
	started                  time.Time
	timeout, attemptTimeout  time.Duration
	total, first             context.Context
	cancelTotal, cancelFirst context.CancelFunc
}

func startClock(ctx context.Context, p *Policy) *clock {
	c := &clock{started: time.Now(), timeout: p.Timeout, attemptTimeout: p.AttemptTimeout}
	c.total, c.cancelTotal = withTimeout(ctx, c.timeout, ErrTimeout)
	if p.longestAttempt() == c.timeout {
		c.first, c.cancelFirst = c.total, c.cancelTotal
	} else {
		c.first, c.cancelFirst = withTimeout(ctx, c.attemptTimeout, ErrAttemptTimeout)
	}
	return c
}

func (c *clock) fits(p *Policy) bool {
	return c.timeout == p.Timeout && c.attemptTimeout == p.AttemptTimeout
}

func (c *clock) stop() {
	c.cancelFirst()
	c.cancelTotal()
}

// attemptContext bounds the coming attempt.
func (dl *delivery) attemptContext(total context.Context) (context.Context, context.CancelFunc) {
	if dl.queued {
		return withTimeout(total, dl.clock.attemptTimeout, ErrAttemptTimeout)
	}
	return dl.clock.first, func() {}
}

func withTimeout(ctx context.Context, timeout time.Duration, cause error) (context.Context, context.CancelFunc) {
	if timeout < 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, timeout, cause)
}

// endOf says why a delivery's context ended: [ErrTimeout], or the caller's own
// doing, with its cause if it gave one.
func endOf(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	switch {
	case errors.Is(cause, ErrTimeout), errors.Is(err, cause):
		return cause
	default:
		return fmt.Errorf("%w: %w", err, cause)
	}
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
