package fanout

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/fanout-go/fanout/internal/otel"
	"github.com/fanout-go/fanout/internal/redact"
)

// Hooks are functions that are called when something happens, for users without
// OpenTelemetry. Any may be nil. They run on the goroutine that does the work, so they
// slow it down, and may run at the same time. They hold no lock. A panic in one is
// recovered and logged. Their arguments must not be changed. For final results of
// submitted deliveries, use [Config.OnResult].
type Hooks struct {
	// AttemptStarted is called when an attempt has passed all gates, before it is sent.
	AttemptStarted func(context.Context, AttemptEvent)
	// AttemptEnded is called when an attempt that was sent has ended.
	AttemptEnded func(context.Context, AttemptEvent)
	// Waited is called when a wait of a delivery is over.
	Waited func(context.Context, WaitEvent)
	// BreakerChanged is called when a target's breaker has changed its state.
	BreakerChanged func(context.Context, BreakerEvent)
	// DeliveryEnded is called when a delivery has ended. If a queue makes a delivery several
	// times, it is called every time. For a fallback it is called under the fallback's name,
	// before it is called for the target. For a compensation it is called after that.
	DeliveryEnded func(context.Context, Result)
}

// AttemptEvent describes an attempt that starts or has ended.
type AttemptEvent struct {
	Request *Request
	Attempt *Attempt // nil in AttemptStarted
}

// WaitEvent describes a wait of a delivery.
type WaitEvent struct {
	Target string
	For    Wait
	Waited time.Duration
}

// BreakerEvent describes a change of a target's circuit breaker.
type BreakerEvent struct {
	Target   string
	From, To BreakerState
}

// Wait says what a delivery waits for.
type Wait string

// What a delivery can wait for.
const (
	WaitRateLimit Wait = "rate_limit"
	WaitBulkhead  Wait = "bulkhead"
	WaitBackoff   Wait = "backoff"
	WaitBreaker   Wait = "breaker"      // for an open breaker to close
	WaitBudget    Wait = "retry_budget" // for the budget to have a token
	WaitToken     Wait = "token"        // for the target's credentials
)

// observer reports what happens to spans, metrics, logs, counters and hooks. Each of its
// methods, and of watch's, is called at one kind of moment.
type observer struct {
	otel     *otel.Telemetry
	log      log
	security securityLog
	hooks    *Hooks // nil if there are none

	onResult, onDeadLetter func(context.Context, Result)
}

// hook returns the user's hooks, or empty ones.
func (o *observer) hook() *Hooks {
	if o.hooks == nil {
		return &Hooks{}
	}
	return o.hooks
}

// watching reports whether anything besides the counters observes deliveries and
// attempts. It is called once for a dispatch.
func (o *observer) watching(ctx context.Context) (yes bool) {
	o.tell(func() {
		yes = o.hooks != nil || o.security.on() || o.otel.Enabled(ctx) || o.log.enabled(ctx, slog.LevelDebug)
	})
	return yes
}

// dispatchStarted returns the context for the dispatch, its span, which may be nil, and
// how its deliveries are traced. A submitted dispatch has a trace of its own. If its
// deliveries are made one by one, each has one.
func (o *observer) dispatchStarted(ctx context.Context, p *Payload, targets int, submitted, together bool) (context.Context, trace.Span, otel.Tracing) {
	ids := otel.IDs{Dispatch: p.ID, Correlation: p.CorrelationID}
	var span trace.Span
	switch {
	case submitted && !together:
		return ctx, nil, otel.Apart
	case submitted:
		o.tell(func() { ctx, span = o.otel.StartSubmitted(ctx, ids, targets) })
	default:
		o.tell(func() { ctx, span = o.otel.StartDispatch(ctx, ids, targets) })
	}
	if span == nil {
		return ctx, nil, otel.Untraced
	}
	return ctx, span, otel.Within
}

func (o *observer) dispatchEnded(span trace.Span, results Results, err error) {
	if span == nil {
		return
	}
	o.apart(context.Background(), "telemetry", func() {
		if err == nil || allCanceled(results) {
			otel.EndDispatch(span, "")
			return
		}
		otel.EndDispatch(span, redact.Shown(err))
	})
}

