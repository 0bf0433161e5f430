package durable

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/riverqueue/river"
	"github.com/tidwall/gjson"

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
func (w *worker) Work(ctx context.Context, j *river.Job[job]) error {
	r := round{q: w.queue, job: j}
	done := w.queue.lanes.work(j.ID, j.Queue, j.Args.names())
	defer done()
	j.Args.notBefore = w.queue.nextRound(j, 0)
	var err error
	if r.submission, err = w.queue.submission(&j.Args); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	ctx = j.Args.within(ctx)
	if j.Args.Target == "" {
		return r.chain(ctx)
	}
	return r.deliver(ctx)
}

// round is one time that a delivery is tried.
type round struct {
	q          *Queue
	job        *river.Job[job]
	submission *fanout.Submission
}

func (r *round) deliver(ctx context.Context) error {
	result := r.q.worker.Deliver(ctx, r.submission, r.job.Args.Target)
	if result.Outcome == fanout.Delivered || result.Outcome == fanout.Degraded {
		return r.end(ctx, []fanout.Result{result}, nil)
	}
	return r.failed(ctx, []fanout.Result{result}, []fanout.Result{result}, result.Err)
}

// chain goes on with deliveries that depend on each other.
func (r *round) chain(ctx context.Context) error {
	kept, err := r.q.openJournal(ctx, r.job.ID, r.submission.DispatchID)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	results, err := r.q.worker.DeliverAll(ctx, r.submission, kept)
	all := results.Sorted()
	if err == nil {
		return r.end(ctx, all, nil)
	}
	var failures []fanout.Result
	for _, result := range all {
		switch result.Outcome {
		case fanout.Failed, fanout.Unknown, fanout.Rejected, fanout.CompensationFailed:
			failures = append(failures, result)
		}
	}
	return r.failed(ctx, all, failures, err)
}

// failed decides what comes after a round that did not bring the delivery to an end.
func (r *round) failed(ctx context.Context, all, failures []fanout.Result, why error) error {
	if ctx.Err() != nil { // closing, or River's own cancellation
		return ctx.Err()
	}
	if fanout.Postponed(why) {
		return river.JobSnooze(r.snooze())
	}
	r.q.keepFailures(ctx, r.job, failures)
	final := len(failures) > 0
	hint := time.Duration(0)
	for _, f := range failures {
		final = final && r.q.config.Final(f)
		hint = max(hint, retryAfter(f.Err))
	}
	if final {
		return r.end(ctx, all, river.JobCancel(why))
	}
	if r.job.Attempt >= r.job.MaxAttempts {
		return r.end(ctx, all, why)
	}
	r.job.Args.notBefore = r.q.nextRound(r.job, hint)
	return why
}

// end tells the dispatcher what became of the deliveries.
func (r *round) end(ctx context.Context, all []fanout.Result, err error) error {
	for _, result := range all {
		r.q.worker.Done(ctx, r.submission, result)
	}
	return err
}

// snooze is how long to leave a target alone whose breaker is open or that is sent
// enough: longer each time, so that a large backlog does not keep the database busy.
func (r *round) snooze() time.Duration {
	times := gjson.GetBytes(r.job.Metadata, "snoozes").Int()
	return jittered(min(2*time.Second<<min(times, 5), time.Minute))
}

// nextRound follows the schedule, and what the target asked for if that is later.
func (q *Queue) nextRound(j *river.Job[job], hint time.Duration) time.Time {
	schedule := q.config.schedule(j.Args.names()[0])
	wait := soon
	if len(schedule) > 0 {
		wait = max(wait, schedule[min(max(j.Attempt, 1), len(schedule))-1])
	}
	return time.Now().Add(jittered(max(wait, hint)))
}

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
	text = strings.ToValidUTF8(err.Error(), "?")
	return cmp.Or(fanout.ErrorClass(err), "_OTHER"), text[:min(len(text), 1000)]
}
