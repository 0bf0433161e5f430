package durable

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable/internal/river"
)

// rounds makes deliveries, one round after the other.
type rounds struct {
	config  *Config
	worker  *fanout.Worker
	sealer  sealer
	journal *river.Journal
	told    sync.Map // when it was last told that a target is not known, by its name
}

// work makes one round of a delivery, or of several that depend on each other.
func (rs *rounds) work(ctx context.Context, r river.Round) (v river.Verdict) {
	one := &round{rounds: rs, Round: r}
	defer func() {
		if p := recover(); p != nil { // of a user's AEAD, say
			v = river.Again(one.next(0), fmt.Errorf("panic: %v", p))
		}
	}()
	var err error
	if one.delivery, err = rs.sealer.delivery(r.Job); err != nil {
		return one.unreadable(ctx, err)
	}
	ctx = withTrace(ctx, r.Job.Trace)
	if one.delivery.Chained {
		return one.chain(ctx)
	}
	return one.deliver(ctx)
}

// round is one time that a delivery is tried.
type round struct {
	*rounds
	river.Round
	delivery *fanout.Delivery
}

// unreadableWait is how long a job is left alone that cannot be read.
const unreadableWait = time.Minute

// unreadable leaves a job alone: somebody may yet give the key for it.
func (r *round) unreadable(ctx context.Context, err error) river.Verdict {
	if ctx.Err() != nil {
		return river.CutShort(ctx.Err())
	}
	r.config.Logger.ErrorContext(ctx, "durable: what was submitted cannot be read, and is kept until it can",
		"dispatch_id", r.Job.Dispatch, "targets", r.Job.Names(), "error", err)
	return river.PutOff(unreadableWait)
}

func (r *round) deliver(ctx context.Context) river.Verdict {
	all, _ := r.worker.Deliver(ctx, r.delivery, fanout.Round{})
	if result := all[0]; result.Outcome != fanout.Delivered && result.Outcome != fanout.Degraded {
		return r.failed(ctx, all, all, result.Err())
	}
	return r.end(ctx, all, river.Done())
}

// chain goes on with deliveries that depend on each other.
func (r *round) chain(ctx context.Context) river.Verdict {
	past, err := r.past(ctx)
	if err != nil {
		return r.unreadable(ctx, fmt.Errorf("its journal: %w", err))
	}
	var torn atomic.Bool // a step could not be noted
	all, err := r.worker.Deliver(ctx, r.delivery, fanout.Round{Past: past, Note: func(ctx context.Context, result fanout.Result) error {
		err := r.note(ctx, result)
		if err != nil {
			torn.Store(true)
		}
		return err
	}})
	switch {
	case err == nil:
		return r.end(ctx, all, river.Done())
	case torn.Load():
		return r.again(ctx, all, 0, err)
	}
	return r.failed(ctx, all, unfinished(all), err)
}

// unfinished are those that keep a chain from its end. In a saga that is being undone,
// deliveries that failed before do not matter any more.
func unfinished(all []fanout.Result) []fanout.Result {
	undone := slices.ContainsFunc(all, func(r fanout.Result) bool {
		return r.Outcome == fanout.Compensated || r.Outcome == fanout.CompensationFailed
	})
	var left []fanout.Result
	for _, r := range all {
		switch r.Outcome {
		case fanout.Failed, fanout.Unknown, fanout.Rejected:
			if !undone {
				left = append(left, r)
			}
		case fanout.CompensationFailed:
			left = append(left, r)
		}
	}
	return left
}

// failed decides what comes after a round that did not bring the delivery to an end.
func (r *round) failed(ctx context.Context, all, failures []fanout.Result, why error) river.Verdict {
	if ctx.Err() != nil { // closing, or River's own cancellation
		return river.CutShort(ctx.Err())
	}
	if fanout.Postponed(why) {
		r.tellUnknown(ctx, why)
		return river.NotLetThrough()
	}
	r.keep(ctx, failures)
	final := len(failures) > 0
	hint := time.Duration(0)
	for _, f := range failures {
		final = final && r.isFinal(ctx, f)
		hint = max(hint, retryAfter(f.Err()))
	}
	if final {
		return r.end(ctx, all, river.Dead(why))
	}
	return r.again(ctx, all, hint, why)
}

