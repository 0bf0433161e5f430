package fanout

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/trace"

	"github.com/fanout-go/fanout/internal/ids"
)

// Option says more about one dispatch. Without any, it goes to all of
// [Config.Targets].
type Option struct {
	names   []string
	targets []Target
	enough  *enough
	terms   *terms
}

// selects reports whether it says where to go.
func (o Option) selects() bool { return o.enough == nil && o.terms == nil }

// To names configured targets to dispatch to, instead of all of them. Several
// options add up.
func To(names ...string) Option { return Option{names: names} }

// ToTargets gives targets to dispatch to in the call itself, such as the webhook
// a customer has registered. They inherit [Config.Defaults]. Their breaker,
// bulkhead, rate limit and retry budget are kept under their name from call to
// call, and made from the first definition seen. A name not used for 20 minutes
// is forgotten, or later if its breaker or rate limit remembers longer.
func ToTargets(targets ...Target) Option { return Option{targets: targets} }

// dispatch is one payload to a set of targets.
type dispatch struct {
	d          *Dispatcher
	s          *Submission
	ctx        context.Context // the caller's, with the correlation ID
	deliveries []delivery
	clocks     *clock // a list
	crew       crew
	span       trace.Span // nil if there is none
	traced     tracing
	watched    bool           // by more than the tally
	background bool           // for a queue
	graph      *graph         // nil if no target depends on another
	journal    *journal       // nil if none is kept
	ended      chan *delivery // nil if nobody waits for single ones
}

// plan checks all there is to check, so that nothing is sent if anything is wrong.
func (d *Dispatcher) plan(ctx context.Context, payload any, options []Option) (*Submission, error) {
	if ctx == nil {
		return nil, errNilContext
	}
	terms, err := termsOf(options)
	if err != nil {
		return nil, err
	}
	chosen, err := d.choose(terms.within(ctx), options)
	if err != nil {
		return nil, err
	}
	s, err := encode(payload)
	if err != nil {
		return nil, err
	}
	s.Targets, s.targets, s.graph, s.terms = chosen.names, chosen.targets, chosen.graph, terms
	if s.Named() {
		s.DispatchID = s.terms.id
	} else {
		s.DispatchID = ids.New()
	}
	if s.enough, err = enoughOf(options, chosen); err != nil {
		return nil, err
	}
	inherited := CorrelationID(ctx)
	s.CorrelationID = cmp.Or(s.CorrelationID, inherited, s.DispatchID)
	s.inherited = s.CorrelationID == inherited
	return s, d.validate(ctx, s)
}

var errNilContext = invalid("Context", "nil")

// gatesOf finds a target's gates. Whoever asks must release them.
func (d *Dispatcher) gatesOf(t *target) *gates {
	if t.gates != nil {
		return t.gates
	}
	if configured, ok := d.registry.get(t.Name); ok {
		return configured.gates
	}
	return d.named.acquire(t)
}

// choose resolves the options to targets.
func (d *Dispatcher) choose(ctx context.Context, options []Option) (*selection, error) {
	chosen := d.registry.everything()
	selecting := selecting(options)
	chose := len(selecting) > 0
	if chose {
		var err error
		if chosen, err = d.chooseSome(ctx, selecting); err != nil {
			return nil, err
		}
	}
	if chosen.err != nil {
		return nil, chosen.err
	}
	if len(chosen.targets) == 0 {
		return nil, noTargets(chose)
	}
	return chosen, nil
}

func noTargets(chose bool) error {
	if chose {
		return invalid("Targets", "%w were chosen by the options of the call", ErrNoTargets)
	}
	return invalid("Targets", "%w are configured", ErrNoTargets)
}

func selecting(options []Option) []Option {
	if !slices.ContainsFunc(options, func(o Option) bool { return !o.selects() }) {
		return options
	}
	return slices.DeleteFunc(slices.Clone(options), func(o Option) bool { return !o.selects() })
}

func (d *Dispatcher) chooseSome(ctx context.Context, options []Option) (*selection, error) {
	var chosen selection
	var errs []error
	for _, o := range options {
		for _, name := range o.names {
			t, err := d.find(ctx, name)
			errs = append(errs, err)
			if err == nil {
				chosen.targets = append(chosen.targets, t)
			}
		}
		for _, def := range o.targets {
			t, err := d.compile(def, len(chosen.targets))
			errs = append(errs, err)
			if err == nil {
				chosen.targets = append(chosen.targets, t)
			}
		}
	}
	for _, t := range chosen.targets {
		chosen.names = append(chosen.names, t.Name)
	}
	if err := join(append(errs, duplicates(chosen.targets))...); err != nil {
		return nil, err
	}
	var err error
	chosen.graph, err = newGraph(chosen.targets)
	return &chosen, err
}

