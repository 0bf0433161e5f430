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

// Breaker is a target's circuit breaker. Closed, it lets attempts through and
// counts them; it opens when either rule below says so, and then rejects with
// [ErrBreakerOpen]. After OpenFor it is half-open: Probes attempts are let
// through, and their success closes it while a failure opens it again.
//
// A failure is an attempt that met no complete answer, a 5xx or one of
// [Retry.Statuses], or an answer that [Target.Classify] refused and did not mark
// [Permanent]. Any other answer counts as a success: the target is up.
// What we rejected ourselves, and what the caller cancelled, counts as neither.
type Breaker struct {
	// ConsecutiveFailures opens the breaker. Default 5; negative switches this
	// rule off.
	ConsecutiveFailures int
	// FailureRatio opens the breaker when at least MinCalls attempts ended
	// within Window and this share of them, at most 1, failed. Default 0.5;
	// negative switches this rule off.
	FailureRatio float64
	// MinCalls is the least evidence for FailureRatio. Default 20; negative is
	// refused.
	MinCalls int
	// Window is how far back the breaker looks; it moves in tenths. It must be
	// at least 3 times the attempt timeout, or slow failures would be forgotten
	// before they end. Default 1 minute, or 6 attempt timeouts if that is more:
	// enough for five in a row, one after the other. Negative is refused.
	Window time.Duration
	// OpenFor is how long the breaker stays open; each breaker adds up to a
	// tenth, so that a fleet does not probe in step. Default 5 s; negative
	// means it never opens: no breaker.
	OpenFor time.Duration
	// Probes is how many attempts may be under way in a half-open breaker, and
	// how many must succeed to close it. Default 1; negative is refused.
	Probes int
}

// windowAttempts is how many attempt timeouts a breaker's window must hold.
const windowAttempts = 3

// leastWindow leaves time for an attempt between two steps of the window.
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

// vote is what an attempt tells the breaker about the target's health.
type vote uint8

const (
	noVote vote = iota // it says nothing about the target
	healthy
	unhealthy
)

var errUnhealthy, errNoVote = errors.New("unhealthy"), errors.New("no vote")

// breaker is the gate of a [Breaker]; nil lets everything through.
type breaker struct {
	circuit *gobreaker.TwoStepCircuitBreaker[struct{}]
	tripped atomic.Bool // not closed: spares the closed breaker a lock per look

	moved   atomic.Bool // there are changes
	mu      sync.Mutex
	changes []breakerChange // not told yet
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

// trips decides on ended calls only: Counts.Requests includes those under way.
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

// change is called under gobreaker's lock, so that it only notes.
func (b *breaker) change(c breakerChange) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changes = append(b.changes, c)
	b.moved.Store(true)
}

// takeChanges returns those nobody was told of.
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

// admit asks for leave to send. The caller must report every admitted attempt,
// or a half-open breaker would wait for its probe for ever.
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

// admission is leave to send one attempt.
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
