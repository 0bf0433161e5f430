package fanout

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/fanout-go/fanout/internal/ids"
	"github.com/fanout-go/fanout/internal/lifetime"
	"github.com/fanout-go/fanout/internal/otel"
	"github.com/fanout-go/fanout/internal/redact"
)

// Config configures a [Dispatcher]. The zero Config is valid; then each call gives its
// targets, by [ToTargets].
type Config struct {
	// Targets get every dispatch that has no [To] and no [ToTargets]. May be empty.
	Targets []Target
	// Defaults fills the zero fields of every target's [Policy].
	Defaults Policy
	// Transport sends the requests of targets that have no Transport of their own. It must
	// not follow redirects and must not retry. The caller owns it. Default: a transport that
	// the dispatcher owns. It keeps 64 idle connections per host and 1024 in all, connects
	// within 3 s, and allows 64 KiB of answer headers. It uses HTTP/2 if the target offers
	// it, and the proxy that the environment names.
	Transport http.RoundTripper

	// Lookup finds a target that is not configured, by its name, for example a customer's
	// webhook in a database. It is called when a dispatch names the target by [To], and each
	// time a durable queue delivers to it. The call has 10 s. State such as the breaker's is
	// kept as for [ToTargets]. If it returns an error, the dispatch is refused. Default
	// none.
	Lookup func(ctx context.Context, name string) (Target, error)

	// MaxPayloadBytes limits the encoded payload. A longer one is refused with
	// [ErrPayloadTooLarge]. Default 16 MiB; negative means no limit.
	MaxPayloadBytes int
	// Validate checks every payload before anything is sent, once for all targets. If it
	// returns an error, the dispatch is refused with an [*InvalidError] that wraps that
	// error and [ErrPayloadRefused]. It must not change the payload. Default none.
	Validate func(context.Context, *Payload) error

	// Queue keeps what is submitted. Default: [NewMemoryQueue] with its default limits.
	// [Dispatcher.Close] closes it.
	Queue Queue
	// OnResult is called with the final result of every submitted delivery. A delivery that
	// Close returns as undelivered has no final result. The context has the submitter's
	// values, and never ends. The call holds no lock, but it occupies one of the queue's
	// workers, and Close waits for it. A panic in it is written to Logger. Default none.
	OnResult func(context.Context, Result)
	// OnDeadLetter is called after OnResult, in the same way, for every submitted delivery
	// that failed for good; the delivery still counts as not done then. It also gets targets
	// of a Dispatch that a saga could not undo. Logger gets a record anyway. Default none.
	OnDeadLetter func(context.Context, Result)

	// Logger gets one record for each dispatch that failed and for each dead letter. It is
	// an error, or a warning if only optional targets failed, a fallback answered or a
	// quorum was reached. A breaker that opens is a warning, its other changes are infos. At
	// debug level each attempt has a record. Records hold no secrets. Default
	// [log/slog.Default]; use [log/slog.DiscardHandler] for none.
	Logger *slog.Logger
	// SecurityLogger gets one record for each event that concerns security. Its message is
	// "fanout: security", and its attribute "event" is one of these. Warnings: auth_failed
	// (an info if a token is only renewed), certificate_refused, address_blocked,
	// input_refused, rate_limited. Infos: targets_set, targets_removed. Events of a delivery
	// have "target", "dispatch_id", "class" and "correlation_id". Default none.
	SecurityLogger *slog.Logger
	// TracerProvider makes the spans. Default OpenTelemetry's global one.
	TracerProvider trace.TracerProvider
	// MeterProvider makes the metrics. Default OpenTelemetry's global one. Close stops the
	// gauges; flush the provider after that.
	MeterProvider metric.MeterProvider
	// Propagator writes the trace context into the requests of HTTP targets.
	// Default OpenTelemetry's global one, without baggage.
	Propagator propagation.TextMapPropagator
	// Hooks are called when something happens in a delivery. Default none.
	Hooks *Hooks
}

