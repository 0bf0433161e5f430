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

// rounds makes the rounds of all deliveries. River's goroutines share it.
type rounds struct {
	config  *Config
	worker  *fanout.Worker
	sealer  sealer
	journal *river.Journal
	told    sync.Map // by a target's name: when the log last said that it is unknown
}

// work makes one round of a delivery, or of a chain of deliveries that depend on each
// other.
func (rs *rounds) work(ctx context.Context, r river.Round) (v river.Verdict) {
	one := &round{rounds: rs, Round: r}
	defer func() {
		if p := recover(); p != nil { // for example in a user's AEAD
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

// round is one try of a delivery.
type round struct {
	*rounds
	river.Round
	delivery *fanout.Delivery
}

// unreadableWait is how long the queue waits before it tries again to read a job.
const unreadableWait = time.Minute

// unreadable postpones a job that cannot be read. Somebody may still provide the key for
// it.
func (r *round) unreadable(ctx context.Context, err error) river.Verdict {
	if ctx.Err() != nil {
		return river.CutShort(ctx.Err())
	}
	r.config.Logger.ErrorContext(ctx, "durable: a delivery cannot be read; it is kept and tried again every minute",
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

// chain makes deliveries that depend on each other. It continues from what earlier rounds
// noted.
func (r *round) chain(ctx context.Context) river.Verdict {
	past, err := r.past(ctx)
	if err != nil {
		return r.unreadable(ctx, fmt.Errorf("its journal: %w", err))
	}
	var noteFailed atomic.Bool // the journal could not be written
	all, err := r.worker.Deliver(ctx, r.delivery, fanout.Round{Past: past, Note: func(ctx context.Context, result fanout.Result) error {
		err := r.note(ctx, result)
		if err != nil {
			noteFailed.Store(true)
		}
		return err
	}})
	switch {
	case err == nil:
		return r.end(ctx, all, river.Done())
	case noteFailed.Load():
		return r.again(ctx, all, 0, err)
	}
	return r.failed(ctx, all, unfinished(all), err)
}

// unfinished returns the results that keep a chain from being finished. If a saga is
// being undone, its failed steps do not matter any more: only a compensation that failed
// does.
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

// failed decides what follows after a round in which the delivery was not finished.
func (r *round) failed(ctx context.Context, all, failures []fanout.Result, why error) river.Verdict {
	if ctx.Err() != nil { // the queue is closing, or River cancelled the job
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

// tellUnknown logs a warning if this process does not know a target, or cannot look it
// up. There is at most one warning a minute for each target, however many deliveries wait
// for it.
func (r *round) tellUnknown(ctx context.Context, why error) {
	if !errors.Is(why, fanout.ErrUnknownTarget) && !errors.Is(why, fanout.ErrLookup) {
		return
	}
	name := r.delivery.Targets[0]
	now := time.Now()
	last, told := r.told.LoadOrStore(name, now)
	if told && (now.Sub(last.(time.Time)) < time.Minute || !r.told.CompareAndSwap(name, last, now)) { //nolint:forcetypeassert // nothing else is stored
		return // this round or another one has warned not long ago
	}
	r.config.Logger.WarnContext(ctx, "durable: a target is not known to this process; its deliveries wait", "targets", r.delivery.Targets, "error", why)
}

// again asks for another round. After the last round it reports the results to the
// dispatcher, and River turns the job into a dead letter.
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

// end reports the final results to the dispatcher.
func (r *round) end(ctx context.Context, all []fanout.Result, v river.Verdict) river.Verdict {
	for _, result := range all {
		r.worker.Done(ctx, result)
	}
	return v
}

const (
	// mostHint limits how long a target can make us wait by Retry-After.
	mostHint = 24 * time.Hour
	// soon replaces a wait of zero. The due time must still lie in the future when River
	// looks at it.
	soon = 50 * time.Millisecond
)

// next returns when the next round is due: by the schedule, or later if the target asked
// for it.
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

// answerKept is how many bytes of an answer are kept for a round that failed.
const answerKept = 16 << 10

// keep stores failed results for people who inspect a dead letter. If that fails, the
// delivery continues without them.
func (r *round) keep(ctx context.Context, failures []fanout.Result) {
	for _, f := range failures {
		if err := r.write(ctx, river.RoundFailed, f, answerKept); err != nil {
			r.config.Logger.WarnContext(ctx, "durable: the result of a round could not be stored", "dispatch_id", r.Job.Dispatch, "target", f.Target, "error", err)
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

// note stores the result of a step of a saga, or of its compensation.
func (r *round) note(ctx context.Context, result fanout.Result) error {
	kind := river.StepEnded
	if result.Outcome == fanout.Compensated {
		kind = river.StepCompensated
	}
	return r.write(ctx, kind, result, 0)
}

// past returns what was noted in earlier rounds.
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
