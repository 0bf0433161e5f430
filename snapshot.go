package fanout

import (
	"context"
	"time"

	"github.com/fanout-go/fanout/internal/ability"
	"github.com/fanout-go/fanout/internal/otel"
)

// Snapshot shows the state of a dispatcher's configured targets at one moment. They are
// in the order of their definitions, each followed by its fallbacks and its compensation.
// A snapshot has no addresses, and no texts from targets.
type Snapshot struct {
	Time time.Time `json:"time"`
	// BacklogError is the class of the queue's error if its backlog could not be read. In
	// that case no target has a Backlog. Empty if there was no error.
	BacklogError Class            `json:"backlog_error,omitempty"`
	Targets      []TargetSnapshot `json:"targets"`
}

// TargetSnapshot shows the state of one target. The counts begin when the target is
// configured. They begin again when its definition changes so that its breaker starts
// anew.
type TargetSnapshot struct {
	Target   string       `json:"target"`
	Optional bool         `json:"optional,omitempty"`
	Breaker  BreakerState `json:"breaker"`
	InFlight int64        `json:"in_flight"` // attempts that are running
	Waiting  int64        `json:"waiting"`   // attempts that wait for the bulkhead

	// Backlog is what the queue holds for the target. It is nil if the queue cannot report
	// it.
	Backlog *Backlog `json:"backlog,omitempty"`

	Attempts  uint64 `json:"attempts"`
	Retries   uint64 `json:"retries"`
	Delivered uint64 `json:"delivered"` // this and the counts below are deliveries
	Failed    uint64 `json:"failed"`
	Unknown   uint64 `json:"unknown"`
	Rejected  uint64 `json:"rejected"`
	Degraded  uint64 `json:"degraded"`
	Skipped   uint64 `json:"skipped"`

	LastError   Class     `json:"last_error,omitempty"` // ignores rejections by an open breaker
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
}

// snapshot returns the state of the targets, with what the queue holds for each.
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

// backlogOf returns what a queue holds for each target. It is nil if the queue cannot
// report it.
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

// gaugesOf returns the values of the targets that have time series of their own.
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

// byLabel adds up a backlog for metrics. Every configured target is in it, with zero if
// the queue holds nothing for it.
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
