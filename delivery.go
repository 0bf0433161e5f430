package fanout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/fanout-go/fanout/internal/otel"
	"github.com/fanout-go/fanout/internal/redact"
)

// delivery is one payload on its way to one target. Nothing but this file writes it: what
// happens in it becomes a trial, and a trial is kept.
type delivery struct {
	dispatch *dispatch
	target   *target
	gates    *gates
	clock    *clock // nil before its turn, if it comes after others
	kind     AttemptKind
	id       string    // of the first request, and but for its end of all
	request  Request   // the first attempt's, once Prepare has shaped it; all others are like it
	first    *exchange // in which the first attempt is made
	waits    schedule
	span     trace.Span // nil if it is not traced
	number   int        // of the latest attempt that was sent
	verdict  verdict    // on it, or on the one of two that counts
	stale    *exchange  // was answered with 401, and its credentials are to be renewed; or nil
	result   Result
}

// run carries the delivery to its result. What happens to a call is make, deliver, try
// and send, read from top to bottom.
func (dl *delivery) run() {
	defer dl.ended()
	defer dl.fallBack() // deferred, as user code may call Goexit
	dl.make()
}

// ended tells those who wait for this one delivery, though a hook calls Goexit.
func (dl *delivery) ended() {
	if dl.kind == 0 && dl.dispatch.ended != nil {
		defer func() { dl.dispatch.ended <- dl.result }()
	}
	w := dl.watch()
	w.ended(dl.clock.ctx, &dl.result)
}

// make makes the delivery, whatever user code does.
func (dl *delivery) make() {
	reason := ErrGoexit // unless deliver returns or panics
	defer func() {
		if p := recover(); p != nil {
			reason = newPanicError(p)
		}
		dl.finish(reason)
	}()
	if how := dl.dispatch.traced; how != otel.Untraced {
		w := dl.watch()
		if dl.kind == FallbackAttempt {
			how = otel.Within
		}
		dl.span = w.started(dl.clock.ctx, how)
	}
	reason = dl.deliver()
}

// deliver makes attempts until one succeeds, and returns nil, or none may
// follow, and returns why. A retry is paid for when it is decided on, with a token that
// is given back if it is not sent.
func (dl *delivery) deliver() error {
	if err := dl.prepare(); err != nil {
		return err
	}
	paid := false // there is a token for the coming attempt
	defer func() {
		if paid {
			dl.gates.budget.giveBack()
		}
	}()
	for {
		tr := dl.attempt(&paid)
		switch {
		case tr.unsent != nil:
			if why, passing := passing(tr.unsent); passing && dl.holdOn(why) {
				continue
			}
			return tr.unsent
		case tr.delivers():
			dl.gates.budget.success()
			return nil
		}
		wait, err := dl.nextWait(&paid)
		if err != nil {
			return err
		}
		began := time.Now()
		err = sleep(dl.clock.total(), wait)
		dl.waited(WaitBackoff, began)
		if err != nil {
			return err
		}
	}
}

// attempt makes one attempt, or two of which one counts, and keeps them, though user
// code calls Goexit. It spends the token that was paid if the attempt is sent; a hedge
// has one of its own.
func (dl *delivery) attempt(paid *bool) (tr trial) {
	if after, ok := dl.hedgedAfter(); ok {
		r := dl.newRace()
		defer func() {
			*paid = *paid && r.trials[0].unsent != nil
			tr = dl.keepAll(r)
		}()
		r.run(after)
		return tr
	}
	defer func() {
		*paid = *paid && tr.unsent != nil
		dl.keep(&tr)
	}()
	dl.try(&tr, turn{number: dl.number + 1, kind: dl.kind})
	return tr
}

// try makes one attempt: it passes the gates and sends. It changes nothing but tr, which
// holds whatever user code does.
func (dl *delivery) try(tr *trial, n turn) {
	tr.begin(n.number)
	w := dl.watch()
	var span trace.Span
	defer func() { w.breakerChanged(dl.clock.ctx, dl.gates.breaker.takeChanges()) }()
	defer func() {
		if p := recover(); p != nil {
			tr.panicked(p)
		}
		if tr.unsent != nil {
			w.attemptUnsent(span, tr.unsent)
			return
		}
		tr.record.Duration, tr.record.Err, tr.record.reach = time.Since(tr.record.Start), tr.verdict.err, tr.verdict.reach
		if tr.delivers() {
			dl.gates.hedging.took(tr.record.Duration)
		}
		w.attemptEnded(dl.clock.ctx, span, tr.exchange.sent, &tr.record, n.number)
	}()
	if err := dl.passGates(tr, &span, n); err != nil {
		tr.unsent = err
	}
}

