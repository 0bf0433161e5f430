package fanout

import (
	"context"
	"sync/atomic"
	"time"
)

// Snapshot is how a dispatcher's configured targets are at one moment, in
// definition order, each followed by its fallbacks and compensation. It holds no address and nothing a target has said.
type Snapshot struct {
	Time    time.Time        `json:"time"`
	Targets []TargetSnapshot `json:"targets"`
}

// TargetSnapshot is how one target is. Counts are since it was configured, or its
// definition changed so that its breaker started anew.
type TargetSnapshot struct {
	Target   string       `json:"target"`
	Optional bool         `json:"optional,omitempty"`
	Breaker  BreakerState `json:"breaker"`
	InFlight int64        `json:"in_flight"` // attempts
	Waiting  int64        `json:"waiting"`   // attempts, for the bulkhead

	Queued    int           `json:"queued"`        // deliveries submitted and not done
	OldestAge time.Duration `json:"oldest_age_ns"` // of those
	// What a durable queue keeps of deliveries that failed for good, and whether it
	// holds back the rest.
	DeadLetters int  `json:"dead_letters,omitempty"`
	Held        bool `json:"held,omitempty"`

	Attempts  uint64 `json:"attempts"`
	Retries   uint64 `json:"retries"`
	Delivered uint64 `json:"delivered"` // deliveries, as all below
	Failed    uint64 `json:"failed"`
	Unknown   uint64 `json:"unknown"`
	Rejected  uint64 `json:"rejected"`
	Degraded  uint64 `json:"degraded"`
	Skipped   uint64 `json:"skipped"`

	LastError   string    `json:"last_error,omitempty"` // its [ErrorClass]; not that the breaker was open
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
}

// Snapshot returns how all configured targets are, for health checks and
// dashboards; fanouthttp.StatusHandler shows it.
func (d *Dispatcher) Snapshot(ctx context.Context) Snapshot {
	backlog := d.backlog(ctx)
	s := Snapshot{Time: time.Now(), Targets: []TargetSnapshot{}}
	for t := range withOthers(d.registry.everything().targets) {
		one := t.gates.snapshot()
		one.Target, one.Optional = t.Name, t.Optional
		if b, ok := backlog[t.Name]; ok {
			one.Queued, one.DeadLetters, one.Held = b.Deliveries, b.DeadLetters, b.Held
			if b.Deliveries > 0 {
				one.OldestAge = s.Time.Sub(b.Oldest)
			}
		}
		s.Targets = append(s.Targets, one)
	}
	return s
}

func (d *Dispatcher) backlog(ctx context.Context) map[string]Backlog {
	reporter, ok := d.queue.(BacklogReporter)
	if !ok {
		return nil
	}
	all, err := reporter.Backlog(ctx)
	if err != nil {
		d.telemetry.logger.WarnContext(ctx, "fanout: backlog unknown", "error", err)
	}
	byTarget := make(map[string]Backlog, len(all))
	for _, b := range all {
		byTarget[b.Target] = b
	}
	return byTarget
}

func (g *gates) snapshot() TargetSnapshot {
	t := &g.tally
	s := TargetSnapshot{
		Breaker:   g.breaker.state(),
		InFlight:  t.inFlight.Load(),
		Waiting:   g.bulkhead.queued(),
		Attempts:  t.attempts.Load(),
		Retries:   t.retries.Load(),
		Delivered: t.outcomes[Delivered].Load(),
		Failed:    t.outcomes[Failed].Load(),
		Unknown:   t.outcomes[Unknown].Load(),
		Rejected:  t.outcomes[Rejected].Load(),
		Degraded:  t.outcomes[Degraded].Load(),
		Skipped:   t.outcomes[Skipped].Load(),
	}
	if last := t.lastError.Load(); last != nil {
		s.LastError, s.LastErrorAt = last.class, last.at
	}
	return s
}

// tally is what came of a name's deliveries so far.
type tally struct {
	inFlight          atomic.Int64
	attempts, retries atomic.Uint64
	outcomes          [len(outcomeNames)]atomic.Uint64
	lastError         atomic.Pointer[lastError]
}

type lastError struct {
	class string
	at    time.Time
}

func (t *tally) sent(again bool) {
	t.inFlight.Add(1)
	t.attempts.Add(1)
	if again {
		t.retries.Add(1)
	}
}

func (t *tally) ended(outcome Outcome, err error) {
	t.outcomes[outcome].Add(1)
	class := ErrorClass(err)
	if err != nil && outcome != Skipped && class != ErrorClass(ErrBreakerOpen) { // which would hide why it opened
		t.lastError.Store(&lastError{class, time.Now()})
	}
}
