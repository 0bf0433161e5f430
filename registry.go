package fanout

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/fanout-go/fanout/internal/otel"
	"github.com/fanout-go/fanout/internal/redact"
)

// registry has the configured targets. They may change while dispatches run. A running
// dispatch keeps the definitions that it began with.
type registry struct {
	builder
	lookup func(context.Context, string) (Target, error)
	named  namedGates

	mu      sync.RWMutex
	byName  map[string]*target
	names   []string // in definition order
	all     *selection
	labels  int  // how many targets have labels of their own
	related bool // some target is or was related to another
}

// selection is a set of targets. It never changes.
type selection struct {
	targets []*target
	names   []string
	graph   *graph // nil if no target depends on another
	err     error  // why it cannot be used: a target that others come after was removed
}

// allows refuses a quorum that these targets cannot reach.
func (s *selection) allows(o *options) error {
	switch n := o.quorum.successes; {
	case o.quorums == 0:
		return nil
	case o.quorums > 1:
		return invalid("Quorum", "given twice")
	case n < 1 || n > len(s.targets):
		return invalid("Quorum", "%d of %d targets", n, len(s.targets))
	case s.graph != nil:
		return invalid("Quorum", "the targets depend on each other, by After, Compensate or Pivot")
	}
	return nil
}

func (r *registry) setAll(definitions []Target) error {
	built, err := r.buildAll(definitions)
	if err != nil {
		return err
	}
	return r.set(built)
}

func (r *registry) buildAll(definitions []Target) ([]*target, error) {
	var built []*target
	var errs []error
	for i, def := range definitions {
		t, err := r.build(def, i)
		errs = append(errs, err)
		if err == nil {
			built = append(built, t)
		}
	}
	return built, join(append(errs, duplicates(built))...)
}

func (r *registry) set(targets []*target) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.check(targets); err != nil {
		return err
	}
	if r.byName == nil {
		r.byName = make(map[string]*target, len(targets))
	}
	for _, t := range targets {
		old := r.byName[t.Name]
		if old == nil {
			r.names = append(r.names, t.Name)
		}
		r.setLabel(t, old)
		r.related = r.related || t.related()
		t.takeGates(old)
		r.byName[t.Name] = t
	}
	r.all = nil
	return nil
}

// check checks all targets only if some target is related to another. Without that
// condition, setting 100,000 single targets one by one would take time that grows with
// the square.
func (r *registry) check(targets []*target) error {
	if !r.related && !slices.ContainsFunc(targets, (*target).related) {
		return nil
	}
	replaced := make(map[string]bool, len(targets))
	for _, t := range targets {
		replaced[t.Name] = true
	}
	var all []*target
	for _, name := range r.names {
		if !replaced[name] {
			all = append(all, r.byName[name])
		}
	}
	all = append(all, targets...)
	if err := duplicates(all); err != nil {
		return err
	}
	_, err := newGraph(all)
	return err
}

// related reports whether the target depends on others, or has fallbacks.
func (t *target) related() bool { return t.chained() || t.fallbacks != nil }

// takeGates takes the gates of the old definition if URL and policy are the same.
// Otherwise it makes new ones.
func (t *target) takeGates(old *target) {
	if old != nil && old.URL == t.URL && reflect.DeepEqual(old.policy, t.policy) {
		t.gates = old.gates
	} else {
		t.gates = newGates(t.policy)
	}
	for _, other := range t.others() {
		if t.shown.Label != otel.OtherLabel {
			other.shown.Label = other.Name
		}
		var before *target
		if old != nil {
			before = named(old.others(), other.Name)
		}
		other.takeGates(before)
	}
}

func named(targets []*target, name string) *target {
	i := slices.IndexFunc(targets, func(t *target) bool { return t.Name == name })
	if i < 0 {
		return nil
	}
	return targets[i]
}

// setLabel gives a target its own label in metrics, unless too many targets have one.
func (r *registry) setLabel(t, old *target) {
	switch {
	case old != nil:
		t.shown.Label = old.shown.Label
	case r.labels < otel.MaxLabels:
		t.shown.Label = t.Name
		r.labels++
	}
}

func (r *registry) remove(names []string) (removed []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names {
		t := r.byName[name]
		if t == nil {
			continue
		}
		if t.shown.Label != otel.OtherLabel {
			r.labels--
		}
		delete(r.byName, name)
		removed = append(removed, name)
	}
	r.names = slices.DeleteFunc(r.names, func(name string) bool { return r.byName[name] == nil })
	r.all = nil
	return removed
}

func (r *registry) get(name string) (*target, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	t, ok := r.byName[name]
	return t, ok
}

