package river

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/riverqueue/river"
)

// Work makes one round of a delivery, and says what comes after it. It must not panic.
type Work func(context.Context, Round) Verdict

// Round is one time that a delivery is tried.
type Round struct {
	ID     int64 // of the job
	Job    *Job
	Number int  // the first one is 1
	Last   bool // there is none after it
}

// Verdict says what comes after a round. Make one with [Done], [Again], [Dead], [PutOff],
// [NotLetThrough] or [CutShort].
type Verdict struct {
	next next
	why  error
	at   time.Time
	wait time.Duration
}

type next int

const (
	again next = iota
	done
	dead
	putOff
	notLetThrough
	cutShort
)

// Done says that the delivery has come to a good end.
func Done() Verdict { return Verdict{next: done} }

// Again asks for another round at that time. After the last round the job is a dead letter.
func Again(at time.Time, why error) Verdict { return Verdict{next: again, at: at, why: why} }

// Dead says that the job is a dead letter now.
func Dead(why error) Verdict { return Verdict{next: dead, why: why} }

// PutOff asks for the same round again, later.
func PutOff(wait time.Duration) Verdict { return Verdict{next: putOff, wait: wait} }

// NotLetThrough asks for the same round again, as the target lets nothing through.
func NotLetThrough() Verdict { return Verdict{next: notLetThrough} }

// CutShort says that the round's context ended: it is to be made again, by any process.
func CutShort(why error) Verdict { return Verdict{next: cutShort, why: why} }

// holdWait is how long a job is put off whose target is held. It is made earlier if the
// target is resumed.
const holdWait = 15 * time.Second

// worker has River's jobs worked.
type worker struct {
	river.WorkerDefaults[Job]
	work    Work
	lanes   *lanes
	holds   *Holds
	running *running
	order   *order
}

// Timeout implements river.Worker: a target's own rules.
func (*worker) Timeout(*river.Job[Job]) time.Duration { return -1 }

// NextRetry implements river.Worker.
func (*worker) NextRetry(j *river.Job[Job]) time.Time { return j.Args.next }

// Work implements river.Worker.
func (w *worker) Work(ctx context.Context, j *river.Job[Job]) error {
	names := j.Args.Names()
	defer w.running.begin(j.ID)()
	defer w.lanes.begin(j.Queue, names)()
	if w.holds.any(names) { // the lane is about to be shut
		return river.JobSnooze(holdWait)
	}
	return w.follow(ctx, j, w.work(ctx, Round{j.ID, &j.Args, j.Attempt, j.Attempt >= j.MaxAttempts}))
}

// follow tells River what comes next.
func (w *worker) follow(ctx context.Context, j *river.Job[Job], v Verdict) error {
	switch v.next {
	case notLetThrough:
		return river.JobSnooze(Jittered(w.lanes.notLetThrough(j.Queue, j.Args.Names())))
	case putOff:
		return river.JobSnooze(Jittered(v.wait))
	case cutShort:
		return storable(v.why)
	}
	w.lanes.letThrough(j.Queue)
	switch v.next {
	case done:
		if key := orderKey(j.Metadata); key != "" {
			w.order.completed(ctx, j.ID, sequence{j.Queue, key})
		}
		return nil
	case dead:
		return river.JobCancel(errors.New(Clean(v.why.Error())))
	}
	j.Args.next = v.at
	return storable(v.why)
}

// Jittered adds up to a fifth, so that what failed together is not tried again together.
func Jittered(d time.Duration) time.Duration { return d + rand.N(d/5+1) }

// storable is an error that River can write to every database. One that it cannot write
// would keep it from writing the end of all jobs that ended at the same time.
func storable(err error) error {
	text := Clean(err.Error())
	if errors.Is(err, context.Canceled) { // by which River knows a job that was cut short
		return &cancelledError{text}
	}
	return errors.New(text)
}

type cancelledError struct{ text string }

func (e *cancelledError) Error() string { return e.text }
func (e *cancelledError) Unwrap() error { return context.Canceled }

const mostText = 1000 // bytes

// Clean is a text that every database takes: UTF-8 without NUL, 1,000 bytes at most.
func Clean(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text[:min(len(text), mostText)], "?"), "\x00", "?")
}