// tellUnknown warns of a target that this process does not know, or cannot look up: once a
// minute, however many deliveries wait for it.
func (r *round) tellUnknown(ctx context.Context, why error) {
	if !errors.Is(why, fanout.ErrUnknownTarget) && !errors.Is(why, fanout.ErrLookup) {
		return
	}
	name := r.delivery.Targets[0]
	now := time.Now()
	if last, told := r.told.Load(name); told && now.Sub(last.(time.Time)) < time.Minute { //nolint:forcetypeassert // nothing else is stored
		return
	}
	r.told.Store(name, now)
	r.config.Logger.WarnContext(ctx, "durable: a target is not known here, and its deliveries wait", "targets", r.delivery.Targets, "error", why)
}

// again asks for another round, if there is one.
func (r *round) again(ctx context.Context, all []fanout.Result, hint time.Duration, why error) river.Verdict {
	v := river.Again(r.next(hint), why)
	if r.Last {
		return r.end(ctx, all, v)
	}
	return v
}

func (r *round) isFinal(ctx context.Context, result fanout.Result) (final bool) {
	defer func() {
		if p := recover(); p != nil {
			r.config.Logger.ErrorContext(ctx, "durable: Config.Final panicked; the delivery is tried again", "panic", fmt.Sprint(p))
		}
	}()
	return r.config.Final(result)
}

// end tells the dispatcher what became of the deliveries.
func (r *round) end(ctx context.Context, all []fanout.Result, v river.Verdict) river.Verdict {
	for _, result := range all {
		r.worker.Done(ctx, result)
	}
	return v
}

const (
	// mostHint bounds what a target asks for.
	mostHint = 24 * time.Hour
	// soon is not yet over when River looks at it.
	soon = 50 * time.Millisecond
)

// next is when the next round is due: by the schedule, or later if the target asks for it.
func (r *round) next(hint time.Duration) time.Time {
	wait := soon
	if names := r.Job.Names(); len(names) > 0 {
		if schedule := r.config.schedule(names[0]); len(schedule) > 0 {
			wait = max(wait, schedule[min(max(r.Number, 1), len(schedule))-1])
		}
	}
	return time.Now().Add(river.Jittered(max(wait, min(hint, mostHint))))
}

func retryAfter(err error) time.Duration {
	if status, ok := errors.AsType[*fanout.StatusError](err); ok {
		return status.RetryAfter
	}
	return 0
}

// answerKept is how many bytes are kept of an answer in a round that failed.
const answerKept = 16 << 10

// keep is for people who look into a dead letter. If it fails, the delivery goes on.
func (r *round) keep(ctx context.Context, failures []fanout.Result) {
	for _, f := range failures {
		if err := r.write(ctx, river.RoundFailed, f, answerKept); err != nil {
			r.config.Logger.WarnContext(ctx, "durable: what became of a round is not kept", "dispatch_id", r.Job.Dispatch, "target", f.Target, "error", err)
		}
	}
}

func (r *round) write(ctx context.Context, kind string, result fanout.Result, mostBody int) error {
	entry, err := r.sealer.entry(kind, r.Job.Dispatch, result, mostBody)
	if err != nil {
		return err
	}
	return r.journal.Write(ctx, r.ID, entry)
}

// note keeps a step of a saga, or its compensation.
func (r *round) note(ctx context.Context, result fanout.Result) error {
	kind := river.StepEnded
	if result.Outcome == fanout.Compensated {
		kind = river.StepCompensated
	}
	return r.write(ctx, kind, result, 0)
}

// past is what was noted in earlier rounds.
func (r *round) past(ctx context.Context) ([]fanout.Result, error) {
	entries, err := r.journal.Read(ctx, r.ID, river.StepEnded, river.StepCompensated)
	if err != nil {
		return nil, err
	}
	past := make([]fanout.Result, len(entries))
	for i, e := range entries {
		if past[i], err = r.sealer.result(e, r.Job.Dispatch); err != nil {
			return nil, err
		}
	}
	return past, nil
}
