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

// delivery is one payload for one target. Only this file changes it: each attempt becomes
// a trial, and keep copies the trial into the delivery.
type delivery struct {
	dispatch *dispatch
	target   *target
	gates    *gates
	clock    *clock // nil until it begins, if it comes after others
	kind     AttemptKind
	id       string    // ID of the first request; without its ".1" the ID of the delivery
	request  Request   // as Prepare has left it; all attempts copy it
	first    *exchange // memory for the first attempt
	waits    schedule
	span     trace.Span // nil if the delivery is not traced
	number   int        // of the latest attempt that was sent
	verdict  verdict    // on that attempt or, of an attempt and its hedge, on the one that counts
	stale    *exchange  // the attempt whose credentials are to be renewed after a 401, or nil
	result   Result
}

// run makes the delivery until it has a result. To see what happens in a call, read make,
// deliver, try and send, from top to bottom.
func (dl *delivery) run() {
	defer dl.ended()
	defer dl.fallBack() // deferred, as user code may call Goexit
	dl.make()
}

// ended reports the end of the delivery. The send is deferred because a hook may call
// Goexit: without that, a quorum would wait for this delivery forever.
func (dl *delivery) ended() {
	if dl.kind == 0 && dl.dispatch.ended != nil {
		defer func() { dl.dispatch.ended <- dl.result }()
	}
	w := dl.watch()
	w.ended(dl.clock.ctx, &dl.result)
}

// make makes the delivery. It ends with a result even if user code panics or calls
// Goexit.
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

// deliver makes attempts. It returns nil when one succeeds, or the reason why no other
// may follow. A retry takes a token of the budget before its wait. The token is given
// back if the retry is not sent.
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

// attempt makes one attempt, or an attempt and its hedge. It is kept by a deferred
// function, because user code may call Goexit. If the attempt is sent, it uses up the
// token in paid. A hedge takes its own token.
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

// try makes one attempt: it passes the gates and sends. It changes only tr, because a
// hedge may run try at the same time. tr is complete even if user code panics or calls
// Goexit.
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

// passGates passes the gates in their order and sends. If nothing was sent, it returns
// why.
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
	defer func() { // deferred before a hook is called, which may call Goexit
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

// exchange returns the memory for an attempt. That of the first one was allocated with
// the dispatch.
func (dl *delivery) exchange(n turn) *exchange {
	if n.number == 1 {
		return dl.first
	}
	later := &struct { // one allocation
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

// cutShort changes the verdict on an attempt whose context ended. A timeout, and a deadline of
// the caller, are votes on the target's health. What the caller, a quorum or Close cancelled
// is none.
func (dl *delivery) cutShort(attempt context.Context, v verdict) verdict {
	switch {
	case attempt.Err() == nil, v.reach == delivered, v.reach == refused:
	case errors.Is(dl.clock.ctx.Err(), context.DeadlineExceeded) && !errors.Is(context.Cause(attempt), errOutrun):
		v.retry = false // the caller waited in vain, which says as much as a timeout of ours
	case dl.clock.ctx.Err() != nil, errors.Is(context.Cause(attempt), errOutrun):
		v.retry, v.vote = false, noVote
	case dl.clock.total().Err() == nil && !errors.Is(v.err, ErrAttemptTimeout):
		v.err = fmt.Errorf("%w: %w", ErrAttemptTimeout, v.err)
	}
	return v
}

// hedgedAfter returns how long the next attempt may take before it gets a hedge. It
// returns false if the attempt gets none.
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

// keep adds a trial to the result if it was sent.
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

// keepAll adds an attempt and its hedge to the result, and returns the one that counts.
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

// renewed reports whether the delivery has renewed its credentials before.
func (dl *delivery) renewed() bool {
	return slices.ContainsFunc(dl.result.Attempts, func(a Attempt) bool { return a.renewed })
}

// nextWait returns how long to wait before the next attempt, or why there is none. It
// takes a token of the retry budget, unless one was taken already.
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
		return wait, nil // takes no token: it happens once in a delivery, so it cannot overload the target
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

// passing reports whether the reason why an attempt was not sent may soon be gone.
func passing(err error) (why Wait, ok bool) {
	switch {
	case ours(err, ErrBreakerOpen):
		return WaitBreaker, true
	case ours(err, ErrAuth) && triesLater(err):
		return WaitToken, true
	}
	return "", false
}

// triesLater reports whether an error has the method TryLater that [Authenticator]
// describes.
func triesLater(err error) bool {
	var passing interface{ TryLater() bool }
	return errors.As(err, &passing) && passing.TryLater()
}

// holdOn waits, for example for an open breaker, and reports whether to try again. It
// waits for a compensation, because nothing else can undo, and if the queue is patient.
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

// finish sets the result of the delivery. If the last trial ended by Goexit and the
// reason is Goexit, the text would say so twice.
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

// prepare calls Prepare once for all attempts, because all attempts with one idempotency
// key must be the same.
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

// fallBack tries the fallbacks if the outcome is in [Target.FallbackOn].
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

// begin gives a delivery that comes after others its clock and their results.
func (dl *delivery) begin(c *clock, earlier Results) {
	dl.clock = c
	dl.request.Earlier = earlier
}

// skip ends a delivery that must not begin.
func (dl *delivery) skip(reason error) {
	dl.endAs(unmade(dl.result.Payload, dl.result.Target, Skipped, reason))
	w := dl.watch()
	w.ended(dl.clock.ctx, &dl.result)
}

// endAs replaces the result of the delivery: with one from an earlier round, or one that
// says skipped or compensated.
func (dl *delivery) endAs(r Result) {
	r.position, r.Optional, r.Payload = dl.result.position, dl.result.Optional, dl.result.Payload
	dl.result = r
	if dl.clock == nil {
		dl.clock = &clock{ctx: dl.dispatch.ctx, started: time.Now()}
	}
}

// tellCompensation reports how the compensation ended.
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
