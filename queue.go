package fanout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Queue keeps submitted deliveries until they are done, and decides when each is
// made: several at once per target, or later, or in another process. The one used by
// default keeps them in memory, see [NewMemoryQueue].
//
// A queue owns the scheduling and calls the [Worker] it was started with; the
// dispatcher never asks it for work. What a queue can do besides is found by
// interfaces such as [BacklogReporter], also in a queue that another one wraps and
// returns from a method Unwrap() Queue.
//
// [github.com/fanout-go/fanout/fanouttest.TestQueue] holds a queue to this contract.
type Queue interface {
	// Start is called once, by [New], before anything else. If it fails, the queue is
	// not closed by New: whoever made it does that.
	Start(*Worker) error
	// Submit accepts all of the deliveries or none. They are of one dispatch and share
	// their Payload and Options. It returns an error that wraps [ErrFull] if there is no
	// room, [ErrClosed] after Close has begun, and [ErrInvalid] for what it does not
	// know how to keep. What ctx carries is for the deliveries, its end is not.
	Submit(ctx context.Context, deliveries []Delivery) error
	// Close stops accepting, and returns when all that was accepted is done, or
	// safely kept. If ctx ends before, what runs is cut short, and the error is an
	// [*UndeliveredError] with all that is lost without the caller. Close may be
	// called more than once and from several goroutines.
	Close(ctx context.Context) error
}

// Delivery is a payload on its way to one target, or to several that depend on each
// other and are made together. The dispatcher makes it, and nothing in it is changed
// after that. A queue that keeps deliveries elsewhere than in memory makes it again
// from its exported fields: then targets are found by their names.
type Delivery struct {
	Payload *Payload
	// Targets are one name, or all that depend on each other, in definition order.
	Targets   []string
	Submitted time.Time
	// Options are what the submitter asked of the queue.
	Options []QueueOption
	// Chained is that the targets depend on each other, by [Target.After], Compensate
	// or Pivot. A queue that goes on with them after a crash gives [Round.Note].
	Chained bool
	// Optional is that the target's failure is no error of the dispatch: if there is
	// room for all but this one, it is left out, and reported as [Rejected].
	Optional bool
	// Named is that the caller gave the payload its ID: a queue that remembers accepts
	// it once.
	Named bool

	position int32      // of its first target in the dispatch
	chosen   *selection // of the dispatch; nil if it was made again: then found by name
}

// made are its targets, none if they are found by name.
func (d *Delivery) made() []*target {
	if d.chosen == nil {
		return nil
	}
	return d.chosen.targets[d.position:][:len(d.Targets)]
}

// Results returns a result for each of the delivery's targets, of which nothing more is
// known: [Rejected] for one that was never begun, [Unknown] for one that is still out.
func (d *Delivery) Results(outcome Outcome, reason error) []Result {
	results, targets := make([]Result, len(d.Targets)), d.made()
	for i, name := range d.Targets {
		results[i] = unmade(d.Payload, name, outcome, reason)
		results[i].Optional = d.Optional || (targets != nil && targets[i].Optional)
		results[i].position = d.position + int32(i)
	}
	return results
}

// notMade is what a round comes to that was not made. A chain that is noted is left for
// another round: only that one knows how far it got.
func (d *Delivery) notMade(r *Round, reason error) (results []Result, left error) {
	results = d.Results(Rejected, reason)
	if r.Note != nil && d.Chained && len(results) > 0 {
		left = results[0].err
	}
	return results, left
}

// Check is the error of a queue for a delivery that is not whole, or has an option that
// the queue does not know: known names those it does. The error is an [*InvalidError].
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

// Given names a target whose definition was given in the call, by [ToTargets], so that
// nobody finds it by name; empty if there is none.
func (d *Delivery) Given() string {
	for _, t := range d.made() {
		if t.gates == nil && !t.found {
			return t.Name
		}
	}
	return ""
}

