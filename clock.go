package fanout

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// clock is the deadlines of the deliveries in one dispatch that share their
// timeouts: one context for all the first attempts that start with the dispatch,
// because they did not have to queue, and one for the whole, made when a
// delivery first has to wait for something.
type clock struct {
	ctx                     context.Context // of the dispatch
	started                 time.Time
	timeout, attemptTimeout time.Duration
	first                   context.Context
	cancelFirst             context.CancelFunc
	makeWhole               sync.Once
	whole                   context.Context
	cancelWhole             context.CancelFunc
	next                    *clock
}

func startClock(ctx context.Context, p *Policy) *clock {
	c := &clock{ctx: ctx, started: time.Now(), timeout: p.Timeout, attemptTimeout: p.AttemptTimeout}
	if p.longestAttempt() == c.timeout {
		c.first, c.cancelFirst = c.total(), func() {}
	} else {
		c.first, c.cancelFirst = withTimeout(ctx, c.attemptTimeout, ErrAttemptTimeout)
	}
	return c
}

// total bounds a whole delivery.
func (c *clock) total() context.Context {
	c.makeWhole.Do(func() {
		c.whole, c.cancelWhole = c.ctx, func() {}
		if c.timeout > 0 {
			c.whole, c.cancelWhole = context.WithDeadlineCause(c.ctx, c.started.Add(c.timeout), ErrTimeout)
		}
	})
	return c.whole
}

func (c *clock) fits(p *Policy) bool {
	return c.timeout == p.Timeout && c.attemptTimeout == p.AttemptTimeout
}

func (c *clock) stop() {
	c.cancelFirst()
	if c.cancelWhole != nil {
		c.cancelWhole()
	}
}

// bound is the context that the delivery lives by, so far. One that comes late
// has queued for its goroutine, and has no share in the first attempts' clock.
func (dl *delivery) bound(now time.Time) context.Context {
	late := dl.clock.attemptTimeout > 0 && now.Sub(dl.clock.started) > dl.clock.attemptTimeout/10
	dl.queued = dl.queued || late
	if dl.queued {
		return dl.clock.total()
	}
	return dl.clock.first
}

// attemptContext bounds the coming attempt.
func (dl *delivery) attemptContext() (context.Context, context.CancelFunc) {
	if dl.queued {
		return withTimeout(dl.clock.total(), dl.clock.attemptTimeout, ErrAttemptTimeout)
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