// Dispatcher sends payloads to sets of targets. Make one with [New] and keep it: it has
// every target's breaker, bulkhead, rate limit and retry budget. It is safe for
// concurrent use.
type Dispatcher struct {
	targets         registry
	queue           Queue
	observer        *observer
	validator       func(context.Context, *Payload) error
	maxPayloadBytes int
	work            lifetime.Group // running dispatches, and the queue
	ending          sync.Once      // what Close does when the queue has ended
	setting         setting        // of its dispatches
}

// New makes a dispatcher. It copies the configuration. Its error has an [*InvalidError]
// for each wrong field of each target. Errors between targets, such as an unknown name in
// [Target.After], are found only when each target is right by itself. If New fails, the
// caller still owns [Config.Queue] and closes it.
func New(config Config) (*Dispatcher, error) {
	d := &Dispatcher{
		queue: config.Queue,
		observer: &observer{
			otel: otel.New(config.TracerProvider, config.MeterProvider, config.Propagator),
			log:  log{config.Logger}, security: securityLog{config.SecurityLogger}, hooks: copyOf(config.Hooks),
			onResult: config.OnResult, onDeadLetter: config.OnDeadLetter,
		},
		validator:       config.Validate,
		maxPayloadBytes: cmp.Or(config.MaxPayloadBytes, defaultMaxPayloadBytes),
	}
	d.work.Init()
	d.setting = setting{observer: d.observer, gatesOf: d.targets.gatesOf, overtime: d.work.Overtime}
	connect := &transports{closing: d.work.Closing}
	d.targets.builder = builder{
		defaults: config.Defaults.over(Policy{}), transport: config.Transport, transports: connect,
		inject: d.observer.otel.Inject, lifetime: d.work.Closing,
	}
	d.targets.lookup = config.Lookup
	if config.Transport == nil {
		d.targets.transport, _ = connect.get(nil, nil) // fails for none
	}
	if err := d.targets.defaults.check(); err != nil {
		return nil, mapInvalid(err, func(e *InvalidError) { e.Field = "Defaults." + e.Field })
	}
	if err := d.targets.setAll(config.Targets); err != nil {
		return nil, err
	}
	if d.queue == nil {
		d.queue = NewMemoryQueue(MemoryLimits{})
	}
	if err := d.queue.Start(&Worker{deliver: d.deliver, done: d.done}); err != nil {
		return nil, err
	}
	d.observer.otel.Observe(d.gauges())
	return d, nil
}

// Dispatch sends the payload to all configured targets, or to those that the options
// name, at the same time. It waits until each delivery has ended. The payload is a
// [Payload], or any other value, which is encoded as JSON once for all targets.
//
// The results have an entry for every target. The error is [Results.Err]: nil if all
// required targets succeeded, or else a [*DispatchError]. If the dispatch cannot begin,
// nothing is sent, every entry is [Rejected], and the error is a [*RefusedError]. It
// matches [ErrInvalid] if the input cannot be used, and [ErrClosed] after Close.
//
// Dispatch also waits for optional targets. For work that the caller need not wait for,
// use [Dispatcher.Submit], or set a short [Policy.Timeout].
//
// When ctx ends, running attempts are cut short, and Dispatch returns when all Senders
// and hooks have returned. Only the compensations of a saga go on, and Dispatch waits for
// them. The failure of one target never cancels the attempts to another, except by
// [Quorum].
func (d *Dispatcher) Dispatch(ctx context.Context, payload any, options ...DispatchOption) (Results, error) {
	o := dispatchOptions(options)
	if !d.work.Begin() {
		return d.refuse(o, ErrClosed), &RefusedError{ErrClosed}
	}
	defer d.work.End()
	p := new(Payload)
	chosen, _, err := d.plan(ctx, p, payload, o)
	if err != nil {
		d.observer.inputRefused(ctx, err)
		return d.refuse(o, err), &RefusedError{err}
	}
	results := d.run(ctx, p, chosen, o.quorum)
	err = o.quorum.err(results)
	d.observer.dispatchDone(ctx, p, results, err)
	if chosen.graph != nil {
		d.tellUndone(ctx, results)
	}
	return results, err
}