// dispatchDone logs a dispatch whose caller waited for it.
func (o *observer) dispatchDone(ctx context.Context, p *Payload, results Results, err error) {
	o.contain(ctx, "telemetry", func() { o.log.dispatch(ctx, p, results, err) })
}

// allCanceled reports whether every failure happened because the caller's context ended.
func allCanceled(results Results) bool {
	for _, r := range results {
		if r.Outcome != Delivered && !r.Optional && ClassOf(r.Err()) != ClassCanceled {
			return false
		}
	}
	return true
}

// submitted counts what a queue accepted for a target.
func (o *observer) submitted(ctx context.Context, t *otel.Target) {
	o.contain(ctx, "telemetry", func() { o.otel.Submitted(ctx, t.Label) })
}

// submitRefused reports that a queue did not accept a dispatch.
func (o *observer) submitRefused(ctx context.Context, err error) {
	if errors.Is(err, ErrFull) {
		o.contain(ctx, "telemetry", func() { o.otel.Refused(ctx) })
	}
	o.inputRefused(ctx, err)
}

// final is a result that is reported to OnResult and OnDeadLetter.
type final struct {
	Result
	label   string // its target's name in metrics
	queued  bool   // it comes from a queue
	closing bool   // Close has begun
	known   bool   // Dispatch returns it too
}

// settled reports a final result. It is that of a delivery that was submitted or left by
// a quorum, or of a target that a saga could not undo.
func (o *observer) settled(ctx context.Context, f final) {
	if f.Payload == nil {
		f.Payload = new(Payload) // the queue has not kept it
	}
	dead := f.IsDeadLetter()
	given, usable := ctx, false
	ctx = WithCorrelationID(context.WithoutCancel(given), f.Payload.CorrelationID)
	telemetry := func() {
		_ = CorrelationID(given)
		usable = true
		defer o.tell(func() { // deferred, because a meter may call Goexit
			if dead && !f.known {
				o.log.deadLetter(ctx, f.Result)
			}
		})
		if f.queued {
			o.otel.Done(ctx, f.label, f.closing)
		}
		if dead {
			o.otel.DeadLetter(ctx, f.label)
		}
	}
	if o.apart(context.Background(), "telemetry", telemetry); !usable { // its code panics, or calls Goexit
		given = context.Background()
		ctx = WithCorrelationID(given, f.Payload.CorrelationID)
		o.apart(ctx, "telemetry", telemetry)
	}
	if o.onResult != nil && !f.known {
		o.apart(ctx, "OnResult", func() { o.onResult(ctx, f.Result) })
	}
	if o.onDeadLetter != nil && dead {
		o.apart(ctx, "OnDeadLetter", func() { o.onDeadLetter(ctx, f.Result) })
	}
}

// apart calls user code on a new goroutine. Without that, a Goexit in it would end a
// worker of the queue. A panic is logged, because there is no result to put it in.
func (o *observer) apart(ctx context.Context, name string, call func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.contain(ctx, name, call)
	}()
	<-done
}

// tell is contain for user code without a name: a tracer, a meter or a log.
func (o *observer) tell(call func()) { o.contain(context.Background(), "telemetry", call) }

// contain calls user code. A panic in it is logged, and nothing else fails.
func (o *observer) contain(ctx context.Context, name string, call func()) {
	defer func() {
		if p := recover(); p != nil {
			defer func() { _ = recover() }() // the logger may panic too, and then nothing can be logged
			o.log.panicked(ctx, name, newPanicError(p))
		}
	}()
	call()
}

// watch reports what happens in one delivery.
type watch struct {
	*observer
	target  *otel.Target
	payload *Payload
	tally   *tally
	span    trace.Span // the delivery's, nil if there is none
	on      bool       // something besides the tally observes it
}

// within returns ctx with the delivery's span.
func (w *watch) within(ctx context.Context) context.Context {
	if w.span == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, w.span)
}

// started returns the delivery's span, nil if there is none.
func (w *watch) started(ctx context.Context, how otel.Tracing) (span trace.Span) {
	if how == otel.Untraced {
		return nil
	}
	w.tell(func() {
		span = w.otel.StartDelivery(ctx, w.target, otel.IDs{Dispatch: w.payload.ID, Correlation: w.payload.CorrelationID}, how)
	})
	return span
}

