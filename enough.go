package fanout

import "context"

// enough is how many deliveries a dispatch waits for. The zero value is all.
type enough struct {
	successes int
	leaveRest bool
}

// Enough has Dispatch return when n targets have been delivered to: 1 for any one, or
// a quorum. What is still under way is then cut short, and its result wraps
// [ErrNotNeeded]. The error is nil if there were n, whichever targets they are, and
// all results are waited for if there cannot be n any more. It is for Dispatch
// alone, and not for targets that depend on each other.
func Enough(n int) Option { return Option{enough: &enough{successes: n}} }

// EnoughLeaveRest is [Enough], but what is still under way goes on in the background,
// not bound by the caller's context. Its result is [Unknown] and wraps
// [ErrUnderWay]; the final one is told to [Config.OnResult] and
// [Config.OnDeadLetter]. [Dispatcher.Close] waits for it.
func EnoughLeaveRest(n int) Option { return Option{enough: &enough{successes: n, leaveRest: true}} }

func enoughOf(options []Option, chosen *selection) (enough, error) {
	var found enough
	for _, o := range options {
		switch {
		case o.enough == nil:
			continue
		case found.successes != 0:
			return found, invalid("Enough", "given twice")
		case o.enough.successes < 1 || o.enough.successes > len(chosen.targets):
			return found, invalid("Enough", "%d of %d targets", o.enough.successes, len(chosen.targets))
		case chosen.graph != nil:
			return found, invalid("Enough", "the targets depend on each other, by After, Compensate or Pivot")
		}
		found = *o.enough
	}
	return found, nil
}

// err is nil if enough targets were delivered to.
func (s *Submission) err(results Results) error {
	if s.enough.successes == 0 || len(results) == 0 {
		return results.Err()
	}
	e := &DispatchError{DispatchID: s.DispatchID, Targets: len(results)}
	for _, r := range results.Sorted() {
		if !r.Outcome.succeeded() {
			e.Failures = append(e.Failures, r.targetError())
		}
	}
	if len(results)-len(e.Failures) >= s.enough.successes {
		return nil
	}
	return e
}

// runUntilEnough begins all deliveries and returns when enough have succeeded.
func (d *Dispatcher) runUntilEnough(ctx context.Context, s *Submission) Results {
	if s.enough.leaveRest {
		return d.runAndLeave(ctx, s)
	}
	inner, cancel := context.WithCancelCause(ctx)
	p := d.newDispatch(inner, s.targets, s, nil)
	p.ended = make(chan *delivery, len(p.deliveries))
	decided := make(chan struct{})
	go func() {
		defer close(decided)
		p.awaitEnough()
		cancel(ErrNotNeeded)
	}()
	results := p.run()
	<-decided
	return results
}

// runAndLeave leaves what is not needed to a goroutine that Close waits for.
func (d *Dispatcher) runAndLeave(ctx context.Context, s *Submission) Results {
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	detach := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	overtime := context.AfterFunc(d.overtime, func() { cancel(ErrClosed) })
	p := d.newDispatch(inner, s.targets, s, nil)
	p.ended = make(chan *delivery, len(p.deliveries))
	left, finished := make(chan []string, 1), make(chan Results, 1)
	d.resume()
	go func() {
		defer d.end()
		defer overtime()
		defer cancel(nil)
		results := p.run()
		finished <- results
		for _, name := range <-left {
			d.reportLate(inner, s, results[name])
		}
	}()
	so := p.awaitEnough()
	detach()
	var names []string
	for i, t := range s.targets {
		if _, ended := so[t.Name]; !ended {
			names = append(names, t.Name)
			so[t.Name] = s.underWay(i)
		}
	}
	left <- names
	return so
}

// awaitEnough returns the results of those that have ended by then.
func (p *dispatch) awaitEnough() Results {
	results := make(Results, len(p.deliveries))
	for successes := 0; successes < p.s.enough.successes && len(results) < len(p.deliveries); {
		dl := <-p.ended
		results[dl.target.Name] = dl.result()
		if dl.outcome.succeeded() {
			successes++
		}
	}
	return results
}

func (s *Submission) underWay(position int) Result {
	r := s.refused(position, ErrUnderWay)
	r.Outcome = Unknown
	r.Err = &TargetError{Target: r.Target, Outcome: Unknown, Reason: ErrUnderWay}
	r.IdempotencyKey = s.request(s.targets[position], s.DispatchID+s.targets[position].keySuffix).IdempotencyKey
	r.Optional = s.targets[position].Optional
	return r
}

func (d *Dispatcher) reportLate(ctx context.Context, s *Submission, r Result) {
	ctx = context.WithoutCancel(ctx)
	worker{d}.call(ctx, "OnResult", d.onResult, s, r)
	if r.dead() {
		d.telemetry.logDeadLetter(ctx, s, r)
		worker{d}.call(ctx, "OnDeadLetter", d.onDeadLetter, s, r)
	}
}
