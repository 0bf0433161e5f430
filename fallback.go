package fanout

import (
	"context"
	"slices"
	"time"
)

var fallbackOutcomes = []Outcome{Failed, Unknown, Rejected}

func (def *Target) checkFallback(timeout time.Duration) error {
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
	if timeout > 0 && def.FallbackReserve >= timeout {
		return invalid("FallbackReserve", "%v leaves nothing of Timeout, %v", def.FallbackReserve, timeout)
	}
	return nil
}

// fallbackOf returns the fallbacks, and the target's own timeout, which is less by the
// reserve.
func (def *Target) fallbackOf(timeout time.Duration, targets []*target) (f *fallbacks, own time.Duration) {
	f = &fallbacks{targets: targets, on: def.FallbackOn, timeout: timeout}
	if f.on == nil {
		f.on = []Outcome{Failed, Rejected}
	}
	switch {
	case timeout < 0:
		return f, timeout
	case def.FallbackReserve == 0:
		return f, timeout - timeout/5
	}
	return f, timeout - max(0, def.FallbackReserve)
}

// run tries the fallbacks in order until one is Delivered or Unknown. It returns the
// result of the last one it tried, with the attempts of all of them.
func (f *fallbacks) run(ctx context.Context, started time.Time, p *dispatch, earlier Results) (last Result) {
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, started.Add(f.timeout), ErrTimeout)
		defer cancel()
	}
	var attempts []Attempt
	for _, t := range f.targets {
		last = p.single(ctx, t, FallbackAttempt, earlier)
		attempts = append(attempts, last.Attempts...)
		if last.Outcome == Delivered || last.Outcome == Unknown {
			break
		}
	}
	last.Attempts = attempts
	return last
}

// fellBack returns a target's failed result, changed by the result of its fallbacks.
func fellBack(failed, fallback Result) Result {
	err := *failed.targetError()
	failed.Attempts = append(failed.Attempts, fallback.Attempts...)
	err.Fallback = fallback.err
	switch fallback.Outcome {
	case Delivered:
		failed.Outcome, failed.Response = Degraded, fallback.Response
	case Unknown:
		failed.Outcome = Unknown
	}
	err.Outcome = failed.Outcome
	failed.err = &err
	return failed
}