// passGates passes the gates in their order and sends. An error means that
// nothing was sent, and why.
func (dl *delivery) passGates(tr *trial, span *trace.Span, n turn) error {
	c, gates, now := dl.clock, dl.gates, time.Now()
	total := func() context.Context {
		if n.whole != nil {
			return n.whole
		}
		return c.total()
	}
	// The first attempts that did not have to wait share one context.
	shared, bound := n.number == 1 && n.whole == nil && dl.target.Prepare == nil && !c.late(now), c.first
	if !shared {
		bound = total()
	}
	if bound.Err() != nil {
		return endOf(bound)
	}
	if gates.breaker.state() == BreakerOpen {
		return ErrBreakerOpen
	}

	limited := !gates.rateLimit.allow(now)
	if limited {
		shared = false
		if err := gates.rateLimit.wait(total()); err != nil {
			dl.waited(WaitRateLimit, now)
			return err
		}
	}
	defer func() { // before a hook is told, which may call Goexit
		if tr.unsent != nil {
			gates.rateLimit.giveBack()
		}
	}()
	if limited {
		dl.waited(WaitRateLimit, now)
	}

	began := time.Time{}
	if !gates.bulkhead.tryEnter() {
		shared, began = false, time.Now()
		if err := gates.bulkhead.enter(total()); err != nil {
			dl.waited(WaitBulkhead, began)
			return err
		}
	}
	defer gates.bulkhead.leave()
	if !began.IsZero() {
		dl.waited(WaitBulkhead, began)
	}

	admission, err := gates.breaker.admit()
	if err != nil {
		return err
	}
	defer func() { admission.report(tr.verdict.vote) }()

	if shared {
		return dl.send(c.first, tr, span, n, now)
	}
	ctx, cancel := withTimeout(total(), c.attemptTimeout, ErrAttemptTimeout)
	defer cancel()
	return dl.send(ctx, tr, span, n, time.Now())
}

// send builds the request, signs it, sends it, reads the answer and judges it.
func (dl *delivery) send(ctx context.Context, tr *trial, span *trace.Span, n turn, now time.Time) error {
	t, w, x := dl.target, dl.watch(), dl.exchange(n)
	r := x.sent
	ctx = w.attemptStarted(ctx, r, n.number-1, span)
	if err := t.build(ctx, x, r); err != nil {
		return err
	}

	tr.send(Attempt{RequestID: r.RequestID, Start: now, Kind: n.kind}, x)
	dl.gates.tally.sent(n.number > 1)
	response, err := t.send(ctx, x)
	if response != nil {
		tr.response, tr.record.StatusCode = response, response.StatusCode
	}
	v := judge(t, response, err)
	v.renew = v.expired && !dl.renewed()
	tr.record.renewed = v.renew
	tr.verdict = dl.cutShort(ctx, v)
	return nil
}

// exchange is where an attempt is made. The first one's is laid out with the dispatch.
func (dl *delivery) exchange(n turn) *exchange {
	if n.number == 1 {
		return dl.first
	}
	later := &struct { // in one piece
		exchange
		request Request
		answer  Response
	}{request: dl.request}
	later.request.Attempt = n.number
	later.request.RequestID = strings.TrimSuffix(dl.id, firstAttempt) + "." + strconv.Itoa(n.number)
	x := &later.exchange
	x.sent, x.answer = &later.request, &later.answer
	if dl.stale != nil {
		x.refused = &dl.stale.request
	}
	return x
}