// Submit accepts the payload for delivery in the background, and returns the ID of the
// dispatch at once. The deliveries keep the values of ctx, such as the correlation ID,
// but do not end with it: each has [Policy.Timeout] from when it begins.
// [Config.OnResult] and [Config.OnDeadLetter] get the results.
//
// The queue in memory lets a delivery wait, within its Timeout, while its target's
// breaker is open, its retry budget is spent, or its token cannot be fetched. So a short
// outage need not make it fail. It does not wait if more than half of the room for its
// target is used, or while Close drains: then it fails at once, and is a dead letter.
//
// An error is a [*RefusedError], and then nothing was accepted. The reasons are those of
// [Dispatcher.Dispatch], and a queue that failed or has no room ([ErrFull]). If only an
// optional target has no room, the rest is accepted and that target is [Rejected].
// [Dispatcher.Close] waits for what was accepted. If the process dies, what is in memory
// is lost.
func (d *Dispatcher) Submit(ctx context.Context, payload any, options ...SubmitOption) (id string, err error) {
	if !d.work.Begin() {
		return "", &RefusedError{ErrClosed}
	}
	defer d.work.End()
	o := submitOptions(options)
	s := new(submission)
	chosen, named, err := d.plan(ctx, &s.payload, payload, o)
	if err != nil {
		d.observer.inputRefused(ctx, err)
		return "", &RefusedError{err}
	}
	deliveries := s.deliveries(chosen, named, o.queue)
	err = d.queue.Submit(ctx, deliveries)
	if err != nil {
		d.observer.submitRefused(ctx, err)
		return "", &RefusedError{redact.URL(err)}
	}
	for _, t := range chosen.targets {
		d.observer.submitted(ctx, &t.shown)
	}
	return s.payload.ID, nil
}

// SetTargets adds targets, or replaces those of the same names. Running dispatches, and
// deliveries in the queue in memory, keep the old definitions. A target whose URL and
// policy are unchanged keeps its breaker, bulkhead, rate limit and retry budget. If there
// is an error, as of [New] or [ErrClosed], nothing was changed. An idle target costs
// about 2.8 KiB and no goroutine.
func (d *Dispatcher) SetTargets(targets ...Target) error {
	if !d.work.Begin() {
		return &RefusedError{ErrClosed}
	}
	defer d.work.End()
	if err := d.targets.setAll(targets); err != nil {
		d.observer.inputRefused(context.Background(), err)
		return err
	}
	d.observer.targetsSet(namesOf(targets))
	return nil
}

// RemoveTargets removes targets. Running dispatches, and deliveries in the queue in
// memory, still go to them. Unknown names are ignored.
func (d *Dispatcher) RemoveTargets(names ...string) {
	d.observer.targetsRemoved(d.targets.remove(names))
}

// TargetNames returns the names of all configured targets, in definition order.
func (d *Dispatcher) TargetNames() []string { return slices.Clone(d.targets.everything().names) }

// BreakerState returns the state of a target's circuit breaker. The second result is
// false for a target that is not configured and was not used in the last minutes.
func (d *Dispatcher) BreakerState(name string) (BreakerState, bool) {
	g, ok := d.targets.gatesNamed(name)
	if !ok {
		return "", false
	}
	return g.breaker.state(), true
}

// Snapshot returns the state of all configured targets, for health checks and dashboards.
func (d *Dispatcher) Snapshot(ctx context.Context) Snapshot {
	backlog, err := backlogOf(ctx, d.queue)
	if err != nil {
		d.observer.backlogUnknown(ctx, err)
	}
	return snapshot(d.targets.everything().targets, backlog, err)
}

// drainTimeout limits a Close whose context has no deadline.
const drainTimeout = 30 * time.Second

