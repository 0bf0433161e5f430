package fanout

import (
	"context"
	"time"

	"github.com/fanout-go/fanout/internal/ability"
	"github.com/fanout-go/fanout/internal/otel"
)

// Snapshot is how a dispatcher's configured targets are at one moment, in
// definition order, each followed by its fallbacks and compensation. It holds no address and nothing a target has said.
type Snapshot struct {
	Time time.Time `json:"time"`
	// BacklogError is the [Class] of the queue's error, if its backlog cannot be read.
	// Then no target has a Backlog.
	BacklogError Class            `json:"backlog_error,omitempty"`
	Targets      []TargetSnapshot `json:"targets"`
}

// TargetSnapshot is how one target is. Counts are since it was configured, or its
// definition changed so that its breaker started anew.
type TargetSnapshot struct {
	Target   string       `json:"target"`
	Optional bool         `json:"optional,omitempty"`
	Breaker  BreakerState `json:"breaker"`
	InFlight int64        `json:"in_flight"` // attempts
	Waiting  int64        `json:"waiting"`   // attempts, for the bulkhead

	// Backlog is what the queue holds for the target; nil if the queue cannot tell.
	Backlog *Backlog `json:"backlog,omitempty"`

	Attempts  uint64 `json:"attempts"`
	Retries   uint64 `json:"retries"`
	Delivered uint64 `json:"delivered"` // deliveries, as all below
	Failed    uint64 `json:"failed"`
	Unknown   uint64 `json:"unknown"`
	Rejected  uint64 `json:"rejected"`
	Degraded  uint64 `json:"degraded"`
	Skipped   uint64 `json:"skipped"`

	LastError   Class     `json:"last_error,omitempty"` // not that the breaker was open
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
}

// snapshot is how the targets are, with what the queue holds for each.
func snapshot(targets []*target, backlog map[string]Backlog, err error) Snapshot {
	s := Snapshot{Time: time.Now(), Targets: []TargetSnapshot{}, BacklogError: ClassOf(err)}
	for t := range withOthers(targets) {
		one := t.gates.snapshot()
		one.Target, one.Optional = t.Name, t.Optional
		if backlog != nil {
			b := backlog[t.Name]
			b.Target = t.Name
			one.Backlog = &b
		}
		s.Targets = append(s.Targets, one)
	}
	return s
}

// backlogOf is what a queue holds for each target; nil if it cannot tell.
func backlogOf(ctx context.Context, queue Queue) (map[string]Backlog, error) {
	reporter, ok := ability.Of[BacklogReporter](queue)
	if !ok {
		return nil, nil
	}
	all, err := reporter.Backlog(ctx)
	if err != nil {
		return nil, err
	}
	byTarget := make(map[string]Backlog, len(all))
	for _, b := range all {
		byTarget[b.Target] = b
	}
	return byTarget, nil
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
		s.LastError, s.LastErrorAt = Class(last.class), last.at
	}
	return s
}

// gaugesOf are the targets that have series of their own.
func gaugesOf(targets []*target) []otel.Gauges {
	var all []otel.Gauges
	for t := range withOthers(targets) {
		if t.shown.Label != otel.OtherLabel {
			all = append(all, otel.Gauges{Label: t.shown.Label, Breaker: stateValues[t.gates.breaker.state()],
				InFlight: t.gates.tally.inFlight.Load(), Waiting: t.gates.bulkhead.queued()})
		}
	}
	return all
}

var stateValues = map[BreakerState]int64{BreakerClosed: 0, BreakerHalfOpen: 1, BreakerOpen: 2}

// byLabel adds a backlog up for metrics, with a zero for every configured target.
func byLabel(backlog map[string]Backlog, configured []string, label func(string) string) map[string]otel.Backlog {
	all := map[string]otel.Backlog{}
	for _, name := range configured {
		all[label(name)] = otel.Backlog{}
	}
	for name, b := range backlog {
		one := all[label(name)]
		one.Deliveries += int64(b.Deliveries)
		one.DeadLetters += int64(b.DeadLetters)
		if b.Deliveries > 0 {
			one.Oldest = max(one.Oldest, time.Since(b.Oldest))
		}
		all[label(name)] = one
	}
	return all
}
