package fanout

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"reflect"
	"slices"
	"sync"
)

// registry is the configured targets. They may change while dispatches run,
// which go on with the definitions they began with.
type registry struct {
	mu      sync.RWMutex
	byName  map[string]*target
	names   []string // in definition order
	all     *selection
	labels  int  // given out
	related bool // some target is, or was
}

// selection is a set of targets, which never changes.
type selection struct {
	targets []*target
	names   []string
	graph   *graph // nil if no target depends on another
	err     error  // why it cannot be dispatched to: one that others come after was removed
}

// SetTargets adds targets to those of [Config.Targets], or replaces those of the
// same names. What is under way, or submitted, goes on with the old definitions. A
// target whose URL and policy stay as they were keeps its breaker, bulkhead, rate
// limit and retry budget; otherwise they start anew. If there is an error, as by
// [New] or [ErrClosed], nothing has changed. An idle target costs about 2.8 KiB and
// no goroutine.
func (d *Dispatcher) SetTargets(targets ...Target) error {
	if err := d.begin(); err != nil {
		return fmt.Errorf("fanout: %w", err)
	}
	defer d.end()
	if err := d.setTargets(targets); err != nil {
		d.telemetry.securityInput(context.Background(), err)
		return err
	}
	d.telemetry.security(context.Background(), slog.LevelInfo, eventTargetsSet, slog.Any("targets", namesOf(targets)))
	return nil
}

func namesOf(targets []Target) []string {
	names := make([]string, len(targets))
	for i, t := range targets {
		names[i] = t.Name
	}
	return names
}

func (d *Dispatcher) setTargets(targets []Target) error {
	compiled, err := d.compileAll(targets)
	if err != nil {
		return err
	}
	return d.registry.set(compiled)
}

// TargetNames are the names of all configured targets, in definition order.
func (d *Dispatcher) TargetNames() []string { return slices.Clone(d.registry.everything().names) }

// RemoveTargets removes targets. What is under way to them, or submitted, goes
// on. Unknown names are ignored.
func (d *Dispatcher) RemoveTargets(names ...string) {
	if removed := d.registry.remove(names); len(removed) > 0 {
		d.telemetry.security(context.Background(), slog.LevelInfo, eventTargetsRemoved, slog.Any("targets", removed))
	}
}

func (d *Dispatcher) compileAll(definitions []Target) ([]*target, error) {
	var compiled []*target
	var errs []error
	for i, def := range definitions {
		t, err := d.compile(def, i)
		errs = append(errs, err)
		if err == nil {
			compiled = append(compiled, t)
		}
	}
	return compiled, join(append(errs, duplicates(compiled))...)
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

// check looks at the whole only if any of it depends on another: what stands alone
// may be set a hundred thousand times.
func (r *registry) check(targets []*target) error {
	if !r.related && !slices.ContainsFunc(targets, (*target).related) {
		return nil
	}
	var all []*target
	for _, name := range r.names {
		if !slices.ContainsFunc(targets, func(t *target) bool { return t.Name == name }) {
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

// related reports whether the target has to do with any other.
func (t *target) related() bool { return t.chained() || t.fallbacks != nil }

// takeGates keeps those of an old definition that are still right.
func (t *target) takeGates(old *target) {
	if old != nil && old.URL == t.URL && reflect.DeepEqual(old.policy, t.policy) {
		t.gates = old.gates
	} else {
		t.gates = newGates(t.policy)
	}
	for _, other := range t.others() {
		if t.label != otherLabel {
			other.label = other.Name
		}
		var before *target
		if old != nil {
			before = named(old.others(), other.Name)
		}
		other.takeGates(before)
	}
}

// withOthers adds those that stand in for targets or undo them.
func withOthers(targets []*target) iter.Seq[*target] {
	return func(yield func(*target) bool) {
		for _, t := range targets {
			if !yield(t) {
				return
			}
			for _, other := range t.others() {
				if !yield(other) {
					return
				}
			}
		}
	}
}

func named(targets []*target, name string) *target {
	i := slices.IndexFunc(targets, func(t *target) bool { return t.Name == name })
	if i < 0 {
		return nil
	}
	return targets[i]
}

// setLabel gives the first targets labels of their own.
func (r *registry) setLabel(t, old *target) {
	switch {
	case old != nil:
		t.label = old.label
	case r.labels < maxLabels:
		t.label = t.Name
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
		if t.label != otherLabel {
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
