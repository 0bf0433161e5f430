package fanout

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Queue keeps submitted work until it is done and decides when each delivery is
// made: several attempts at once per target, or later, or in another process.
// The one used by default keeps it in memory, see [NewMemoryQueue].
//
// A queue owns the scheduling and calls the [Worker] it was started with; the
// dispatcher never asks it for work.
type Queue interface {
	// Start is called once, by [New], before anything else.
	Start(Worker) error
	// Submit accepts all deliveries of s or none. It returns an error that wraps
	// [ErrFull] if there is no room, and [ErrClosed] after Close has begun. What
	// ctx carries is for the deliveries, its end is not.
	Submit(ctx context.Context, s *Submission) error
	// Close stops accepting, and returns when all that was accepted is done, or
	// safely kept. If ctx ends before, what runs is cut short, and the error is an
	// [*UndeliveredError] with all that is lost without the caller. Close may be
	// called more than once and from several goroutines.
	Close(ctx context.Context) error
}

// BacklogReporter is a [Queue] that can tell what it holds, for metrics and
// [Dispatcher.Snapshot]. The one in memory does.
type BacklogReporter interface {
	Backlog(context.Context) ([]Backlog, error)
}

// Backlog is what a queue has accepted for one target and not yet done.
type Backlog struct {
	Target      string
	Deliveries  int
	Oldest      time.Time // when its oldest was submitted
	DeadLetters int       // kept by a queue that keeps them
	Held        bool      // nothing is sent for now
}

// Worker is a dispatcher as a [Queue] sees it. It is safe for concurrent use.
type Worker interface {
	// Deliver makes one of a submission's deliveries, retries included, and
	// returns when it has ended or ctx cuts it short. It never panics.
	Deliver(ctx context.Context, s *Submission, target string) Result
	// DeliverAll makes all deliveries of a submission that is
	// [Submission.Chained], like Deliver. With a journal it goes on from what that
	// has, and may leave some for later: then the error says why. It does so if ctx
	// ends, if a note cannot be kept, if a target is [Postponed], and if one failed
	// for good or could not be compensated and there is no way but to try again.
	// Without a journal the error is nil.
	DeliverAll(ctx context.Context, s *Submission, journal Journal) (Results, error)
	// Done reports the final result of a delivery to [Config.OnResult] and, if it
	// failed, to [Config.OnDeadLetter]. Every accepted delivery ends with one
	// call, or in an [*UndeliveredError]; in both only if what was out, or its hook,
	// outlasted Close.
	Done(ctx context.Context, s *Submission, r Result)
}

// Undelivered is a delivery that was accepted but not made.
type Undelivered struct {
	Submission *Submission
	// Result is that of the delivery so far. Its Outcome is [Rejected] if it was
	// never begun, and [Unknown] if it may have taken effect.
	Result Result
}

// UndeliveredError names what was left when the time to drain was over.
type UndeliveredError struct {
	Left []Undelivered
	Err  error // why the time was over
}

// Error is one line, which names the first few.
func (e *UndeliveredError) Error() string {
	const most = 5
	var b strings.Builder
	fmt.Fprintf(&b, "fanout: not delivered: %d (%v)", len(e.Left), e.Err)
	for i, left := range e.Left[:min(most, len(e.Left))] {
		sep := ", "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(&b, "%s%s to %s", sep, left.Submission.DispatchID, left.Result.Target)
	}
	if len(e.Left) > most {
		fmt.Fprintf(&b, " and %d more", len(e.Left)-most)
	}
	return b.String()
}

// Unwrap returns Err.
func (e *UndeliveredError) Unwrap() error { return e.Err }