// Close stops accepting: from now on Dispatch and Submit return [ErrClosed]. It waits for
// submitted deliveries and running dispatches, and then closes the queue and the
// dispatcher's own transport. It waits until ctx ends, or for 30 s if ctx has no
// deadline, and then at most 2 s more with the queue in memory. For example, if the
// process is killed 30 s after the signal, give Close 25 s. A delivery to a target that
// hangs ends by itself only if [Policy.Timeout] is shorter than that.
//
// When the time is over, Close cuts short the deliveries of the queue in memory,
// compensations, and what [QuorumLeaveRest] left. The error is then an
// [*UndeliveredError] that has every delivery of the queue that is not done, with its
// payload, in no order. Other dispatches end with their own contexts; the error says how
// many still run.
//
// Call Close after the last handler has returned, for example after
// [net/http.Server.Shutdown]. Do not call it in a hook or a [Sender]: it would wait for
// itself. It may be called more than once, and from several goroutines.
func (d *Dispatcher) Close(ctx context.Context) error {
	if ctx == nil {
		return errNilContext
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, drainTimeout)
		defer cancel()
	}
	d.work.Close()
	defer context.AfterFunc(ctx, d.work.TimeIsUp)()
	err := d.queue.Close(ctx)
	d.ending.Do(func() { d.endQueue(ctx, err) })
	if running := d.work.Wait(ctx, cutShortGrace); running > 0 {
		err = join(err, fmt.Errorf("fanout: closed with %d dispatches under way: %w", running, ctx.Err()))
	}
	return err
}

func (d *Dispatcher) endQueue(ctx context.Context, err error) {
	if left, ok := lone[*UndeliveredError](err); ok {
		for _, r := range left.Left {
			d.observer.otel.Dropped(ctx, d.targets.label(r.Target))
		}
	}
	d.observer.otel.Close()
	d.work.End()
}

var errNilContext = invalid("Context", "nil")

// plan fills in and checks the payload before anything is sent. named reports whether the
// caller gave the payload its ID.
func (d *Dispatcher) plan(ctx context.Context, p *Payload, given any, o *options) (chosen *selection, named bool, err error) {
	if ctx == nil {
		return nil, false, errNilContext
	}
	if chosen, err = d.targets.choose(ctx, o); err != nil {
		return nil, false, err
	}
	if err := p.fill(given); err != nil {
		return nil, false, err
	}
	if err := chosen.allows(o); err != nil {
		return nil, false, err
	}
	if named = p.ID != ""; !named {
		p.ID = ids.New()
	}
	p.Key = cmp.Or(p.Key, p.ID)
	p.CorrelationID = cmp.Or(p.CorrelationID, CorrelationID(ctx), p.ID)
	return chosen, named, d.validate(ctx, p, chosen)
}

// refuse returns a Rejected result for every target of a dispatch that did not begin.
func (d *Dispatcher) refuse(o *options, reason error) Results {
	results := make(Results)
	reject := func(name string, optional bool) {
		one := unmade(nil, name, Rejected, reason)
		one.Optional, one.position = optional, int32(len(results))
		results[name] = one
	}
	if !o.chosen {
		for _, t := range d.targets.everything().targets {
			reject(t.Name, t.Optional)
		}
	}
	for _, p := range o.picks {
		t, known := d.targets.get(p.name)
		reject(p.name, (p.definition != nil && p.definition.Optional) || (p.definition == nil && known && t.Optional))
	}
	return results
}

// validate checks a payload before anything is sent.
func (d *Dispatcher) validate(ctx context.Context, p *Payload, chosen *selection) error {
	if err := p.checkSize(d.maxPayloadBytes); err != nil {
		return err
	}
	var errs []error
	if d.validator != nil {
		errs = append(errs, p.checkBy(ctx, d.validator, ""))
	}
	for _, t := range chosen.targets {
		if t.Validate != nil {
			errs = append(errs, p.checkBy(ctx, t.Validate, t.Name))
		}
	}
	return join(errs...)
}

func (d *Dispatcher) run(ctx context.Context, p *Payload, chosen *selection, q quorum) Results {
	if q.successes > 0 {
		return d.runQuorum(ctx, p, chosen, q)
	}
	made := newDispatch(ctx, d.setting, p, chosen)
	var results Results
	if chosen.graph == nil {
		results = made.run()
	} else {
		results, _ = runChain(made, chosen.graph, nil)
	}
	d.observer.dispatchEnded(made.span, results, results.Err())
	return results
}

