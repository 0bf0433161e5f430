package fanout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Queue keeps submitted deliveries until they are done, and decides when each is made.
// For example, it can make them later, or in another process. The default is
// [NewMemoryQueue].
//
// A queue calls the [Worker] that Start gave it. The dispatcher never asks a queue for
// work. A queue may have further abilities, such as [BacklogReporter]. If it wraps
// another queue and has a method Unwrap() Queue, the abilities of that one are found too.
//
// [github.com/fanout-go/fanout/fanouttest.TestQueue] tests whether a queue keeps this
// contract.
type Queue interface {
	// [New] calls Start once, before any other method. If Start fails, New fails and does
	// not close the queue: the caller of New still owns it.
	Start(*Worker) error
	// Submit accepts all of the deliveries or none. They belong to one dispatch and share
	// their Payload and Options. The error wraps [ErrFull] if there is no room, [ErrClosed]
	// after Close has begun, and [ErrInvalid] for a delivery that this queue cannot keep.
	// The deliveries keep the values of ctx, but do not end with it.
	Submit(ctx context.Context, deliveries []Delivery) error
	// Close stops accepting, and returns when every accepted delivery is done, or is stored
	// so that another process can make it. If ctx ends first, Close cuts short what runs,
	// and returns an [*UndeliveredError] with the deliveries that would be lost. Close may
	// be called more than once and from several goroutines.
	Close(ctx context.Context) error
}

// Delivery is a payload for one target, or for several that depend on each other. The
// dispatcher makes it, and nobody changes it. A queue that stores deliveries can make
// them anew from the exported fields; then their targets are found by name.
type Delivery struct {
	Payload *Payload
	// Targets has one name, or those of all targets that depend on each other, in definition
	// order.
	Targets   []string
	Submitted time.Time
	// Options are those that the submitter gave to the queue.
	Options []QueueOption
	// Chained says that the targets depend on each other, by [Target.After], Compensate or
	// Pivot. A queue that can continue them after a crash sets [Round.Note].
	Chained bool
	// Optional says that the target's failure is no error of the dispatch. If the queue has
	// room for all but this delivery, it leaves this one out and reports it as [Rejected].
	Optional bool
	// Named says that the caller gave the payload its ID. A queue that remembers IDs accepts
	// such a delivery only once.
	Named bool

	position int32      // position of its first target in the dispatch
	chosen   *selection // of the dispatch; nil if a queue made the delivery anew
}

// made returns the delivery's targets, or none if they have to be found by name.
func (d *Delivery) made() []*target {
	if d.chosen == nil {
		return nil
	}
	return d.chosen.targets[d.position:][:len(d.Targets)]
}

// Results returns a result without attempts for each of the delivery's targets. A queue
// uses it with [Rejected] for a delivery that never began, and with [Unknown] for one
// that still runs.
func (d *Delivery) Results(outcome Outcome, reason error) []Result {
	results, targets := make([]Result, len(d.Targets)), d.made()
	for i, name := range d.Targets {
		results[i] = unmade(d.Payload, name, outcome, reason)
		results[i].Optional = d.Optional || (targets != nil && targets[i].Optional)
		results[i].position = d.position + int32(i)
	}
	return results
}

// notMade returns the results of a round that did not begin. A chain with notes is left
// for another round, because only the notes say how far it got.
func (d *Delivery) notMade(r *Round, reason error) (results []Result, left error) {
	results = d.Results(Rejected, reason)
	if r.Note != nil && d.Chained && len(results) > 0 {
		left = results[0].err
	}
	return results, left
}

// Check returns an [*InvalidError] if the delivery has no payload or no target, or has an
// option whose name is not in known. Queues call it in Submit.
func (d *Delivery) Check(known ...string) error {
	switch {
	case d.Payload == nil:
		return invalid("Delivery.Payload", "nil")
	case len(d.Targets) == 0:
		return invalid("Delivery.Targets", "none")
	}
	for _, o := range d.Options {
		if !slices.Contains(known, o.Name) {
			return invalid(o.Name, "this queue does not know the option")
		}
	}
	return nil
}

// Given returns the name of a target whose definition was given in the call, by
// [ToTargets]. Such a target cannot be found by name later. It returns "" if there is
// none.
func (d *Delivery) Given() string {
	for _, t := range d.made() {
		if t.gates == nil && !t.found {
			return t.Name
		}
	}
	return ""
}

// Worker makes and reports deliveries for a [Queue]. It is safe for concurrent use.
type Worker struct {
	deliver func(context.Context, *Delivery, *Round) ([]Result, error)
	done    func(context.Context, Result)
}

// Round is one call of [Worker.Deliver]. The zero value is for a queue that makes each
// delivery once and stores nothing.
type Round struct {
	// Past has the results that Note stored in earlier rounds.
	Past []Result
	// Note stores the result of a target, or of its compensation, before any target that
	// comes after it begins. If it fails, no more targets begin. It is called only for
	// chained deliveries, from several goroutines. If it is nil, nothing is stored, and the
	// delivery cannot be continued later.
	Note func(context.Context, Result) error
	// Patient reports whether the delivery may wait, within its [Policy.Timeout], for
	// example for an open breaker to close. Nil means that it may not.
	Patient func() bool
}

