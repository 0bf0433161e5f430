package fanout

import (
	"cmp"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

// Breaker is the circuit breaker of a target. A closed breaker lets attempts through and
// counts their failures. It opens when one of the two rules below is met, and then
// rejects attempts with [ErrBreakerOpen]. After OpenFor it is half-open: it lets a few
// attempts through, which are called probes. If Probes of them succeed, it closes. If one
// fails, it opens again.
//
// These are failures: an attempt without a complete answer; a status of 500 or more; a
// status in [Retry.Statuses] other than 409; and an answer that [Target.Classify] refused
// and did not mark as [Permanent]. Any other answer is a success, because the target is
// up. Attempts that this library rejected, or the caller cancelled, and panics of your
// own code are not counted. If the caller's own deadline passes while the target is silent,
// that is a failure, as a timeout of ours is.
type Breaker struct {
	// ConsecutiveFailures is how many failures in a row open the breaker. Zero means the
	// default, 5; negative switches this rule off. If both rules are off, there is no
	// breaker.
	ConsecutiveFailures int
	// FailureRatio is the share of failures, at most 1, that opens the breaker. It counts
	// the attempts that ended within Window, and only applies if there were at least
	// MinCalls of them. For example, with the defaults 10 failures in 20 attempts open the
	// breaker. Zero means the default, 0.5; negative switches this rule off.
	FailureRatio float64
	// MinCalls is the smallest number of attempts for FailureRatio to apply. Zero means the
	// default, 20; negative is refused.
	MinCalls int
	// Window is how far back failures count. It moves in ten steps. It must be at least 3
	// times the attempt timeout, or slow failures would be forgotten before they end. Zero
	// means the default: 1 minute, or 6 attempt timeouts if that is more, so that five slow
	// failures in a row fit into it. Negative, and less than 100 ms, is refused.
	Window time.Duration
	// OpenFor is how long the breaker stays open. Each breaker adds up to a tenth at random,
	// so that the machines of a fleet do not probe at the same time. Zero means the default,
	// 5 s; negative means that it never opens: there is no breaker.
	OpenFor time.Duration
	// Probes is how many attempts may run at the same time while the breaker is half-open,
	// and how many must succeed to close it. Zero means the default, 1; negative is refused.
	Probes int
}

// windowAttempts is how many attempt timeouts must fit into a breaker's window.
const windowAttempts = 3

// leastWindow is the shortest window. It leaves time for an attempt between two of the
// window's steps.
const leastWindow = 100 * time.Millisecond

func (b Breaker) over(base Breaker) Breaker {
	return Breaker{
		ConsecutiveFailures: cmp.Or(b.ConsecutiveFailures, base.ConsecutiveFailures),
		FailureRatio:        cmp.Or(b.FailureRatio, base.FailureRatio),
		MinCalls:            cmp.Or(b.MinCalls, base.MinCalls),
		Window:              cmp.Or(b.Window, base.Window),
		OpenFor:             cmp.Or(b.OpenFor, base.OpenFor),
		Probes:              cmp.Or(b.Probes, base.Probes),
	}
}

func (b Breaker) withDefaults(longestAttempt time.Duration) Breaker {
	return b.over(Breaker{ConsecutiveFailures: 5, FailureRatio: 0.5, MinCalls: 20,
		Window: max(time.Minute, min(6*longestAttempt, longestDuration)), OpenFor: 5 * time.Second, Probes: 1})
}

func (b Breaker) check(longestAttempt time.Duration) error {
	errs := []error{
		finite("Breaker.FailureRatio", b.FailureRatio),
		notNegative("Breaker.MinCalls", b.MinCalls),
		notNegative("Breaker.Window", b.Window),
		notTooLong("Breaker.Window", b.Window),
		notTooLong("Breaker.OpenFor", b.OpenFor),
		notNegative("Breaker.Probes", b.Probes),
	}
	if b.FailureRatio > 1 {
		errs = append(errs, invalid("Breaker.FailureRatio", "%v is more than 1", b.FailureRatio))
	}
	if b.Window > 0 && b.Window < leastWindow {
		errs = append(errs, invalid("Breaker.Window", "%v is less than %v", b.Window, leastWindow))
	}
	if least := windowAttempts * min(longestAttempt, longestDuration); b.Window > 0 && b.Window < least {
		errs = append(errs, invalid("Breaker.Window", "%v is less than %d attempt timeouts, %v", b.Window, windowAttempts, least))
	}
	return join(errs...)
}

// BreakerState is the state of a target's circuit breaker.
type BreakerState string

// The states of a circuit breaker.
const (
	BreakerClosed   BreakerState = "closed"
	BreakerOpen     BreakerState = "open"
	BreakerHalfOpen BreakerState = "half-open"
)

// vote is what an attempt says about the target's health.
type vote uint8

const (
	noVote vote = iota // says nothing about the target
	healthy
	unhealthy
)

var errUnhealthy, errNoVote = errors.New("unhealthy"), errors.New("no vote")

// breaker is the gate of a [Breaker]. A nil breaker lets everything through.
type breaker struct {
	circuit *gobreaker.TwoStepCircuitBreaker[struct{}]
	tripped atomic.Bool // open or half-open; so reading the state of a closed breaker takes no lock

	moved   atomic.Bool // changes is not empty
	mu      sync.Mutex
	changes []breakerChange // not reported yet
}

type breakerChange struct{ from, to BreakerState }

func newBreaker(b Breaker) *breaker {
	if b.OpenFor < 0 || (b.ConsecutiveFailures < 0 && b.FailureRatio < 0) {
		return nil
	}
	gate := &breaker{}
	gate.circuit = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests:  uint32(min(b.Probes, math.MaxInt32)), //nolint:gosec // in range: not negative, and capped
		Interval:     b.Window,
		BucketPeriod: max(1, b.Window/10),
		Timeout:      b.OpenFor + rand.N(b.OpenFor/10+1),
		ReadyToTrip:  b.trips,
		IsExcluded:   func(err error) bool { return errors.Is(err, errNoVote) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			gate.tripped.Store(to != gobreaker.StateClosed)
			gate.change(breakerChange{stateOf(from), stateOf(to)})
		},
	})
	return gate
}

