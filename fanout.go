package fanout

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
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
	Validate func(context.Context, *Submission) error

	// Queue keeps what is submitted. Default [NewMemoryQueue] with its defaults.
	// The dispatcher closes it.
	Queue Queue
	// OnResult is told the result of every submitted delivery, once it has ended
	// for good; what Close returns as undelivered has not. Its context has the
	// submitter's values and no end. It runs outside all locks and holds up its
	// target's next delivery, and Close; a panic in it is contained, and logged by
	// [log/slog.Default]. Default none.
	OnResult func(context.Context, *Submission, Result)
	// OnDeadLetter is told of every submitted delivery that failed for good, after
	// OnResult and like it; the delivery still takes up its room then. Logger has it
	// anyway. Of a Dispatch it is told what a saga could not undo. Default none.
	OnDeadLetter func(context.Context, *Submission, Result)

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
	registry        registry
	defaults        Policy
	transport       http.RoundTripper
	hangUp          context.CancelFunc // ends the connections of our own transport
	lifetime        context.Context    // ends with those connections
	named           namedGates
	transports      transports
	telemetry       *telemetry
	lookup          func(context.Context, string) (Target, error)
	maxPayloadBytes int
	validator       func(context.Context, *Submission) error

	queue                  Queue
	onResult, onDeadLetter func(context.Context, *Submission, Result)

	mu       sync.Mutex
	running  int       // dispatches under way, and the queue
	closed   bool      // no more may begin
	queueEnd sync.Once // what Close does when the queue has ended

	overtime context.Context // ends when Close has waited long enough
	timeIsUp context.CancelFunc
	finished chan struct{} // closed when nothing is running any more
}

// New checks the configuration and makes a dispatcher of it. Its error names
// every target and field at fault, each an [*InvalidError]. The configuration is
// copied.
func New(config Config) (*Dispatcher, error) {
	d := &Dispatcher{
		defaults:        config.Defaults.over(Policy{}),
		transport:       config.Transport,
		finished:        make(chan struct{}),
		queue:           config.Queue,
		telemetry:       newTelemetry(&config),
		lookup:          config.Lookup,
		maxPayloadBytes: cmp.Or(config.MaxPayloadBytes, defaultMaxPayloadBytes), validator: config.Validate,
		onResult: config.OnResult, onDeadLetter: config.OnDeadLetter,
	}
	d.overtime, d.timeIsUp = context.WithCancel(context.Background()) //nolint:gosec // Close calls it
	closing, hangUp := context.WithCancel(context.Background())
	d.hangUp, d.lifetime = hangUp, closing
	d.transports.make = func(guard *Guard, own *tls.Config) http.RoundTripper { return newTransport(closing, guard, own) }
	if d.transport == nil {
		d.transport, _ = d.transports.get(nil, nil) // fails for none
	}
	if err := d.defaults.check(); err != nil {
		return nil, mapInvalid(err, func(e *InvalidError) { e.Field = "Defaults." + e.Field })
	}
	if err := d.setTargets(config.Targets); err != nil {
		return nil, err
	}
	if d.queue == nil {
		d.queue = NewMemoryQueue(MemoryLimits{})
	}
	d.running = 1
	if err := d.queue.Start(worker{d}); err != nil {
		return nil, err
	}
	d.telemetry.metrics.observe(d)
	return d, nil
}

