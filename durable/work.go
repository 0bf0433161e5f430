package durable

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/riverqueue/river"

	"github.com/fanout-go/fanout"
)

// worker makes deliveries for River.
type worker struct {
	river.WorkerDefaults[job]
	queue *Queue
}

// Timeout implements river.Worker: the targets' own rule.
func (*worker) Timeout(*river.Job[job]) time.Duration { return -1 }

// NextRetry implements river.Worker.
func (*worker) NextRetry(j *river.Job[job]) time.Time { return j.Args.notBefore }

// Work implements river.Worker: one round of a delivery.
func (w *worker) Work(ctx context.Context, j *river.Job[job]) (err error) {
	defer func() {
		if p := recover(); p != nil { // of a user's AEAD, say
			err = fmt.Errorf("panic: %v", p)
		}
		err = storable(err)
	}()
	names := j.Args.names()
	defer w.queue.lanes.work(j.ID, j.Queue, names)()
	if w.queue.lanes.holds(names) {
		return river.JobSnooze(holdSnooze)
	}
	j.Args.notBefore = w.queue.nextRound(j, 0)
	r := round{q: w.queue, job: j}
	if r.submission, err = w.queue.submission(&j.Args); err != nil {
		return r.unreadable(ctx, err)
	}
	ctx = j.Args.within(ctx)
	if j.Args.Target == "" {
		return r.chain(ctx)
	}
	return r.deliver(ctx)
}

const (
	holdSnooze       = 15 * time.Second // if its lane is not shut, or it is resumed, before
	unreadableSnooze = time.Minute
)

// storable is an error as River can write it to every database: one that it cannot write
// would keep it from noting all that ended at the same time.
func storable(err error) error {
	var snoozed *river.JobSnoozeError
	var cancelled *river.JobCancelError
	switch {
	case err == nil, errors.As(err, &snoozed):
		return err
	case errors.As(err, &cancelled):
		return river.JobCancel(errors.New(clean(errors.Unwrap(cancelled).Error())))
	case errors.Is(err, context.Canceled): // by which River knows that it was cut short
		return &cutShort{clean(err.Error())}
	}
	return errors.New(clean(err.Error()))
}

type cutShort struct{ text string }

func (e *cutShort) Error() string { return e.text }
func (e *cutShort) Unwrap() error { return context.Canceled }

// round is one time that a delivery is tried.
type round struct {
	q          *Queue
	job        *river.Job[job]
	submission *fanout.Submission
}

// unreadable leaves a payload alone that somebody may yet give the key for.
func (r *round) unreadable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.q.logger.ErrorContext(ctx, "durable: what was submitted cannot be read, and is kept until it can",
		"dispatch_id", r.job.Args.Dispatch, "targets", r.job.Args.names(), "error", err)
	return river.JobSnooze(jittered(unreadableSnooze))
}

func (r *round) deliver(ctx context.Context) error {
	result := r.q.dispatcher().Deliver(ctx, r.submission, r.job.Args.Target)
	if result.Outcome != fanout.Delivered && result.Outcome != fanout.Degraded {
		return r.failed(ctx, []fanout.Result{result}, []fanout.Result{result}, result.Err)
	}
	if key := orderKey(r.job.Metadata); key != "" {
		defer r.q.completeInOrder(ctx, r.job.ID, orderedLane{r.job.Queue, key})
	}
	return r.end(ctx, []fanout.Result{result}, nil)
}

// chain goes on with deliveries that depend on each other.
func (r *round) chain(ctx context.Context) error {
	kept, err := r.q.openJournal(ctx, r.job.ID, r.submission.DispatchID)
	if err != nil {
		return r.unreadable(ctx, fmt.Errorf("its journal: %w", err))
	}
	results, err := r.q.dispatcher().DeliverAll(ctx, r.submission, kept)
	all := results.Sorted()
	switch {
	case err == nil:
		return r.end(ctx, all, nil)
	case kept.torn.Load():
		return r.again(ctx, all, 0, err)
	}
	return r.failed(ctx, all, unfinished(all), err)
}

// unfinished are those that keep a chain from its end. A saga that is being undone has
// no use for what failed before.
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
func (r *round) failed(ctx context.Context, all, failures []fanout.Result, why error) error {
	if ctx.Err() != nil { // closing, or River's own cancellation
		return ctx.Err()
	}
	if fanout.Postponed(why) {
		return river.JobSnooze(jittered(r.q.lanes.postponed(r.job.Queue, r.job.Args.names())))
	}
	r.q.lanes.letThrough(r.job.Queue)
	r.q.keepFailures(ctx, r.job, failures)
	final := len(failures) > 0
	hint := time.Duration(0)
	for _, f := range failures {
		final = final && r.isFinal(ctx, f)
		hint = max(hint, retryAfter(f.Err))
	}
	if final {
		return r.end(ctx, all, river.JobCancel(why))
	}
	if errors.Is(why, fanout.ErrInvalid) { // by a definition, which somebody may mend
		r.q.logger.WarnContext(ctx, "durable: a delivery is refused here, and tried again", "dispatch_id", r.job.Args.Dispatch, "targets", r.job.Args.names(), "error", why)
	}
	return r.again(ctx, all, hint, why)
}

// again has another round come, if there is one.
func (r *round) again(ctx context.Context, all []fanout.Result, hint time.Duration, why error) error {
	if r.job.Attempt >= r.job.MaxAttempts {
		return r.end(ctx, all, why)
	}
	r.job.Args.notBefore = r.q.nextRound(r.job, hint)
	return why
}

func (r *round) isFinal(ctx context.Context, result fanout.Result) (final bool) {
	defer func() {
		if p := recover(); p != nil {
			r.q.logger.ErrorContext(ctx, "durable: Config.Final panicked; the delivery is tried again", "panic", fmt.Sprint(p))
		}
	}()
	return r.q.config.Final(result)
}

// end tells the dispatcher what became of the deliveries.
func (r *round) end(ctx context.Context, all []fanout.Result, err error) error {
	r.q.lanes.letThrough(r.job.Queue)
	for _, result := range all {
		r.q.dispatcher().Done(ctx, r.submission, result)
	}
	return err
}

// nextRound follows the schedule, and what the target asked for if that is later.
func (q *Queue) nextRound(j *river.Job[job], hint time.Duration) time.Time {
	schedule := q.config.schedule(j.Args.names()[0])
	wait := soon
	if len(schedule) > 0 {
		wait = max(wait, schedule[min(max(j.Attempt, 1), len(schedule))-1])
	}
	return time.Now().Add(jittered(max(wait, min(hint, mostHint))))
}

// mostHint bounds what a target asks for.
const mostHint = 24 * time.Hour

// soon is not yet over when River looks at it.
const soon = 50 * time.Millisecond

func jittered(d time.Duration) time.Duration { return d + rand.N(d/5+1) }

func retryAfter(err error) time.Duration {
	if status, ok := errors.AsType[*fanout.StatusError](err); ok {
		return status.RetryAfter
	}
	return 0
}

// describe is what is kept of an error, in the clear: errors hold no secrets.
func describe(err error) (class, text string) {
	if err == nil {
		return "", ""
	}
	return cmp.Or(fanout.ErrorClass(err), "_OTHER"), clean(err.Error())
}

const mostText = 1000 // bytes

// clean is a text that every database takes.
func clean(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text[:min(len(text), mostText)], "?"), "\x00", "?")
}