// cutShort amends the verdict on an attempt whose context ended: the caller's
// end says nothing about the target, a timeout does.
func (dl *delivery) cutShort(attempt context.Context, v verdict) verdict {
	switch {
	case attempt.Err() == nil, v.reach == delivered, v.reach == refused:
	case dl.clock.ctx.Err() != nil, errors.Is(context.Cause(attempt), errOutrun):
		v.retry, v.vote = false, noVote
	case dl.clock.total().Err() == nil && !errors.Is(v.err, ErrAttemptTimeout):
		v.err = fmt.Errorf("%w: %w", ErrAttemptTimeout, v.err)
	}
	return v
}

// hedgedAfter is how long the coming attempt may take before it gets a hedge; not ok
// means that it gets none.
func (dl *delivery) hedgedAfter() (after time.Duration, ok bool) {
	h := dl.gates.hedging
	if h == nil || dl.stale != nil || !dl.target.repeatable() || len(dl.result.Attempts)+1 >= dl.target.policy.Retry.MaxAttempts {
		return 0, false
	}
	return h.patience()
}

func (dl *delivery) newRace() *race {
	number := dl.number + 1
	return &race{
		turns: [2]turn{{number: number, kind: dl.kind}, {number: number + 1, kind: HedgeAttempt}},
		clock: dl.clock, budget: dl.gates.budget, try: dl.try,
		refused: func() { w := dl.watch(); w.retryRefused(dl.clock.ctx) },
		ended:   make(chan int, 2),
	}
}

// keep adds a trial to the result, if anything was sent.
func (dl *delivery) keep(tr *trial) {
	if tr.unsent != nil {
		return
	}
	dl.number, dl.verdict = tr.number, tr.verdict
	switch {
	case tr.verdict.renew:
		dl.stale = tr.exchange
	case tr.exchange.refused != nil: // renewed
		dl.stale = nil
	}
	dl.result.Attempts = append(dl.result.Attempts, tr.record)
	dl.result.Response = cmp.Or(tr.response, dl.result.Response)
}

// keepAll adds an attempt and its hedge, and returns the one that counts.
func (dl *delivery) keepAll(r *race) trial {
	for i := range r.trials[:r.started] {
		dl.keep(&r.trials[i])
	}
	counts := r.counts()
	if counts.unsent == nil {
		dl.verdict = counts.verdict
		dl.result.Response = cmp.Or(counts.response, dl.result.Response)
	}
	return *counts
}

// renewed reports whether the delivery's credentials were renewed already.
func (dl *delivery) renewed() bool {
	return slices.ContainsFunc(dl.result.Attempts, func(a Attempt) bool { return a.renewed })
}

// nextWait is how long to wait before the next attempt, or why there is none. The attempt
// is paid for from the retry budget, unless it is already.
func (dl *delivery) nextWait(paid *bool) (time.Duration, error) {
	t, v, ctx := dl.target, &dl.verdict, dl.clock.total()
	switch {
	case ctx.Err() != nil:
		return 0, endOf(ctx)
	case !v.retry, v.expired && !v.renew:
		return 0, ErrNotRetried
	case v.reach != notSent && !t.repeatable(): // also after the last attempt: a queue must not repeat it either
		return 0, ErrNotIdempotent
	case len(dl.result.Attempts) >= t.policy.Retry.MaxAttempts:
		return 0, ErrAttemptsExhausted
	}
	wait := dl.waits.next(&t.policy.Retry, v.throttled, v.hint)
	if deadline, ok := ctx.Deadline(); ok && wait >= time.Until(deadline) {
		return 0, ErrNoTimeLeft
	}
	if v.expired {
		return wait, nil // for our own credentials, once in a delivery: no storm
	}
	for !*paid {
		if *paid = dl.gates.budget.take(); *paid {
			break
		}
		w := dl.watch()
		w.retryRefused(dl.clock.ctx)
		if !dl.holdOn(WaitBudget) {
			return 0, ErrRetryBudget
		}
	}
	return wait, nil
}

// passing reports whether what kept an attempt from being made may soon be over.
func passing(err error) (why Wait, ok bool) {
	switch {
	case ours(err, ErrBreakerOpen):
		return WaitBreaker, true
	case ours(err, ErrAuth) && triesLater(err):
		return WaitToken, true
	}
	return "", false
}

// triesLater knows the ability of an error that [Authenticator] describes.
func triesLater(err error) bool {
	var passing interface{ TryLater() bool }
	return errors.As(err, &passing) && passing.TryLater()
}

