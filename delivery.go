package fanout

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// delivery is one payload on its way to one target.
type delivery struct {
	dispatch *dispatch
	target   *target
	gates    *gates
	caller   context.Context // its end is the caller's doing
	clock    *clock
	request  Request   // as the latest attempt sends it
	id       string    // of the first request, and but for its end of all
	exchange *exchange // of the latest attempt, or the first

	attempts  []Attempt
	verdict   verdict   // on the latest attempt
	response  *Response // the latest seen
	waits     schedule
	sending   bool  // an attempt is in the hands of a transport or Sender
	queued    bool  // the coming attempt did not start with the dispatch
	paid      bool  // for a retry that is not sent yet
	effect    bool  // some attempt went unanswered
	refreshed bool  // the credentials were renewed
	ahead     uint8 // attempts that this one does not know, of which it is the hedge
	kind      AttemptKind
	outcome   Outcome
	err       error
	duration  time.Duration
	position  int32          // an int would make a result more than 128 bytes, which maps keep apart
	spans     *deliverySpans // nil if untraced
}

// run carries the delivery to its result. What happens to a call is make, deliver,
// attempt and send, read from top to bottom.
func (dl *delivery) run() {
	defer dl.ended()
	dl.make()
	if dl.target.fallbacks != nil {
		dl.fallBack()
	}
}

func (dl *delivery) ended() {
	if dl.dispatch.ended != nil && dl.kind == 0 {
		defer func() { dl.dispatch.ended <- dl }() // though a hook calls Goexit
	}
	dl.tellEnd()
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
	dl.tellStart()
	reason = dl.deliver()
}

// deliver makes attempts until one succeeds, and returns nil, or none may
// follow, and returns why.
func (dl *delivery) deliver() error {
	if err := dl.prepare(); err != nil {
		return err
	}
	for {
		if err := dl.attemptOrHedge(); err != nil {
			if why, passing := passing(err); passing && dl.holdOn(why) {
				continue
			}
			return err
		}
		if dl.verdict.reach == delivered {
			dl.gates.budget.success()
			return nil
		}
		wait, err := dl.nextWait()
		if err != nil {
			return err
		}
		began := time.Now()
		err = sleep(dl.clock.total(), wait)
		dl.tellWait(WaitBackoff, began)
		if err != nil {
			return err
		}
		dl.queued = true
	}
}

// attempt passes the gates in their order and sends. An error means that
// nothing was sent, and why.
func (dl *delivery) attempt() error {
	now := time.Now()
	if ctx := dl.bound(now); ctx.Err() != nil {
		return endOf(ctx)
	}
	gates := dl.gates
	defer dl.tellBreaker()
	if gates.breaker.state() == BreakerOpen {
		return ErrBreakerOpen
	}

	if !gates.rateLimit.allow(now) {
		dl.queued = true
		err := gates.rateLimit.wait(dl.clock.total())
		dl.tellWait(WaitRateLimit, now)
		if err != nil {
			return err
		}
	}
	made := len(dl.attempts)
	defer func() {
		if len(dl.attempts) == made {
			gates.rateLimit.giveBack()
		}
	}()

	if !gates.bulkhead.tryEnter() {
		dl.queued = true
		began := time.Now()
		err := gates.bulkhead.enter(dl.clock.total())
		dl.tellWait(WaitBulkhead, began)
		if err != nil {
			return err
		}
	}
	defer gates.bulkhead.leave()

	admission, err := gates.breaker.admit()
	if err != nil {
		return err
	}
	health := noVote
	defer func() { admission.report(health) }()

	ctx, cancel := dl.attemptContext()
	defer cancel()
	if dl.queued {
		now = time.Now()
	}
	if err := dl.send(ctx, now); err != nil {
		return err
	}
	dl.cutShortBy(ctx)
	dl.settle()
	health = dl.verdict.vote
	return nil
}

// send builds the request, signs it, sends it, reads the answer and judges it.
func (dl *delivery) send(ctx context.Context, now time.Time) error {
	t := dl.target
	x := dl.nextExchange()
	ctx = dl.tellAttempt(ctx)
	if err := t.build(ctx, x, &dl.request); err != nil {
		return err
	}

	dl.attempts = append(dl.attempts, Attempt{RequestID: dl.request.RequestID, Start: now, Kind: dl.kind})
	dl.sending, dl.paid = true, false
	dl.gates.tally.sent(len(dl.attempts) > 1)
	response, err := t.send(ctx, x)
	if response != nil {
		dl.response = response
		dl.attempts[len(dl.attempts)-1].StatusCode = response.StatusCode
	}
	if err != nil {
		dl.verdict = classifyError(t, err)
	} else {
		dl.verdict = classifyAnswer(t, response)
	}
	return nil
}

// nextExchange numbers the coming attempt.
func (dl *delivery) nextExchange() *exchange {
	dl.request.Attempt = len(dl.attempts) + 1 + int(dl.ahead)
	if dl.request.Attempt == 1 {
		dl.request.RequestID = dl.id
		return dl.exchange
	}
	dl.request.RequestID = strings.TrimSuffix(dl.id, firstAttempt) + "." + strconv.Itoa(dl.request.Attempt)
	dl.refreshed = dl.refreshed || dl.verdict.expired
	x := &exchange{answer: new(Response)}
	if dl.verdict.expired {
		x.refused = &dl.exchange.request
	}
	dl.exchange = x
	return x
}

// cutShortBy amends the verdict on an attempt whose context ended: the caller's
// end says nothing about the target, a timeout does.
func (dl *delivery) cutShortBy(attempt context.Context) {
	v := &dl.verdict
	switch {
	case attempt.Err() == nil, v.reach == delivered, v.reach == refused:
	case dl.caller.Err() != nil, errors.Is(context.Cause(attempt), errOutrun):
		v.retry, v.vote = false, noVote
	case dl.clock.total().Err() == nil && !errors.Is(v.err, ErrAttemptTimeout):
		v.err = fmt.Errorf("%w: %w", ErrAttemptTimeout, v.err)
	}
}