// Dispatch sends the payload to all configured targets, or those the options
// say, at the same time, and waits until each is delivered to or given up on.
// The payload is any value, which is encoded as JSON once for all targets, or a
// [Payload].
//
// The results have an entry for every target. The error is [Results.Err], a
// [*DispatchError], or nil if all required targets were delivered to. If the
// dispatch cannot begin, nothing is sent and every target's entry is [Rejected]:
// if the input cannot be used, the error matches [ErrInvalid] and is an
// [*InvalidError] or several joined; after Close it matches [ErrClosed].
//
// Dispatch waits for optional targets, too. What nobody should wait for is for
// [Dispatcher.Submit], or gets a short [Policy.Timeout].
//
// When ctx ends, attempts under way are cut short and Dispatch returns at once.
// Attempts to different targets are independent: none is cancelled because
// another failed.
func (d *Dispatcher) Dispatch(ctx context.Context, payload any, options ...Option) (Results, error) {
	if err := d.begin(); err != nil {
		return d.refuse(options, err), fmt.Errorf("fanout: %w", err)
	}
	defer d.end()
	s, err := d.plan(ctx, payload, options)
	if err == nil {
		err = s.terms.onlySubmit()
	}
	if err != nil {
		d.telemetry.securityInput(ctx, err)
		return d.refuse(options, err), err
	}
	results := d.runPlan(ctx, s)
	err = s.err(results)
	d.telemetry.logDispatch(ctx, s, results, err)
	if s.graph != nil {
		d.reportUndone(ctx, s, results)
	}
	return results, err
}

// BreakerState returns the state of a target's circuit breaker, and whether
// the target is known: configured, or given in a call not long ago.
func (d *Dispatcher) BreakerState(name string) (BreakerState, bool) {
	if t, ok := d.registry.get(name); ok {
		return t.gates.breaker.state(), true
	}
	return d.named.breakerState(name)
}

func (d *Dispatcher) runPlan(ctx context.Context, s *Submission) Results {
	if s.enough.successes > 0 {
		return d.runUntilEnough(ctx, s)
	}
	return d.newDispatch(ctx, s.targets, s, s.graph).run()
}

func (d *Dispatcher) begin() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	d.running++
	return nil
}

// resume is begin for what is part of a dispatch that has begun.
func (d *Dispatcher) resume() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running++
}

func (d *Dispatcher) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running--
	if d.running == 0 {
		close(d.finished)
		d.hangUp()
	}
}

// drainTimeout bounds a Close whose context has no deadline.
const drainTimeout = 30 * time.Second

// Close stops accepting, so that Dispatch and Submit fail with [ErrClosed], waits
// for what was submitted and for dispatches under way, and closes the connections
// of its own transport. It waits until ctx ends, at most 30 s if ctx has no
// deadline: give it less than whoever stops the process gives that, and more than
// [Policy.Timeout] if a target that hangs is to use its time up. Deliveries of the queue in memory are then cut short, and an
// [*UndeliveredError] has all that were not made, payloads included, in no order. So are
// compensations, and what [EnoughLeaveRest] left, which is told to the hooks. Other dispatches
// under way end with their own contexts; the error says how many there are.
//
// Call it after the last handler has returned, that is after
// [net/http.Server.Shutdown], and not in a hook or a [Sender], for which it would
// wait. It may be called more than once, and from several
// goroutines.
func (d *Dispatcher) Close(ctx context.Context) error {
	if ctx == nil {
		return errNilContext
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, drainTimeout)
		defer cancel()
	}
	d.stopAccepting()
	defer context.AfterFunc(ctx, d.timeIsUp)()
	err := d.queue.Close(ctx)
	d.queueEnd.Do(func() { d.endQueue(ctx, err) })
	select {
	case <-d.finished:
		return err
	default:
	}
	select {
	case <-d.finished:
		return err
	case <-ctx.Done():
	}
	select {
	case <-d.finished:
		return err
	case <-time.After(cutShortGrace):
		return errors.Join(err, d.leftRunning(ctx.Err()))
	}
}

func (d *Dispatcher) endQueue(ctx context.Context, err error) {
	if left, ok := lone[*UndeliveredError](err); ok {
		for _, u := range left.Left {
			d.telemetry.metrics.count(ctx, d.telemetry.metrics.dropped, label{target: d.labelOf(u.Result.Target)})
		}
	}
	d.telemetry.metrics.close()
	d.end()
}

func (d *Dispatcher) stopAccepting() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
}

func (d *Dispatcher) closing() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

func (d *Dispatcher) leftRunning(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return fmt.Errorf("fanout: closed with %d dispatches under way: %w", d.running, err)
}
