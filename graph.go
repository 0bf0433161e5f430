package fanout

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// graph says in which order the targets of a dispatch begin. Targets are numbered by
// their positions.
type graph struct {
	after [][]int // for each target: those that it comes after
	next  [][]int // for each target: those that come after it
	saga  bool    // some target can be compensated
	pivot int     // position of the pivot; -1 if there is none
}

// newGraph returns nil if no target depends on another.
func newGraph(targets []*target) (*graph, error) {
	g := &graph{after: make([][]int, len(targets)), next: make([][]int, len(targets)), pivot: -1}
	chained := false
	var errs []error
	for i, t := range targets {
		chained = chained || t.chained()
		g.saga = g.saga || t.compensate != nil
		errs = append(errs, g.add(targets, i))
	}
	if !chained {
		return nil, nil
	}
	if err := join(errs...); err != nil {
		return nil, err
	}
	return g, g.checkCycles(targets)
}

// flatGraph is a graph of targets that do not depend on each other.
func flatGraph(targets int) *graph {
	return &graph{after: make([][]int, targets), next: make([][]int, targets), pivot: -1}
}

// chained reports whether the target makes its dispatch a chain.
func (t *target) chained() bool {
	return len(t.After) > 0 || t.compensate != nil || t.Pivot
}

func (g *graph) add(targets []*target, i int) error {
	t := targets[i]
	if t.Pivot {
		if g.pivot >= 0 {
			return &InvalidError{Target: t.Name, Field: "Pivot", Err: fmt.Errorf("%q is the pivot already", targets[g.pivot].Name)}
		}
		g.pivot = i
	}
	for _, name := range t.After {
		j := slices.IndexFunc(targets, func(other *target) bool { return other.Name == name })
		switch {
		case j < 0:
			return &InvalidError{Target: t.Name, Field: "After", Err: fmt.Errorf("no target %q in this dispatch", name)}
		case j == i:
			return &InvalidError{Target: t.Name, Field: "After", Err: errors.New("names the target itself")}
		case slices.Contains(g.after[i], j):
			return &InvalidError{Target: t.Name, Field: "After", Err: fmt.Errorf("%q is named twice", name)}
		}
		g.after[i] = append(g.after[i], j)
		g.next[j] = append(g.next[j], i)
	}
	return nil
}

// checkCycles removes the targets that can begin, and repeats this until no more can.
// Those that are left are in a cycle, or come after one.
func (g *graph) checkCycles(targets []*target) error {
	waiting := counts(g.after)
	var free []int
	for i, n := range waiting {
		if n == 0 {
			free = append(free, i)
		}
	}
	for len(free) > 0 {
		i := free[0]
		free = free[1:]
		waiting[i] = -1
		for _, j := range g.next[i] {
			if waiting[j]--; waiting[j] == 0 {
				free = append(free, j)
			}
		}
	}
	var stuck []string
	for i, n := range waiting {
		if n > 0 {
			stuck = append(stuck, targets[i].Name)
		}
	}
	if len(stuck) == 0 {
		return nil
	}
	return &InvalidError{Target: stuck[0], Field: "After", Err: fmt.Errorf("never begins, as it comes after itself by way of %s", strings.Join(stuck, ", "))}
}

func counts(lists [][]int) []int {
	lengths := make([]int, len(lists))
	for i, list := range lists {
		lengths[i] = len(list)
	}
	return lengths
}

// walk calls do once for each position, each time in a goroutine of its own. It calls do
// for a position when do has returned for all positions that it comes after. It returns
// when all calls have returned.
func walk(after, next [][]int, do func(int)) {
	var mu sync.Mutex
	var group errgroup.Group
	waiting := counts(after)
	var begin func(int)
	begin = func(i int) {
		group.Go(func() error {
			defer func() { // deferred, because user code may call runtime.Goexit
				mu.Lock()
				defer mu.Unlock()
				for _, j := range next[i] {
					if waiting[j]--; waiting[j] == 0 {
						begin(j)
					}
				}
			}()
			do(i)
			return nil
		})
	}
	mu.Lock()
	for i, list := range after {
		if len(list) == 0 {
			begin(i)
		}
	}
	mu.Unlock()
	_ = group.Wait()
}