func (w *watch) waited(ctx context.Context, why Wait, since time.Time) {
	if !w.on {
		return
	}
	waited := time.Since(since)
	ctx = w.within(ctx)
	w.tell(func() {
		if w.span != nil {
			otel.AddWait(w.span, string(why), waited)
		}
		w.otel.Waited(ctx, w.target, string(why), waited)
	})
	if hook := w.hook().Waited; hook != nil {
		w.contain(ctx, "Waited", func() { hook(ctx, WaitEvent{w.target.Name, why, waited}) })
	}
}

// attemptStarted returns the context of the attempt. It sets span before it calls the
// hook, because the hook may call Goexit, and the span must be ended nevertheless.
func (w *watch) attemptStarted(ctx context.Context, r *Request, made int, span *trace.Span) context.Context {
	if !w.on {
		return ctx
	}
	if w.span != nil {
		w.tell(func() { ctx, *span = w.otel.StartAttempt(w.within(ctx), w.target, r.URL, made) })
	}
	if hook := w.hook().AttemptStarted; hook != nil {
		w.contain(ctx, "AttemptStarted", func() { hook(ctx, AttemptEvent{Request: r}) })
	}
	return ctx
}

// attemptEnded is called when the verdict is known. made is the attempt's number.
func (w *watch) attemptEnded(ctx context.Context, span trace.Span, r *Request, a *Attempt, made int) {
	w.tally.inFlight.Add(-1)
	if !w.on {
		return
	}
	ctx = w.within(ctx)
	w.tell(func() {
		if span != nil {
			otel.EndAttempt(span, a.StatusCode, failureOf(a.Err))
		}
		w.otel.Attempted(ctx, w.target, r.URL, made > 1, a.StatusCode, string(ClassOf(a.Err)), a.Duration)
	})
	w.tell(func() { w.log.attempt(ctx, w.target.Name, w.payload, a, made) })
	w.tell(func() { w.securityAttempt(ctx, a) })
	if hook := w.hook().AttemptEnded; hook != nil {
		own := *a // a copy, because the delivery goes on using a
		w.contain(ctx, "AttemptEnded", func() { hook(ctx, AttemptEvent{r, &own}) })
	}
}

// attemptUnsent is called when an attempt was not sent. Its span is nil if a gate
// rejected it.
func (w *watch) attemptUnsent(span trace.Span, err error) {
	if span != nil {
		w.tell(func() { otel.EndUnsent(span, failureOf(err)) })
	}
}

func (w *watch) retryRefused(ctx context.Context) {
	w.tell(func() { w.otel.RetryRefused(ctx, w.target) })
}

// breakerChanged reports the changes of a breaker. The breaker's lock is not held here,
// so that a hook may use the dispatcher.
func (w *watch) breakerChanged(ctx context.Context, changes []breakerChange) {
	if len(changes) == 0 {
		return
	}
	ctx = w.within(ctx)
	for _, c := range changes {
		level := slog.LevelInfo
		if c.to == BreakerOpen {
			level = slog.LevelWarn
		}
		w.tell(func() { w.otel.BreakerChanged(ctx, w.target, string(c.to)) })
		w.tell(func() { w.log.breaker(ctx, level, w.target.Name, string(c.from), string(c.to)) })
		if hook := w.hook().BreakerChanged; hook != nil {
			w.contain(ctx, "BreakerChanged", func() { hook(ctx, BreakerEvent{w.target.Name, c.from, c.to}) })
		}
	}
}

func (w *watch) ended(ctx context.Context, r *Result) {
	class := ClassOf(r.err)
	if r.Outcome == Skipped || class == ClassBreakerOpen { // would hide the error that opened it
		class = ""
	}
	w.tally.ended(r.Outcome, string(class))
	if !w.on {
		return
	}
	ctx = w.within(ctx)
	w.tell(func() {
		failure := failureOf(r.err)
		if w.span != nil {
			otel.EndDelivery(w.span, r.Outcome.String(), len(r.Attempts), failure)
		}
		w.otel.Delivered(ctx, w.target, r.Outcome.String(), failure.Class, r.Duration)
	})
	w.tell(func() { w.securityEnd(ctx, r.err) })
	if hook := w.hook().DeliveryEnded; hook != nil {
		w.contain(ctx, "DeliveryEnded", func() { hook(ctx, *r) })
	}
}