// everything selects all targets, in definition order.
func (r *registry) everything() *selection {
	r.mu.RLock()
	all := r.all
	r.mu.RUnlock()
	if all != nil {
		return all
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = &selection{names: slices.Clone(r.names)}
	for _, name := range r.names {
		r.all.targets = append(r.all.targets, r.byName[name])
	}
	if r.related {
		r.all.graph, r.all.err = newGraph(r.all.targets)
	}
	return r.all
}

// label returns the target's name in metrics.
func (r *registry) label(name string) string {
	if t, ok := r.get(name); ok {
		return t.shown.Label
	}
	return otel.OtherLabel
}

// gatesOf returns a target's gates. The caller must release them.
func (r *registry) gatesOf(t *target) *gates {
	if t.gates != nil {
		return t.gates
	}
	if configured, ok := r.get(t.Name); ok {
		return configured.gates
	}
	return r.named.acquire(t.Name, t.policy)
}

// gatesNamed returns the gates of a target that is configured or was used in the last
// minutes.
func (r *registry) gatesNamed(name string) (*gates, bool) {
	if t, ok := r.get(name); ok {
		return t.gates, true
	}
	return r.named.get(name)
}

// choose returns the targets that the options name.
func (r *registry) choose(ctx context.Context, o *options) (*selection, error) {
	chosen := r.everything()
	if o.chosen {
		var err error
		if chosen, err = r.pick(o.within(ctx), o.picks); err != nil {
			return nil, err
		}
	}
	switch {
	case chosen.err != nil:
		return nil, chosen.err
	case len(chosen.targets) > 0:
		return chosen, nil
	case o.chosen:
		return nil, invalid("Targets", "%w were chosen by the options of the call", ErrNoTargets)
	}
	return nil, invalid("Targets", "%w are configured", ErrNoTargets)
}

func (r *registry) pick(ctx context.Context, picks []pick) (*selection, error) {
	var chosen selection
	var errs []error
	for i, p := range picks {
		t, err := r.resolve(ctx, p, i)
		errs = append(errs, err)
		if err == nil {
			chosen.targets = append(chosen.targets, t)
			chosen.names = append(chosen.names, t.Name)
		}
	}
	if err := join(append(errs, duplicates(chosen.targets))...); err != nil {
		return nil, err
	}
	var err error
	chosen.graph, err = newGraph(chosen.targets)
	return &chosen, err
}

func (r *registry) resolve(ctx context.Context, p pick, position int) (*target, error) {
	if p.definition != nil {
		return r.build(*p.definition, position)
	}
	t, err := r.find(ctx, p.name)
	if errors.Is(err, ErrUnknownTarget) || errors.Is(err, ErrTargetGone) {
		return nil, &InvalidError{Target: p.name, Field: "Name", Err: err}
	}
	return t, err
}

// chosen returns the targets of these names. chained says that they depended on each
// other when the delivery was submitted.
func (r *registry) chosen(ctx context.Context, names []string, chained bool) (*selection, error) {
	chosen := &selection{names: names}
	for _, name := range names {
		t, err := r.find(ctx, name)
		if err != nil {
			return nil, err
		}
		chosen.targets = append(chosen.targets, t)
	}
	if err := duplicates(chosen.targets); err != nil {
		return nil, fmt.Errorf("%w: %s", ErrLookup, fieldText(err))
	}
	if !chained {
		return chosen, nil
	}
	var err error
	if chosen.graph, err = newGraph(chosen.targets); err != nil {
		return nil, fmt.Errorf("%w: %s", ErrLookup, fieldText(err)) // their definitions have changed since
	}
	if chosen.graph == nil { // these have changed too: they no longer depend on each other
		chosen.graph = flatGraph(len(names))
	}
	return chosen, nil
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

// find returns the target of a name, which is configured or found by [Config.Lookup]. The
// error matches ErrUnknownTarget, ErrTargetGone or ErrLookup.
func (r *registry) find(ctx context.Context, name string) (*target, error) {
	if t, ok := r.get(name); ok {
		return t, nil
	}
	if r.lookup == nil {
		return nil, ErrUnknownTarget
	}
	def, err := r.lookUp(ctx, name)
	switch {
	case errors.Is(err, ErrTargetGone):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("target %q: %w: %w", name, ErrLookup, foreign(redact.URL(err)))
	}
	def.Name = name
	t, err := r.build(def, 0)
	if err != nil {
		// err is not wrapped, because it matches ErrInvalid, and the caller's input is valid.
		return nil, fmt.Errorf("target %q: %w: what it found cannot be used: %s", name, ErrLookup, fieldText(err))
	}
	t.found = true
	return t, nil
}

// lookupTimeout limits a look-up. For example, the caller may hold the last database
// connection that the look-up needs: then both would wait forever.
const lookupTimeout = 10 * time.Second

func (r *registry) lookUp(ctx context.Context, name string) (def Target, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = newPanicError(p)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	def, err = r.lookup(ctx, name)
	if err == nil && def.Name != "" && def.Name != name {
		err = fmt.Errorf("found a target named %q", def.Name)
	}
	return def, err
}

func namesOf(targets []Target) []string {
	names := make([]string, len(targets))
	for i, t := range targets {
		names[i] = t.Name
	}
	return names
}