// settle writes the verdict into the attempt's record.
func (dl *delivery) settle() {
	a := &dl.attempts[len(dl.attempts)-1]
	a.Duration = time.Since(a.Start)
	a.Err = dl.verdict.err
	dl.effect = dl.effect || dl.verdict.reach == unanswered
	dl.sending = false
	dl.gates.tally.inFlight.Add(-1)
	if dl.verdict.reach == delivered {
		dl.gates.hedging.took(a.Duration)
	}
	dl.tellSent(a)
}

// nextWait is how long to wait before the next attempt, or why there is none.
// A wait is paid for from the retry budget.
func (dl *delivery) nextWait() (time.Duration, error) {
	t, v, ctx := dl.target, &dl.verdict, dl.clock.total()
	switch {
	case ctx.Err() != nil:
		return 0, endOf(ctx)
	case !v.retry, v.expired && dl.refreshed:
		return 0, ErrNotRetried
	case len(dl.attempts) >= t.policy.Retry.MaxAttempts:
		return 0, ErrAttemptsExhausted
	case v.reach != notSent && !t.repeatable():
		return 0, ErrNotIdempotent
	}
	wait := dl.waits.next(&t.policy.Retry, v.throttled, v.hint)
	if deadline, ok := ctx.Deadline(); ok && wait >= time.Until(deadline) {
		return 0, ErrNoTimeLeft
	}
	if v.expired {
		return wait, nil // for our own credentials, once in a delivery: no storm
	}
	for !dl.gates.budget.take() {
		dl.tellRefusedRetry()
		if !dl.holdOn(WaitBudget) {
			return 0, ErrRetryBudget
		}
	}
	dl.paid = true
	return wait, nil
}

// patient reports whether the delivery may wait before a gate that is shut: a
// compensation, as there is no other way to undo, and what nobody waits for, while
// there is room for it.
func (dl *delivery) patient() bool {
	j := dl.dispatch.s.job
	return dl.kind == CompensationAttempt || (j != nil && j.queue != nil && j.queue.hasRoom(dl.target.Name))
}

// passing reports whether what kept an attempt from being made may soon be over.
func passing(err error) (why Wait, ok bool) {
	switch {
	case errors.Is(err, ErrBreakerOpen):
		return WaitBreaker, true
	case errors.Is(err, ErrAuth) && triesLater(err):
		return WaitToken, true
	}
	return "", false
}

// triesLater knows the ability of an error that [Authenticator] describes.
func triesLater(err error) bool {
	var passing interface{ TryLater() bool }
	return errors.As(err, &passing) && passing.TryLater()
}

// holdOn waits before a gate that is shut, and reports whether to try it again.
func (dl *delivery) holdOn(why Wait) bool {
	if !dl.patient() {
		return false
	}
	openFor := max(dl.target.policy.Breaker.OpenFor, time.Second)
	wait := openFor/10 + rand.N(openFor/10)
	ctx := dl.clock.total()
	if deadline, ok := ctx.Deadline(); ok && wait >= time.Until(deadline) {
		return false
	}
	dl.queued = true
	began := time.Now()
	err := sleep(ctx, wait)
	dl.tellWait(why, began)
	return err == nil
}

// abandon ends an attempt that is out though its code has ended: by a panic or
// Goexit of user code, and then it may have taken effect.
func (dl *delivery) abandon(reason error) bool {
	if !dl.sending {
		return false
	}
	dl.verdict = verdict{reach: unanswered, err: reason}
	dl.settle()
	return true
}

// finish says what became of the delivery.
func (dl *delivery) finish(reason error) {
	if dl.abandon(reason) {
		reason = ErrNotRetried
	}
	if dl.paid {
		dl.gates.budget.giveBack()
	}
	dl.duration = time.Since(dl.clock.started)
	dl.outcome = Delivered
	if reason != nil && dl.verdict.reach != delivered {
		dl.outcome = dl.failure()
		dl.err = &TargetError{Target: dl.target.Name, Outcome: dl.outcome, Attempts: len(dl.attempts), Reason: reason, Err: dl.verdict.err}
	}
}

func (dl *delivery) result() Result {
	return Result{
		Target: dl.target.Name, Outcome: dl.outcome, Optional: dl.target.Optional, position: dl.position,
		Response: dl.response, Err: dl.err, Attempts: dl.attempts, Duration: dl.duration,
		DispatchID: dl.request.DispatchID, IdempotencyKey: dl.request.IdempotencyKey, PayloadKey: dl.dispatch.s.payloadKey(),
	}
}

func (dl *delivery) failure() Outcome {
	switch {
	case dl.effect:
		return Unknown
	case len(dl.attempts) == 0:
		return Rejected
	default:
		return Failed
	}
}

// prepare lets the user shape the request, once for all attempts: an idempotency
// key promises that they are the same.
func (dl *delivery) prepare() error {
	t := dl.target
	if t.Prepare == nil {
		return nil
	}
	dl.queued = true
	dl.request.Header = dl.request.Header.Clone()
	if dl.request.Header == nil {
		dl.request.Header = make(map[string][]string)
	}
	if dl.request.URL != nil {
		u := *dl.request.URL
		dl.request.URL = &u
	}
	given := dl.request
	if err := t.Prepare(dl.within(dl.clock.total()), &dl.request); err != nil {
		return &InvalidError{Target: t.Name, Field: "Prepare", Err: err}
	}
	return t.checkPrepared(&given, &dl.request)
}
