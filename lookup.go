package fanout

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var errNotConfigured = errors.New("no target of this name is configured")

// find resolves a name to a configured target, or one that [Config.Lookup] knows.
func (d *Dispatcher) find(ctx context.Context, name string) (*target, error) {
	if t, ok := d.registry.get(name); ok {
		return t, nil
	}
	if d.lookup == nil {
		return nil, &InvalidError{Target: name, Field: "Name", Err: errNotConfigured}
	}
	def, err := d.lookUp(ctx, name)
	if err != nil {
		return nil, &InvalidError{Target: name, Field: "Name", Err: err}
	}
	def.Name = name
	t, err := d.compile(def, 0)
	if err == nil {
		t.found = true
	}
	return t, err
}

// lookupTimeout keeps a look-up that waits for what its caller holds from waiting for
// ever.
const lookupTimeout = 10 * time.Second

func (d *Dispatcher) lookUp(ctx context.Context, name string) (def Target, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = newPanicError(p)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	def, err = d.lookup(ctx, name)
	if err == nil && def.Name != "" && def.Name != name {
		err = fmt.Errorf("found a target named %q", def.Name)
	}
	return def, err
}