func duplicates(targets []*target) error {
	seen := make(map[string]bool, len(targets))
	for _, t := range targets {
		for _, one := range append(t.others(), t) {
			if seen[one.Name] {
				return &InvalidError{Target: one.Name, Field: "Name", Err: errors.New("given twice")}
			}
			seen[one.Name] = true
		}
	}
	return nil
}

func (d *Dispatcher) newDispatch(ctx context.Context, targets []*target, s *Submission, g *graph) *dispatch {
	p := &dispatch{d: d, s: s, ctx: ctx, graph: g, deliveries: make([]delivery, len(targets))}
	p.startTrace()
	p.watched = p.traced != untraced || d.telemetry.watching(ctx)
	if !s.inherited {
		p.ctx = WithCorrelationID(p.ctx, s.CorrelationID)
	}
	exchanges, attempts, answers := make([]exchange, len(targets)), make([]Attempt, len(targets)), make([]Response, len(targets))
	ids := requestIDs(s.DispatchID, targets)
	for i, t := range targets {
		length := len(s.DispatchID) + len(t.keySuffix) + len(firstAttempt)
		dl := &p.deliveries[i]
		dl.dispatch, dl.caller, dl.target, dl.gates, dl.clock = p, ctx, t, d.gatesOf(t), p.clockFor(i, t)
		dl.attempts, dl.exchange = attempts[i:i:i+1], &exchanges[i]
		dl.exchange.answer = &answers[i]
		dl.id, ids = ids[:length], ids[length:]
		dl.position = int32(i)
		dl.request = s.request(t, strings.TrimSuffix(dl.id, firstAttempt))
	}
	return p
}

// firstAttempt ends the ID of a delivery's first request; the next ends in ".2".
const firstAttempt = ".1"

// requestIDs is one string of the IDs of all first requests. What comes before
// their end is unique for the delivery, and is its idempotency key.
func requestIDs(dispatchID string, targets []*target) string {
	size := 0
	for _, t := range targets {
		size += len(dispatchID) + len(t.keySuffix) + len(firstAttempt)
	}
	var b strings.Builder
	b.Grow(size)
	for _, t := range targets {
		b.WriteString(dispatchID)
		b.WriteString(t.keySuffix)
		b.WriteString(firstAttempt)
	}
	return b.String()
}

// request is the submission as a target gets it unless its Prepare says otherwise.
func (s *Submission) request(t *target, deliveryID string) Request {
	r := Request{
		Target: t.Name, DispatchID: s.DispatchID, CorrelationID: s.CorrelationID,
		Payload: s.Payload, Header: s.Header, ContentType: s.ContentType, Body: s.Body,
	}
	switch {
	case !t.keyed():
	case s.IdempotencyKey != "":
		r.IdempotencyKey = s.IdempotencyKey + t.keySuffix
	default:
		r.IdempotencyKey = deliveryID
	}
	if t.endpoint != nil {
		r.Method, r.URL = t.endpoint.method, t.endpoint.url
	}
	return r
}

// clockFor leaves it to those that come after others to start their own.
func (p *dispatch) clockFor(i int, t *target) *clock {
	if p.graph != nil && len(p.graph.after[i]) > 0 {
		return nil
	}
	return p.clock(&t.policy)
}

func (p *dispatch) clock(policy *Policy) *clock {
	for c := p.clocks; c != nil; c = c.next {
		if c.fits(policy) {
			return c
		}
	}
	c := startClock(p.ctx, policy)
	c.next, p.clocks = p.clocks, c
	return c
}

// run makes all deliveries at once and waits for them.
func (p *dispatch) run() Results {
	defer p.release()
	if p.graph == nil {
		p.crew.run(p.deliveries)
	} else {
		p.runChain(p.graph)
	}
	results := make(Results, len(p.deliveries))
	for i := range p.deliveries {
		results[p.deliveries[i].target.Name] = p.deliveries[i].result()
	}
	p.endTrace(results)
	return results
}

func (p *dispatch) release() {
	for c := p.clocks; c != nil; c = c.next {
		c.stop()
	}
	for i := range p.deliveries {
		p.deliveries[i].gates.release()
	}
}

// refuse gives every target of a dispatch that was not begun its entry.
func (d *Dispatcher) refuse(options []Option, reason error) Results {
	results := make(Results)
	reject := func(name string, optional bool) {
		results[name] = Result{Target: name, Outcome: Rejected, Optional: optional, position: int32(len(results)), //nolint:gosec // no dispatch has that many targets
			Err: &TargetError{Target: name, Outcome: Rejected, Reason: reason}}
	}
	if len(selecting(options)) == 0 {
		for _, t := range d.registry.everything().targets {
			reject(t.Name, t.Optional)
		}
	}
	for _, o := range options {
		for _, name := range o.names {
			t, known := d.registry.get(name)
			reject(name, known && t.Optional)
		}
		for _, t := range o.targets {
			reject(t.Name, t.Optional)
		}
	}
	return results
}