func (d *Dispatcher) runQuorum(ctx context.Context, p *Payload, chosen *selection, q quorum) Results {
	begin := func(ctx context.Context) *dispatch { return newDispatch(ctx, d.setting, p, chosen) }
	ended := func(made *dispatch, results Results) { d.observer.dispatchEnded(made.span, results, q.err(results)) }
	if !q.leaveRest {
		return q.cutRest(ctx, begin, ended)
	}
	underWay := func(ctx context.Context) *dispatch {
		p := begin(ctx) // code of the caller's context may panic here
		d.work.Resume()
		return p
	}
	return q.leave(ctx, d.work.Overtime, underWay, func(ctx context.Context, made *dispatch, results Results, late []string) {
		defer d.work.End()
		ended(made, results)
		for _, name := range late {
			d.tellLate(ctx, results[name])
		}
	})
}

// deliver makes one round of a queue's delivery. Code of its context may panic.
func (d *Dispatcher) deliver(ctx context.Context, dl *Delivery, r *Round) (results []Result, left error) {
	if dl == nil {
		return nil, errNoDelivery
	}
	defer func() {
		if p := recover(); p != nil {
			results, left = dl.notMade(r, newPanicError(p))
		}
	}()
	if dl.Payload == nil {
		return dl.Results(Rejected, errNoPayload), nil
	}
	chosen, err := d.chosenFor(ctx, dl)
	if err != nil {
		return dl.notMade(r, err)
	}
	return d.makeRound(ctx, dl, chosen, r)
}

func (d *Dispatcher) makeRound(ctx context.Context, dl *Delivery, chosen *selection, r *Round) ([]Result, error) {
	ctx, j := newJournal(ctx, r)
	defer j.close()
	s := d.setting
	s.submitted, s.patience = true, r.Patient
	made := newDispatch(ctx, s, dl.Payload.whole(), chosen)
	var results Results
	var left error
	if chosen.graph == nil {
		results = made.run()
	} else {
		results, left = runChain(made, chosen.graph, j)
	}
	d.observer.dispatchEnded(made.span, results, results.Err())
	all := results.Sorted()
	for i := range all {
		all[i].position += dl.position
	}
	return all, left
}

// chosenFor returns the targets of a delivery. If a queue made it anew, they are found by
// name.
func (d *Dispatcher) chosenFor(ctx context.Context, dl *Delivery) (*selection, error) {
	if dl.chosen != nil && dl.Chained {
		return dl.chosen, nil
	}
	if dl.chosen != nil {
		return &selection{targets: dl.made(), names: dl.Targets}, nil
	}
	return d.targets.chosen(ctx, dl.Targets, dl.Chained)
}

// done reports the final result of a submitted delivery.
func (d *Dispatcher) done(ctx context.Context, r Result) {
	d.observer.settled(ctx, final{Result: r, label: d.targets.label(r.Target), queued: true, closing: d.work.IsClosed()})
}

// tellLate reports a delivery that ended after a quorum was reached.
func (d *Dispatcher) tellLate(ctx context.Context, r Result) {
	d.observer.settled(ctx, final{Result: r, label: d.targets.label(r.Target)})
}

// tellUndone reports what a saga could not undo. The caller has these results too.
func (d *Dispatcher) tellUndone(ctx context.Context, results Results) {
	for _, r := range results.Sorted() {
		if r.Outcome == CompensationFailed {
			d.observer.settled(ctx, final{Result: r, label: d.targets.label(r.Target), known: true})
		}
	}
}

// gauges are read when metrics are collected.
func (d *Dispatcher) gauges() otel.Observer {
	return otel.Observer{
		Targets: func() []otel.Gauges { return gaugesOf(d.targets.everything().targets) },
		Queue: func(ctx context.Context) (map[string]otel.Backlog, error) {
			backlog, err := backlogOf(ctx, d.queue)
			if err != nil || backlog == nil {
				return nil, err
			}
			return byLabel(backlog, d.TargetNames(), d.targets.label), nil
		},
	}
}