// trips counts only attempts that have ended. Counts.Requests also includes those that
// are running.
func (b Breaker) trips(c gobreaker.Counts) bool {
	if b.ConsecutiveFailures > 0 && int(c.ConsecutiveFailures) >= b.ConsecutiveFailures {
		return true
	}
	ended := int(c.TotalSuccesses + c.TotalFailures)
	return b.FailureRatio > 0 && ended >= b.MinCalls && float64(c.TotalFailures) >= b.FailureRatio*float64(ended)
}

func (b *breaker) state() BreakerState {
	if b == nil || !b.tripped.Load() {
		return BreakerClosed
	}
	return stateOf(b.circuit.State())
}

func stateOf(s gobreaker.State) BreakerState {
	switch s {
	case gobreaker.StateOpen:
		return BreakerOpen
	case gobreaker.StateHalfOpen:
		return BreakerHalfOpen
	default:
		return BreakerClosed
	}
}

// change is called while gobreaker holds its lock. It only records the change, because a
// hook that reads the breaker's state would wait for that lock forever.
func (b *breaker) change(c breakerChange) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changes = append(b.changes, c)
	b.moved.Store(true)
}

// takeChanges returns the changes that were not reported yet, and forgets them.
func (b *breaker) takeChanges() []breakerChange {
	if b == nil || !b.moved.Load() {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.moved.Store(false)
	changes := b.changes
	b.changes = nil
	return changes
}

// admit asks whether an attempt may be sent. The caller must report every admitted
// attempt. Otherwise a half-open breaker would wait for the result of its probe forever.
func (b *breaker) admit() (admission, error) {
	if b == nil {
		return admission{func(error) {}}, nil
	}
	done, err := b.circuit.Allow()
	if err != nil {
		return admission{}, ErrBreakerOpen
	}
	return admission{done}, nil
}

// admission is the permission to send one attempt.
type admission struct{ done func(error) }

func (a admission) report(v vote) {
	switch v {
	case healthy:
		a.done(nil)
	case unhealthy:
		a.done(errUnhealthy)
	default:
		a.done(errNoVote)
	}
}
