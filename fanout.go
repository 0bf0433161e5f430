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

// Config is what a [Dispatcher] is made of.
type Config struct {
	// Targets is the default set: where a dispatch goes unless it says
	// otherwise. It may be empty if every dispatch gives its own.
	Targets []Target
	// Defaults fills the zero fields of every target's [Policy].
	Defaults Policy
	// Transport carries the requests of targets that bring none of their own.
	// It must not follow redirects or retry by itself. Default: a tuned
	// transport that the dispatcher owns, with 64 idle connections per host and
	// 1024 in all, 3 s to connect, 64 KiB of answer headers, HTTP/2 where the
	// target offers it, and the proxy that the environment names.
	Transport http.RoundTripper

	// Lookup finds the definition of a target that is not configured, by its name,
	// such as a customer's webhook in a database: when a dispatch names it by [To],
	// and when a durable queue comes to its delivery. What its breaker and the like
	// remember is kept as for [ToTargets]. It has 10 s. An error refuses the dispatch.
	// Default none.
	Lookup func(ctx context.Context, name string) (Target, error)

	// MaxPayloadBytes bounds the encoded payload: a longer one is refused with
	// [ErrPayloadTooLarge]. Default 16 MiB; negative means no bound.
	MaxPayloadBytes int
	// Validate looks at every payload before anything is sent, once for all
	// targets; see [Target.Validate]. An error refuses the dispatch with an
	// [*InvalidError], which wraps [ErrPayloadRefused] and it. Default none.
	Validate func(context.Context, *Payload) error

	// Queue keeps what is submitted. Default [NewMemoryQueue] with its defaults.
	// The dispatcher closes it.
	Queue Queue
	// OnResult is told the result of every submitted delivery, once it has ended
	// for good; what Close returns as undelivered has not. Its context has the
	// submitter's values and no end. It runs outside all locks and holds up its
	// target's next delivery, and Close; a panic in it is contained, and logged by
	// [log/slog.Default]. Default none.
	OnResult func(context.Context, Result)
	// OnDeadLetter is told of every submitted delivery that failed for good, after
	// OnResult and like it; the delivery still takes up its room then. Logger has it
	// anyway. Of a Dispatch it is told what a saga could not undo. Default none.
	OnDeadLetter func(context.Context, Result)

	// Logger gets one record for each dispatch that failed and each dead letter
	// (an error, or a warning if only optional targets failed), and for each change
	// of a breaker (a warning if it opens, else an info). With its debug level on,
	// one for each attempt. Records never hold secrets. Default
	// [log/slog.Default]; a logger of [log/slog.DiscardHandler] switches it off.
	Logger *slog.Logger
	// SecurityLogger gets what a security team wants to know, one record for each
	// event, with the message "fanout: security" and the attribute "event":
	// auth_failed (an info if a token was only due for renewal), certificate_refused,
	// address_blocked, input_refused, rate_limited (warnings), targets_set and
	// targets_removed (infos). Those of a delivery have "target", "dispatch_id",
	// "class" and "correlation_id". Default none.
	SecurityLogger *slog.Logger
	// TracerProvider makes the spans. Default OpenTelemetry's global one.
	TracerProvider trace.TracerProvider
	// MeterProvider makes the metrics. Default OpenTelemetry's global one. Flush it
	// after Close; gauges are no longer observed then.
	MeterProvider metric.MeterProvider
	// Propagator writes the trace context into the requests of HTTP targets.
	// Default OpenTelemetry's global one, without baggage.
	Propagator propagation.TextMapPropagator
	// Hooks are told what happens as it happens. Default none.
	Hooks *Hooks
}

// Dispatcher sends payloads to sets of targets. Make one with [New] and keep it:
// it holds the state of every target's breaker, bulkhead, rate limit and retry
// budget. It is safe for concurrent use.
type Dispatcher struct {
	targets         registry
	queue           Queue
	observer        *observer
	validator       func(context.Context, *Payload) error
	maxPayloadBytes int
	work            lifetime.Group // dispatches under way, and the queue
	ending          sync.Once      // what Close does when the queue has ended
	setting         setting        // of its dispatches
}

// New checks the configuration and makes a dispatcher of it. Its error names every field at
// fault of every target, each an [*InvalidError]. What is wrong between targets, such as an
// unknown name in [Target.After], is looked for when each of them is right. The
// configuration is copied. If New fails, it has closed nothing: a [Config.Queue] is still the caller's.
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