// Deliver makes a delivery, with the retries of its targets' policies. It returns a
// result for each target, in order, when the delivery has ended or ctx cuts it short. It
// never panics.
//
// A chained delivery with [Round.Note] continues from [Round.Past]. If it needs another
// round, the error says why; otherwise the error is nil. It needs one if ctx ended, Note
// failed, a target was [Postponed], or a compensation failed. It also needs one if a
// target failed and nothing was undone, as in a dispatch that is no saga, or after its
// pivot.
func (w *Worker) Deliver(ctx context.Context, d *Delivery, r Round) ([]Result, error) {
	return w.deliver(ctx, d, &r)
}

// Done reports the final result of one target to [Config.OnResult] and, if it failed, to
// [Config.OnDeadLetter]. For every target of an accepted delivery, a queue either calls
// Done once or returns the target in an [*UndeliveredError]. Both happen only if the
// delivery, or its hook, still ran when Close returned.
func (w *Worker) Done(ctx context.Context, r Result) { w.done(ctx, r) }

// Postponed reports whether a delivery was not made for a reason that is temporary and
// not the payload's fault. The reasons are [ErrBreakerOpen], [ErrBulkheadFull],
// [ErrRateLimited], [ErrLookup] and [ErrUnknownTarget], if no attempt was made. A queue
// that can wait tries the delivery again later, and does not count the round.
func Postponed(err error) bool {
	e, ok := lone[*TargetError](err)
	if !ok || e.Attempts != 0 {
		return false
	}
	for _, passing := range []error{ErrBreakerOpen, ErrRateLimited, ErrBulkheadFull, ErrLookup, ErrUnknownTarget} {
		if ours(e.Reason, passing) {
			return true
		}
	}
	return false
}

// BacklogReporter is a [Queue] that reports what it holds, for metrics and
// [Dispatcher.Snapshot]. The queue in memory does.
type BacklogReporter interface {
	// Backlog returns what the queue holds for each target. If it returns an error, the
	// slice is not used.
	Backlog(context.Context) ([]Backlog, error)
}

// Backlog is what a queue has accepted for one target and has not yet done.
type Backlog struct {
	Target      string    `json:"-"`
	Deliveries  int       `json:"deliveries"`
	Oldest      time.Time `json:"oldest,omitzero"`        // when the oldest delivery was submitted
	DeadLetters int       `json:"dead_letters,omitempty"` // zero if the queue stores none
	Held        bool      `json:"held,omitempty"`         // a person has stopped sending
}

// UndeliveredError reports the deliveries that were not done when the time to drain was
// over.
type UndeliveredError struct {
	// Left has the results so far. Outcome is [Rejected] if a delivery never began, and
	// [Unknown] if it may have taken effect. Of targets that depend on each other, all are
	// in Left. For example, those of a saga that was cut short may be [CompensationFailed]
	// or [Skipped], and a person has to look at them.
	Left []Result
	Err  error // the error of Close's context
}

// Error returns one line, which names the first five.
func (e *UndeliveredError) Error() string {
	const most = 5
	var b strings.Builder
	fmt.Fprintf(&b, "fanout: not delivered: %d (%v)", len(e.Left), e.Err)
	for i, left := range e.Left[:min(most, len(e.Left))] {
		sep := ", "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(&b, "%s%s to %s", sep, left.dispatchID(), left.Target)
	}
	if len(e.Left) > most {
		fmt.Fprintf(&b, " and %d more", len(e.Left)-most)
	}
	return b.String()
}

// Unwrap returns Err.
func (e *UndeliveredError) Unwrap() error { return e.Err }

// Mistakes of a queue.
var (
	errNoPayload  = errors.New("the queue gave no payload")
	errNoDelivery = errors.New("fanout: the queue gave no delivery")
)

// submission is one payload that is being submitted. A single delivery is in the same
// piece of memory, to save an allocation.
type submission struct {
	payload Payload
	single  [1]Delivery
}

// deliveries returns one delivery for each target, or one for all if they depend on each
// other.
func (s *submission) deliveries(chosen *selection, named bool, asked []QueueOption) []Delivery {
	n := len(chosen.targets)
	if chosen.graph != nil {
		n = 1
	}
	deliveries := s.single[:]
	if n > 1 {
		deliveries = make([]Delivery, n)
	}
	now := time.Now()
	for i := range deliveries {
		deliveries[i] = Delivery{Payload: &s.payload, Named: named, Submitted: now, Options: asked, chosen: chosen}
		if chosen.graph != nil {
			deliveries[i].Targets, deliveries[i].Chained = chosen.names, true
			continue
		}
		deliveries[i].Targets, deliveries[i].Optional = chosen.names[i:i+1:i+1], chosen.targets[i].Optional
		deliveries[i].position = int32(i)
	}
	return deliveries
}
