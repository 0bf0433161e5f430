package fanout

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// scope names this library in OpenTelemetry.
const scope = "github.com/fanout-go/fanout"

// telemetry tells whoever wants to know what happens: spans, metrics, log and
// hooks. The methods of this file are the moments at which something is told.
type telemetry struct {
	tracer         tracer
	propagator     propagator
	metrics        *metrics
	logger         *slog.Logger
	securityLogger *slog.Logger // nil if nobody wants to know
	hooks          Hooks
	hooked         bool // there are some
}

func newTelemetry(config *Config) *telemetry {
	t := &telemetry{
		tracer:         newTracer(config.TracerProvider),
		propagator:     propagator{config.Propagator},
		metrics:        newMetrics(config.MeterProvider),
		logger:         config.Logger,
		securityLogger: config.SecurityLogger,
	}
	if config.Hooks != nil {
		t.hooks, t.hooked = *config.Hooks, true
	}
	if t.logger == nil {
		t.logger = slog.Default()
	}
	return t
}

// watching reports whether anybody wants to know of deliveries and attempts. It is
// asked once for a dispatch.
func (t *telemetry) watching(ctx context.Context) bool {
	return t.hooked || t.securityLogger != nil || t.metrics.attempts.Enabled(ctx) || t.logger.Enabled(ctx, slog.LevelDebug)
}

// deliverySpans is nil if the dispatch is not traced.
type deliverySpans struct{ delivery, attempt trace.Span }

func (dl *delivery) telemetry() *telemetry { return dl.dispatch.d.telemetry }

// within puts the delivery's span into a context of its clock.
func (dl *delivery) within(ctx context.Context) context.Context {
	if dl.spans == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, dl.spans.delivery)
}

// contained is deferred by all who tell: a tracer, a meter or a log that panics fails
// no delivery.
func (dl *delivery) contained() {
	if p := recover(); p != nil {
		dl.telemetry().contain(context.Background(), "telemetry", func() { panic(p) })
	}
}

func (dl *delivery) tellStart() {
	if dl.dispatch.traced != untraced {
		defer dl.contained()
		dl.spans = dl.telemetry().tracer.startDelivery(dl)
	}
}

func (dl *delivery) tellWait(why Wait, since time.Time) {
	if !dl.dispatch.watched {
		return
	}
	defer dl.contained()
	waited := time.Since(since)
	ctx := dl.within(dl.clock.ctx)
	if dl.spans != nil {
		tellSpanOfWait(dl.spans.delivery, why, waited)
	}
	dl.telemetry().metrics.waited(ctx, dl.target.label, why, waited)
	if hook := dl.telemetry().hooks.Waited; hook != nil {
		dl.telemetry().contain(ctx, "Waited", func() { hook(ctx, dl.target.Name, why, waited) })
	}
}

// tellAttempt returns the context that the attempt is made with.
func (dl *delivery) tellAttempt(given context.Context) (ctx context.Context) {
	if ctx = given; !dl.dispatch.watched {
		return ctx
	}
	defer dl.contained()
	if dl.spans != nil {
		ctx = dl.telemetry().tracer.startAttempt(dl.within(ctx), dl)
	}
	if hook := dl.telemetry().hooks.AttemptStart; hook != nil {
		dl.telemetry().contain(ctx, "AttemptStart", func() { hook(ctx, dl.request) })
	}
	return ctx
}

// tellSent comes when the attempt's verdict is known.
func (dl *delivery) tellSent(a *Attempt) {
	if !dl.dispatch.watched {
		return
	}
	defer dl.contained()
	ctx := dl.within(dl.clock.ctx)
	if dl.spans != nil {
		dl.endAttemptSpan(a)
	}
	dl.telemetry().metrics.attempted(ctx, dl, a)
	dl.telemetry().logAttempt(ctx, dl, a)
	dl.securityAttempt(ctx, a)
	if hook := dl.telemetry().hooks.AttemptDone; hook != nil {
		dl.telemetry().contain(ctx, "AttemptDone", func() { hook(ctx, dl.request, *a) })
	}
}

func (dl *delivery) tellRefusedRetry() {
	dl.telemetry().metrics.refusedRetry(dl.clock.ctx, dl.target.label)
}

// tellBreaker passes on how the breaker moved, outside its lock.
func (dl *delivery) tellBreaker() {
	changes := dl.gates.breaker.takeChanges()
	if changes == nil {
		return
	}
	defer dl.contained()
	for _, c := range changes {
		ctx := dl.within(dl.clock.ctx)
		dl.telemetry().metrics.breakerChanged(ctx, dl.target.label, c.to)
		dl.telemetry().logBreaker(ctx, dl.target.Name, c)
		if hook := dl.telemetry().hooks.BreakerChanged; hook != nil {
			dl.telemetry().contain(ctx, "BreakerChanged", func() { hook(ctx, dl.target.Name, c.from, c.to) })
		}
	}
}

func (dl *delivery) tellEnd() {
	dl.gates.tally.ended(dl.outcome, dl.err)
	if !dl.dispatch.watched {
		return
	}
	defer dl.contained()
	ctx := dl.within(dl.clock.ctx)
	if dl.spans != nil {
		dl.endDeliverySpan()
	}
	dl.telemetry().metrics.delivered(ctx, dl)
	dl.securityEnd(ctx)
	if hook := dl.telemetry().hooks.DeliveryDone; hook != nil {
		dl.telemetry().contain(ctx, "DeliveryDone", func() { hook(ctx, dl.result()) })
	}
}

func (dl *delivery) tellCompensation() {
	defer dl.contained()
	dl.telemetry().metrics.compensated(dl.within(dl.clock.ctx), dl.target.label, dl.outcome)
}

// contain calls a hook.
func (t *telemetry) contain(ctx context.Context, name string, hook func()) {
	defer func() {
		if p := recover(); p != nil {
			defer func() { _ = recover() }() // of a logger that panics, too: there is nobody left to tell
			t.logPanic(ctx, name, newPanicError(p))
		}
	}()
	hook()
}
