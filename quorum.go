package fanout

import "context"

// err returns nil if enough targets succeeded.
func (q quorum) err(results Results) error {
	if q.successes == 0 || len(results) == 0 {
		return results.Err()
	}
	e := &DispatchError{Targets: len(results)}
	for _, r := range results.Sorted() {
		e.DispatchID = r.dispatchID()
		if !r.Outcome.succeeded() {
			e.Failures = append(e.Failures, r.targetError())
		}
	}
	if len(results)-len(e.Failures) >= q.successes {
		return nil
	}
	return e
}

// cutRest begins all deliveries, and cuts the rest short when enough have succeeded.
func (q quorum) cutRest(ctx context.Context, begin func(context.Context) *dispatch, ended func(*dispatch, Results)) Results {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := begin(inner)
	p.ended = make(chan Result, len(p.deliveries))
	decided := make(chan struct{})
	go func() {
		defer close(decided)
		q.await(p)
		cancel(ErrNotNeeded)
	}()
	results := p.run()
	<-decided
	ended(p, results)
	return results
}

// leave begins all deliveries, and returns when enough have succeeded. The others go on
// until overtime ends. When all have ended, left is called with the names of those
// others.
func (q quorum) leave(ctx, overtime context.Context, begin func(context.Context) *dispatch, left func(context.Context, *dispatch, Results, []string)) Results {
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(overtime, func() { cancel(ErrClosed) })
	end := func() {
		stop()
		cancel(nil)
	}
	begun := false
	defer func() {
		if !begun { // code of ctx has panicked
			end()
		}
	}()
	detach := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	defer detach() // deferred last, because code of ctx may panic in it
	p := begin(inner)
	begun = true
	p.ended = make(chan Result, len(p.deliveries))
	names := make(chan []string, 1)
	go func() {
		defer end()
		results := p.run()
		left(inner, p, results, <-names)
	}()
	so := q.await(p)
	var underWay []string
	for i := range p.deliveries {
		r := p.underWay(i)
		if _, ended := so[r.Target]; !ended {
			underWay = append(underWay, r.Target)
			so[r.Target] = r
		}
	}
	names <- underWay
	return so
}

// await waits until enough have succeeded or all have ended. It returns the results so
// far.
func (q quorum) await(p *dispatch) Results {
	results := make(Results, len(p.deliveries))
	for successes := 0; successes < q.successes && len(results) < len(p.deliveries); {
		r := <-p.ended
		results[r.Target] = r
		if r.Outcome.succeeded() {
			successes++
		}
	}
	return results
}