func (w *watch) compensated(ctx context.Context, outcome Outcome) {
	w.tell(func() { w.otel.Compensated(w.within(ctx), w.target, outcome.String()) })
}

func failureOf(err error) otel.Failure {
	if err == nil {
		return otel.Failure{}
	}
	return otel.Failure{Class: string(ClassOf(err)), Text: redact.Shown(err)}
}

// The values of the attribute "event" in [Config.SecurityLogger].
const (
	eventAuthFailed     = "auth_failed"         // credentials could not be had, or the target denied them
	eventCertificate    = "certificate_refused" // the target's, which is not trusted, or ours, which it denied
	eventAddressBlocked = "address_blocked"     // by a [Guard]
	eventInputRefused   = "input_refused"       // a payload or a target that cannot be used
	eventRateLimited    = "rate_limited"        // a delivery was rejected by [RateLimit]
	eventTargetsSet     = "targets_set"
	eventTargetsRemoved = "targets_removed"
)

func (w *watch) securityAttempt(ctx context.Context, a *Attempt) {
	switch {
	case a.StatusCode == http.StatusUnauthorized && a.renewed:
		w.tellSecurity(ctx, slog.LevelInfo, eventAuthFailed, Class(strconv.Itoa(a.StatusCode)), nil)
	case a.StatusCode == http.StatusUnauthorized, a.StatusCode == http.StatusForbidden, a.StatusCode == http.StatusProxyAuthRequired:
		w.tellSecurity(ctx, slog.LevelWarn, eventAuthFailed, Class(strconv.Itoa(a.StatusCode)), nil)
	case errors.Is(a.Err, ErrAddressBlocked):
		w.tellSecurity(ctx, slog.LevelWarn, eventAddressBlocked, ClassOf(a.Err), a.Err)
	case ClassOf(a.Err) == ClassCertificate:
		w.tellSecurity(ctx, slog.LevelWarn, eventCertificate, ClassCertificate, a.Err)
	}
}

func (w *watch) securityEnd(ctx context.Context, err error) {
	switch {
	case err == nil:
	case errors.Is(err, ErrAuth):
		w.tellSecurity(ctx, slog.LevelWarn, eventAuthFailed, ClassAuth, err)
	case errors.Is(err, ErrRateLimited):
		w.tellSecurity(ctx, slog.LevelWarn, eventRateLimited, ClassOf(err), nil)
	}
}

func (w *watch) tellSecurity(ctx context.Context, level slog.Level, event string, class Class, err error) {
	attributes := []slog.Attr{slog.String("target", w.target.Name), slog.String("dispatch_id", w.payload.ID), slog.String("class", string(class))}
	if err != nil {
		attributes = append(attributes, slog.String("error", redact.Shown(err)))
	}
	w.security.tell(ctx, level, event, attributes...)
}

// inputRefused reports input that cannot be used.
func (o *observer) inputRefused(ctx context.Context, err error) {
	if ctx == nil || !errors.Is(err, ErrInvalid) || errors.Is(err, ErrNoTargets) { // no targets are the operator's fault
		return
	}
	o.contain(ctx, "telemetry", func() {
		o.security.tell(ctx, slog.LevelWarn, eventInputRefused, slog.String("error", redact.Shown(err)))
	})
}

func (o *observer) backlogUnknown(ctx context.Context, err error) {
	o.tell(func() { o.log.backlogUnknown(ctx, redact.URL(err)) })
}

func (o *observer) targetsSet(names []string) {
	o.tell(func() {
		o.security.tell(context.Background(), slog.LevelInfo, eventTargetsSet, slog.Any("targets", names))
	})
}

func (o *observer) targetsRemoved(names []string) {
	if len(names) > 0 {
		o.tell(func() {
			o.security.tell(context.Background(), slog.LevelInfo, eventTargetsRemoved, slog.Any("targets", names))
		})
	}
}

// copyOf returns a copy of what p points to, which the owner of p cannot change.
func copyOf[T any](p *T) *T {
	if p == nil {
		return nil
	}
	own := *p
	return &own
}
