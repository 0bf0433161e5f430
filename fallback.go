package fanout

import (
	"context"
	"slices"
	"time"
)

// Answer is a [Sender] that sends nothing and always answers the same: the last
// of a target's fallbacks, such as a default or what is in a cache.
func Answer(r Response) Sender {
	return SenderFunc(func(context.Context, *Request) (*Response, error) {
		own := r
		own.Header, own.Body = r.Header.Clone(), slices.Clone(r.Body)
		return &own, nil
	})
}

// fallbacks is what a target does instead, made ready.
type fallbacks struct {
	targets []*target
	on      []Outcome
	timeout time.Duration // of the whole delivery; what the target itself has is less
}

var fallbackOutcomes = []Outcome{Failed, Unknown, Rejected}

func (def *Target) checkFallback(p *Policy) error {
	if len(def.Fallback) == 0 {
		if def.FallbackOn != nil || def.FallbackReserve != 0 {
			return invalid("Fallback", "none, but FallbackOn or FallbackReserve is set")
		}
		return nil
	}
	for _, o := range def.FallbackOn {
		if !slices.Contains(fallbackOutcomes, o) {
			return invalid("FallbackOn", "%v is not one of %v", o, fallbackOutcomes)
		}
	}
	if p.Timeout > 0 && def.FallbackReserve >= p.Timeout {
		return invalid("FallbackReserve", "%v leaves nothing of Timeout, %v", def.FallbackReserve, p.Timeout)
	}
	return nil
}

// fallbackOf takes the reserve off the policy's timeout.
func (def *Target) fallbackOf(p *Policy, targets []*target) *fallbacks {
	f := &fallbacks{targets: targets, on: def.FallbackOn, timeout: p.Timeout}
	if f.on == nil {
		f.on = []Outcome{Failed, Rejected}
	}
	switch {
	case p.Timeout < 0:
	case def.FallbackReserve == 0:
		p.Timeout -= p.Timeout / 5
	default:
		p.Timeout -= max(0, def.FallbackReserve)
	}
	return f
}

// fallBack tries the fallbacks in order, until one succeeds or may have.
func (dl *delivery) fallBack() {
	f := dl.target.fallbacks
	if dl.caller.Err() != nil || !slices.Contains(f.on, dl.outcome) {
		return
	}
	ctx := dl.within(dl.clock.ctx)
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, dl.clock.started.Add(f.timeout), ErrTimeout)
		defer cancel()
	}
	failed := dl.err.(*TargetError) //nolint:errorlint // it is never wrapped
	for _, t := range f.targets {
		stand := dl.dispatch.extra(ctx, t, FallbackAttempt, dl.request.Earlier)
		dl.attempts = append(dl.attempts, stand.attempts...)
		switch stand.outcome {
		case Delivered:
			dl.outcome, dl.response = Degraded, stand.response
			failed.Outcome, failed.Fallback = Degraded, nil
			dl.duration = time.Since(dl.clock.started)
			return
		case Unknown:
			dl.outcome = Unknown
			failed.Outcome, failed.Fallback = Unknown, stand.err
			dl.duration = time.Since(dl.clock.started)
			return
		}
		failed.Fallback = stand.err
	}
	dl.duration = time.Since(dl.clock.started)
}