// Worker is a dispatcher as its [Queue] sees it. It is safe for concurrent use.
type Worker struct {
	deliver func(context.Context, *Delivery, *Round) ([]Result, error)
	done    func(context.Context, Result)
}

// Round is one time that a delivery is made. The zero value is for a delivery that is
// made once, and for which nothing is kept.
type Round struct {
	// Past is what Note was given in earlier rounds.
	Past []Result
	// Note keeps what became of a target, or of its compensation, for good, before
	// anything that comes after it begins. If it fails, nothing more is begun. It is
	// called from several goroutines, for chained deliveries alone. Nil keeps nothing:
	// then there is no going on later.
	Note func(context.Context, Result) error
	// Patient reports whether the delivery may wait, within its [Policy.Timeout], before
	// a gate that is shut, such as an open breaker. Nil means that it may not.
	Patient func() bool
}

// Deliver makes a delivery, with the retries of its targets' policies, and returns a
// result for each target, in order, when it has ended or ctx cuts it short. It never
// panics.
//
// A chained delivery with [Round.Note] goes on from what was noted, and may leave some
// for another round: then the error says why. It does so if ctx ends, if a note cannot be
// kept, if a target is [Postponed], and if one failed for good or could not be compensated
// and there is no way but to try again. In any other case the error is nil.
func (w *Worker) Deliver(ctx context.Context, d *Delivery, r Round) ([]Result, error) {
	return w.deliver(ctx, d, &r)
}

// Done reports the final result of one target to [Config.OnResult] and, if it failed, to
// [Config.OnDeadLetter]. Every target of every accepted delivery ends with one call, or
// in an [*UndeliveredError]; in both only if what was out, or its hook, outlasted Close.
func (w *Worker) Done(ctx context.Context, r Result) { w.done(ctx, r) }

// Postponed reports whether a delivery was not made for a reason that passes, and that
// says nothing about the payload: its target's breaker was open, its bulkhead full, its
// rate limit used up, or the target could not be looked up or is not known to this
// process. A queue that can wait tries it again later, and counts nothing.
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

// BacklogReporter is a [Queue] that can tell what it holds, for metrics and
// [Dispatcher.Snapshot]. The one in memory does.
type BacklogReporter interface {
	// Backlog returns what there is for each target. If it cannot be told, there is an
	// error, and nothing else.
	Backlog(context.Context) ([]Backlog, error)
}

// Backlog is what a queue has accepted for one target and not yet done.
type Backlog struct {
	Target      string    `json:"-"`
	Deliveries  int       `json:"deliveries"`
	Oldest      time.Time `json:"oldest,omitzero"`        // when its oldest was submitted
	DeadLetters int       `json:"dead_letters,omitempty"` // kept by a queue that keeps them
	Held        bool      `json:"held,omitempty"`         // nothing is sent for now
}

// UndeliveredError names what was left when the time to drain was over.
type UndeliveredError struct {
	// Left are the results so far. Of a target that stands alone, Outcome is [Rejected] if
	// its delivery was never begun, and [Unknown] if it may have taken effect. Targets that
	// depend on each other are all there, such as those of a saga that was cut short: some
	// may be [CompensationFailed] or [Skipped], and a person has to look at them.
	Left []Result
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
		fmt.Fprintf(&b, "%s%s to %s", sep, left.dispatchID(), left.Target)
	}
	if len(e.Left) > most {
		fmt.Fprintf(&b, " and %d more", len(e.Left)-most)
	}
	return b.String()
}

// Unwrap returns Err.
func (e *UndeliveredError) Unwrap() error { return e.Err }

// What a queue did wrong.
var (
	errNoPayload  = errors.New("the queue gave no payload")
	errNoDelivery = errors.New("fanout: the queue gave no delivery")
)

// submission is one payload that is being submitted, in one piece with its delivery if it
// has one.
type submission struct {
	payload Payload
	single  [1]Delivery
}

// deliveries are one for each target, or one for all if they depend on each other.
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
