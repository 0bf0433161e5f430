package river

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/riverqueue/river"
)

// Work makes one round of a delivery, and returns what should follow. It must not panic.
type Work func(context.Context, Round) Verdict

// Round is one try of a delivery.
type Round struct {
	ID     int64 // of the job
	Job    *Job
	Number int  // 1 for the first round
	Last   bool // no round follows this one
}

// Verdict says what follows after a round. Make one with [Done], [Again], [Dead],
// [PutOff], [NotLetThrough] or [CutShort].
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

// Done says that the delivery is finished.
func Done() Verdict { return Verdict{next: done} }

// Again asks for another round at the given time. After the last round the job becomes a
// dead letter.
func Again(at time.Time, why error) Verdict { return Verdict{next: again, at: at, why: why} }

// Dead says that the job becomes a dead letter now.
func Dead(why error) Verdict { return Verdict{next: dead, why: why} }

// PutOff asks for the same round again, after the wait.
func PutOff(wait time.Duration) Verdict { return Verdict{next: putOff, wait: wait} }

// NotLetThrough asks for the same round again, because a gate of the target, such as an
// open breaker, is closed.
func NotLetThrough() Verdict { return Verdict{next: notLetThrough} }

// CutShort says that the round's context ended. The round is made again, by any process.
func CutShort(why error) Verdict { return Verdict{next: cutShort, why: why} }

// holdWait is how long a job is put off if its target is held. If the target is resumed
// earlier, the job becomes due at once.
const holdWait = 15 * time.Second

// worker is called by River for every job.
type worker struct {
	river.WorkerDefaults[Job]
	work    Work
	lanes   *lanes
	holds   *Holds
	running *running
	order   *order
}

// Timeout implements river.Worker. There is none, because the target's own Timeout
// applies.
func (*worker) Timeout(*river.Job[Job]) time.Duration { return -1 }

// NextRetry implements river.Worker.
func (*worker) NextRetry(j *river.Job[Job]) time.Time { return j.Args.next }

// Work implements river.Worker.
func (w *worker) Work(ctx context.Context, j *river.Job[Job]) error {
	names := j.Args.Names()
	defer w.running.begin(j.ID)()
	defer w.lanes.begin(j.Queue, names)()
	if w.holds.any(names) { // the lane will be shut soon
		return river.JobSnooze(holdWait)
	}
	return w.follow(ctx, j, w.work(ctx, Round{j.ID, &j.Args, j.Attempt, j.Attempt >= j.MaxAttempts}))
}

// follow tells River what follows after the round.
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

// Jittered adds up to a fifth at random. Deliveries that failed at the same time are thus
// not tried again at the same time.
func Jittered(d time.Duration) time.Duration { return d + rand.N(d/5+1) }

// storable returns an error that River can store in every database. River stores the ends
// of several jobs together: if it could not store one of them, it would store none.
func storable(err error) error {
	text := Clean(err.Error())
	if errors.Is(err, context.Canceled) { // River recognizes by it that a job was cut short
		return &cancelledError{text}
	}
	return errors.New(text)
}

type cancelledError struct{ text string }

func (e *cancelledError) Error() string { return e.text }
func (e *cancelledError) Unwrap() error { return context.Canceled }

const mostText = 1000 // bytes

// Clean makes a text that every database can store: at most 1,000 bytes, UTF-8, no NUL.
func Clean(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text[:min(len(text), mostText)], "?"), "\x00", "?")
}
