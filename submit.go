package fanout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// Submission is one accepted payload, encoded, and where it goes. It is shared
// by all its deliveries: nothing in it may be changed.
type Submission struct {
	DispatchID     string
	CorrelationID  string
	IdempotencyKey string // the payload's own; empty if keys are made of DispatchID
	Submitted      time.Time
	Targets        []string // names

	Payload     any // the value given; nil if that was bytes, or after a restart
	Header      http.Header
	ContentType string
	Body        []byte

	inherited bool      // CorrelationID is in the submitter's context
	targets   []*target // nil after a restart: found by name then
	graph     *graph    // nil if they do not depend on each other
	enough    enough
	terms     *terms // nil if there are none
	job       *job   // nil if it does not wait in memory
}

// Chained reports whether the deliveries depend on each other, by [Target.After],
// Compensate or Pivot: then they are made together, by [Worker.DeliverAll].
func (s *Submission) Chained() bool { return s.graph != nil }

// Repeat is the payload as it was submitted: given to Submit or Dispatch again, with
// [To], its targets get the same keys.
//
//	id, err := d.Submit(ctx, left.Submission.Repeat(), fanout.To(left.Result.Target))
func (s *Submission) Repeat() Payload {
	p := Payload{Body: s.Body, ContentType: s.ContentType, Header: s.Header, IdempotencyKey: s.payloadKey(), CorrelationID: s.CorrelationID}
	if len(s.Body) == 0 {
		p.Body, p.ContentType = nil, ""
	}
	return p
}

// job is a submission in memory, in one piece with what its queue notes of it.
type job struct {
	Submission
	queue  *memoryQueue
	undone int // tasks
}

// payloadKey repeats the submission's keys.
func (s *Submission) payloadKey() string { return cmp.Or(s.IdempotencyKey, s.DispatchID) }

// Submit accepts the payload for delivery in the background and returns the
// dispatch's ID at once. The deliveries keep the context's values, among them
// the correlation ID, but neither its end nor its deadline: each has
// [Policy.Timeout] from when it begins. What became of them is told to
// [Config.OnResult] and [Config.OnDeadLetter].
//
// With the queue in memory a delivery waits, within its Timeout, while its target's
// breaker is open or the retry budget spent, so that a short outage is ridden out.
// It does not if half of the room for its target is taken, or while Close drains:
// then it fails at once, and is a dead letter.
//
// If there is an error, nothing was accepted: the input is refused as by
// [Dispatcher.Dispatch], the queue has no room ([ErrFull]), or the dispatcher is
// closed ([ErrClosed]). An optional target without room refuses nothing: it is
// [Rejected], and told like any other failure. With the queue in memory, what was accepted is lost if
// the process dies; [Dispatcher.Close] waits for it.
func (d *Dispatcher) Submit(ctx context.Context, payload any, options ...Option) (id string, err error) {
	if err := d.begin(); err != nil {
		return "", fmt.Errorf("fanout: %w", err)
	}
	defer d.end()
	s, err := d.plan(ctx, payload, options)
	if err != nil {
		d.telemetry.securityInput(ctx, err)
		return "", err
	}
	if s.enough.successes > 0 {
		return "", invalid("Enough", "is for Dispatch: nobody waits for what is submitted")
	}
	s.Submitted = time.Now()
	err = d.queue.Submit(ctx, s)
	d.telemetry.metrics.submittedTo(ctx, s, err)
	switch {
	case err == nil:
		return s.DispatchID, nil
	case errors.Is(err, ErrInvalid):
		d.telemetry.securityInput(ctx, err)
		return "", err
	}
	return "", fmt.Errorf("fanout: %w", err)
}

// worker is the dispatcher as its queue sees it.
type worker struct{ *Dispatcher }

func (w worker) Deliver(ctx context.Context, s *Submission, name string) Result {
	t, err := w.target(ctx, s, name)
	if err != nil {
		return Result{Target: name, Outcome: Rejected, DispatchID: s.DispatchID, PayloadKey: s.payloadKey(),
			Err: &TargetError{Target: name, Outcome: Rejected, Reason: err}}
	}
	r := w.newDispatch(ctx, []*target{t}, s, nil).run()[name]
	r.position = int32(slices.Index(s.Targets, name)) //nolint:gosec // no dispatch has that many targets
	return r
}

func (w worker) DeliverAll(ctx context.Context, s *Submission, kept Journal) (Results, error) {
	chosen, err := w.targets(ctx, s)
	if err != nil && kept != nil {
		return refusal(s, err), err
	} else if err != nil {
		return refusal(s, err), nil
	}
	ctx, journal := newJournal(ctx, kept)
	defer journal.close()
	if chosen.graph == nil && kept != nil { // their definitions have changed since
		chosen.graph = flatGraph(len(chosen.targets))
	}
	p := w.newDispatch(ctx, chosen.targets, s, chosen.graph)
	p.journal, p.background = journal, true
	results := p.run()
	return results, journal.left()
}

func (w worker) targets(ctx context.Context, s *Submission) (*selection, error) {
	if s.targets != nil {
		return &selection{targets: s.targets, graph: s.graph}, nil
	}
	return w.chooseSome(ctx, []Option{To(s.Targets...)})
}

// refusal rejects all deliveries of a submission.
func refusal(s *Submission, reason error) Results {
	results := make(Results, len(s.Targets))
	for i := range s.Targets {
		results[s.Targets[i]] = s.refused(i, reason)
	}
	return results
}

func (s *Submission) refused(position int, reason error) Result {
	name := s.Targets[position]
	return Result{Target: name, Outcome: Rejected, Optional: s.targets != nil && s.targets[position].Optional, position: int32(position), DispatchID: s.DispatchID, PayloadKey: s.payloadKey(), //nolint:gosec // no dispatch has that many targets
		Err: &TargetError{Target: name, Outcome: Rejected, Reason: reason}}
}

func (w worker) target(ctx context.Context, s *Submission, name string) (*target, error) {
	if t := named(s.targets, name); t != nil {
		return t, nil
	}
	return w.find(ctx, name)
}

func (w worker) Done(ctx context.Context, s *Submission, r Result) {
	ctx = WithCorrelationID(ctx, s.CorrelationID)
	w.telemetry.metrics.finished(ctx, w.labelOf(r.Target), r, w.closing())
	w.call(ctx, "OnResult", w.onResult, s, r)
	if r.dead() {
		w.telemetry.logDeadLetter(ctx, s, r)
		w.call(ctx, "OnDeadLetter", w.onDeadLetter, s, r)
	}
}

// reportUndone has those told that nobody waits for: what a failed saga left behind.
func (d *Dispatcher) reportUndone(ctx context.Context, s *Submission, results Results) {
	for _, r := range results.Sorted() {
		if r.Outcome == CompensationFailed {
			worker{d}.call(context.WithoutCancel(ctx), "OnDeadLetter", d.onDeadLetter, s, r)
		}
	}
}

// call runs the user's hook on a goroutine of its own, so that neither a panic
// nor a Goexit in it is the queue's. There is no result to report a panic in.
func (w worker) call(ctx context.Context, name string, hook func(context.Context, *Submission, Result), s *Submission, r Result) {
	if hook == nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.telemetry.contain(ctx, name, func() { hook(ctx, s, r) })
	}()
	<-done
}