// Dispatch sends the payload to all configured targets, or those the options
// say, at the same time, and waits until each is delivered to or given up on.
// The payload is any value, which is encoded as JSON once for all targets, or a
// [Payload].
//
// The results have an entry for every target. The error is [Results.Err], a
// [*DispatchError], or nil if all required targets were delivered to. If the
// dispatch cannot begin, nothing is sent, every target's entry is [Rejected], and the
// error is a [*RefusedError]: if the input cannot be used it matches [ErrInvalid] and
// wraps one or several [*InvalidError]; after Close it matches [ErrClosed].
//
// Dispatch waits for optional targets, too. What nobody should wait for is for
// [Dispatcher.Submit], or gets a short [Policy.Timeout].
//
// When ctx ends, attempts under way are cut short and Dispatch returns at once.
// Attempts to different targets are independent: none is cancelled because
// another failed.
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
// If there is an error, it is a [*RefusedError], and nothing was accepted: the input is
// refused as by [Dispatcher.Dispatch], the queue has no room ([ErrFull]) or failed, or
// the dispatcher is closed ([ErrClosed]). An optional target without room refuses
// nothing: it is [Rejected], and told like any other failure. With the queue in memory,
// what was accepted is lost if the process dies; [Dispatcher.Close] waits for it.
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

// SetTargets adds targets to those of [Config.Targets], or replaces those of the
// same names. What is under way, or submitted, goes on with the old definitions. A
// target whose URL and policy stay as they were keeps its breaker, bulkhead, rate
// limit and retry budget; otherwise they start anew. If there is an error, as by
// [New] or [ErrClosed], nothing has changed. An idle target costs about 2.8 KiB and
// no goroutine.
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

// RemoveTargets removes targets. What is under way to them, or submitted, goes
// on. Unknown names are ignored.
func (d *Dispatcher) RemoveTargets(names ...string) {
	d.observer.targetsRemoved(d.targets.remove(names))
}

// TargetNames are the names of all configured targets, in definition order.
func (d *Dispatcher) TargetNames() []string { return slices.Clone(d.targets.everything().names) }

// BreakerState returns the state of a target's circuit breaker, and whether
// the target is known: configured, or given in a call not long ago.
func (d *Dispatcher) BreakerState(name string) (BreakerState, bool) {
	g, ok := d.targets.gatesNamed(name)
	if !ok {
		return "", false
	}
	return g.breaker.state(), true
}

// Snapshot returns how all configured targets are, for health checks and
// dashboards.
func (d *Dispatcher) Snapshot(ctx context.Context) Snapshot {
	backlog, err := backlogOf(ctx, d.queue)
	if err != nil {
		d.observer.backlogUnknown(ctx, err)
	}
	return snapshot(d.targets.everything().targets, backlog, err)
}

// drainTimeout bounds a Close whose context has no deadline.
const drainTimeout = 30 * time.Second

// Close stops accepting, so that Dispatch and Submit fail with [ErrClosed], waits
// for what was submitted and for dispatches under way, and closes the queue and the
// connections of its own transport. It waits until ctx ends, at most 30 s if ctx has no
// deadline: give it less than whoever stops the process gives that, and more than
// [Policy.Timeout] if a target that hangs is to use its time up. Deliveries of the queue
// in memory are then cut short, and an [*UndeliveredError] has all that were not made,
// payloads included, in no order. So are compensations, and what [QuorumLeaveRest] left,
// which is told to the hooks. Other dispatches under way end with their own contexts; the
// error says how many there are.
//
// Call it after the last handler has returned, that is after
// [net/http.Server.Shutdown], and not in a hook or a [Sender], for which it would
// wait. It may be called more than once, and from several goroutines.
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

// plan fills the payload in and checks all there is to check, so that nothing is sent if
// anything is wrong. It reports whether the caller named the dispatch.
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

// refuse gives every target of a dispatch that was not begun its entry.
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

// validate looks at a payload before anything is sent.
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
		p := begin(ctx) // which may panic, by code of the caller's context
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

// deliver makes one round of a queue's delivery, whatever code of its context does.
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

// chosenFor are the targets of a delivery, found by their names if it was made again.
func (d *Dispatcher) chosenFor(ctx context.Context, dl *Delivery) (*selection, error) {
	if dl.chosen != nil && dl.Chained {
		return dl.chosen, nil
	}
	if dl.chosen != nil {
		return &selection{targets: dl.made(), names: dl.Targets}, nil
	}
	return d.targets.chosen(ctx, dl.Targets, dl.Chained)
}

// done tells of a submitted delivery that has ended.
func (d *Dispatcher) done(ctx context.Context, r Result) {
	d.observer.settled(ctx, final{Result: r, label: d.targets.label(r.Target), queued: true, closing: d.work.IsClosed()})
}

// tellLate tells of a delivery that was left to finish.
func (d *Dispatcher) tellLate(ctx context.Context, r Result) {
	d.observer.settled(ctx, final{Result: r, label: d.targets.label(r.Target)})
}

// tellUndone tells of what a failed saga left behind, though its caller has the results.
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