// holdOn waits before a gate that is shut, and reports whether to try it again. It does
// so for a compensation, as there is no other way to undo, and for what nobody waits for,
// if its queue is patient.
func (dl *delivery) holdOn(why Wait) bool {
	if dl.kind != CompensationAttempt && !dl.dispatch.patient() {
		return false
	}
	openFor := max(dl.target.policy.Breaker.OpenFor, time.Second)
	wait := openFor/10 + rand.N(openFor/10)
	ctx := dl.clock.total()
	if deadline, ok := ctx.Deadline(); ok && wait >= time.Until(deadline) {
		return false
	}
	began := time.Now()
	err := sleep(ctx, wait)
	dl.waited(why, began)
	return err == nil
}

// finish says what became of the delivery. A reason that the last trial tells already is
// not told twice.
func (dl *delivery) finish(reason error) {
	r := &dl.result
	r.Duration = time.Since(dl.clock.started)
	r.Outcome = Delivered
	if reason == nil || dl.verdict.reach == delivered {
		return
	}
	if errors.Is(dl.verdict.err, ErrGoexit) && errors.Is(reason, ErrGoexit) {
		reason = ErrNotRetried
	}
	r.Outcome = failed(r.Attempts)
	r.err = &TargetError{Target: r.Target, Outcome: r.Outcome, Attempts: len(r.Attempts), Reason: foreign(reason), Err: dl.verdict.err}
}

// prepare lets the user shape the request, once for all attempts: an idempotency
// key promises that they are the same.
func (dl *delivery) prepare() error {
	t := dl.target
	if t.Prepare == nil {
		return nil
	}
	dl.request.Header = dl.request.Header.Clone()
	if dl.request.Header == nil {
		dl.request.Header = make(http.Header)
	}
	if dl.request.URL != nil {
		u := *dl.request.URL
		dl.request.URL = &u
	}
	given, w := dl.request, dl.watch()
	if err := t.Prepare(w.within(dl.clock.total()), &dl.request); err != nil {
		return fmt.Errorf("%w: %w", ErrPrepare, redact.URL(err))
	}
	return t.checkPrepared(&given, &dl.request)
}

// fallBack tries the fallbacks, if the delivery ended in a way that they are for.
func (dl *delivery) fallBack() {
	f := dl.target.fallbacks
	if f == nil || dl.clock.ctx.Err() != nil || !slices.Contains(f.on, dl.result.Outcome) {
		return
	}
	w := dl.watch()
	other := f.run(w.within(dl.clock.ctx), dl.clock.started, dl.dispatch, dl.request.Earlier)
	dl.result = fellBack(dl.result, other)
	dl.result.Duration = time.Since(dl.clock.started)
}

// begin starts the clock of a delivery that comes after others, with their results.
func (dl *delivery) begin(c *clock, earlier Results) {
	dl.clock = c
	dl.request.Earlier = earlier
}

// skip ends a delivery that is not to be begun.
func (dl *delivery) skip(reason error) {
	dl.endAs(unmade(dl.result.Payload, dl.result.Target, Skipped, reason))
	w := dl.watch()
	w.ended(dl.clock.ctx, &dl.result)
}

// endAs gives the delivery a result that it did not come to by itself: noted in an
// earlier round, skipped, compensated.
func (dl *delivery) endAs(r Result) {
	r.position, r.Optional, r.Payload = dl.result.position, dl.result.Optional, dl.result.Payload
	dl.result = r
	if dl.clock == nil {
		dl.clock = &clock{ctx: dl.dispatch.ctx, started: time.Now()}
	}
}

// tellCompensation tells what became of undoing it.
func (dl *delivery) tellCompensation() {
	w := dl.watch()
	w.compensated(dl.clock.ctx, dl.result.Outcome)
}

func (dl *delivery) watch() watch {
	p := dl.dispatch
	return watch{observer: p.observer, target: &dl.target.shown, payload: p.payload, tally: &dl.gates.tally, span: dl.span, on: p.watched}
}

func (dl *delivery) waited(why Wait, since time.Time) {
	w := dl.watch()
	w.waited(dl.clock.ctx, why, since)
}
