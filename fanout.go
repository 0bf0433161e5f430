package fanout

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
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
	// transport that the dispatcher owns, with 64 idle connections per host, 3 s
	// to connect, 64 KiB of answer headers, HTTP/2 where the target offers it,
	// and the proxy that the environment names.
	Transport http.RoundTripper
}

// Dispatcher sends payloads to sets of targets. Make one with [New] and keep it:
// it holds the state of every target's breaker, bulkhead, rate limit and retry
// budget. It is safe for concurrent use.
type Dispatcher struct {
	targets   []*target
	byName    map[string]*target
	defaults  Policy
	transport http.RoundTripper
	hangUp    context.CancelFunc // ends the connections of our own transport
	named     namedGates

	mu       sync.Mutex
	running  int           // dispatches under way
	closed   bool          // no more may begin
	finished chan struct{} // closed when closed and running is 0
}

// New checks the configuration and makes a dispatcher of it. Its error names
// every target and field at fault, each an [*InvalidError]. The configuration is
// copied.
func New(config Config) (*Dispatcher, error) {
	d := &Dispatcher{
		byName:    make(map[string]*target, len(config.Targets)),
		defaults:  config.Defaults.over(Policy{}),
		transport: config.Transport,
		finished:  make(chan struct{}),
	}
	d.hangUp = func() {}
	if d.transport == nil {
		var closing context.Context
		closing, d.hangUp = context.WithCancel(context.Background())
		d.transport = newTransport(closing)
	}
	if err := d.defaults.check(); err != nil {
		return nil, mapInvalid(err, func(e *InvalidError) { e.Field = "Defaults." + e.Field })
	}
	var errs []error
	for i, def := range config.Targets {
		t, err := compile(def, i, d.defaults, d.transport)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		t.gates = newGates(t.policy)
		d.targets = append(d.targets, t)
		d.byName[t.Name] = t
	}
	errs = append(errs, duplicates(d.targets))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return d, nil
}

// Dispatch sends the payload to all configured targets, or those the options
// say, at the same time, and waits until each is delivered to or given up on.
// The payload is any value, which is encoded as JSON once for all targets, or a
// [Payload].
//
// The results have an entry for every target. The error is [Results.Err]: nil if
// all required targets were delivered to. If the input cannot be used, nothing is
// sent, every target's entry is [Rejected] and the error is an [*InvalidError]
// or several joined.
//
// When ctx ends, attempts under way are cut short and Dispatch returns at once.
// Attempts to different targets are independent: none is cancelled because
// another failed.
func (d *Dispatcher) Dispatch(ctx context.Context, payload any, options ...Option) (Results, error) {
	if err := d.begin(); err != nil {
		return d.refuse(options, err), fmt.Errorf("fanout: %w", err)
	}
	defer d.end()
	p, err := d.plan(ctx, payload, options)
	if err != nil {
		return d.refuse(options, err), err
	}
	results := p.run()
	return results, results.Err()
}

// BreakerState returns the state of a target's circuit breaker, and whether
// the target is known: configured, or given in a call not long ago.
func (d *Dispatcher) BreakerState(name string) (BreakerState, bool) {
	if t, ok := d.byName[name]; ok {
		return t.gates.breaker.state(), true
	}
	return d.named.breakerState(name)
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

func (d *Dispatcher) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running--
	if d.closed && d.running == 0 {
		close(d.finished)
	}
}

// Close stops accepting dispatches, which then fail with [ErrClosed], waits for
// those under way and closes the connections of its own transport. If ctx ends first, its error says
// how many are left; they go on until their own contexts or timeouts end them.
// Close may be called more than once, and from several goroutines.
func (d *Dispatcher) Close(ctx context.Context) error {
	if ctx == nil {
		return errNilContext
	}
	d.mu.Lock()
	if !d.closed {
		d.closed = true
		if d.running == 0 {
			close(d.finished)
		}
	}
	d.mu.Unlock()

	select {
	case <-d.finished:
	default:
		select {
		case <-d.finished:
		case <-ctx.Done():
			return d.leftRunning(ctx.Err())
		}
	}
	d.hangUp()
	return nil
}

func (d *Dispatcher) leftRunning(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return fmt.Errorf("fanout: closed with %d dispatches under way: %w", d.running, err)
}
