package fanout_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

var (
	seeds     = flag.Int("seeds", 200, "how many random sagas to run")
	firstSeed = flag.Uint64("seed", 1, "the first one's seed")
)

// randomSaga is targets in a random order, each of which fails or not, in some way.
type randomSaga struct {
	random  *rand.Rand
	targets []fanout.Target

	mu    sync.Mutex
	calls map[string]*called // forward, "or "+name and "undo "+name
}

// called is what one fake saw.
type called struct {
	times      int
	begin, end time.Time
	effect     bool // it acted, or may have
	ok         bool // and said so
}

// newRandomSaga makes the saga of a seed, always the same one.
func newRandomSaga(seed uint64) *randomSaga {
	s := &randomSaga{random: rand.New(rand.NewPCG(seed, 0)), calls: map[string]*called{}}
	pivot := s.random.IntN(12)
	for i := range 1 + s.random.IntN(8) {
		t := fanout.Target{Name: string(rune('a' + i)), Optional: s.random.IntN(5) == 0, Pivot: i == pivot}
		t.Sender = s.fake(t.Name, 4)
		for j := range i {
			if s.random.IntN(3) == 0 {
				t.After = append(t.After, s.targets[j].Name)
			}
		}
		if s.random.IntN(4) == 0 {
			t.Hedge, t.Retry = fanout.Hedge{After: 2 * time.Second}, fanout.Retry{MaxAttempts: 2, InitialBackoff: time.Second}
		}
		if s.random.IntN(4) == 0 {
			t.Fallback = []fanout.Target{{Name: "or " + t.Name, Sender: s.fake("or "+t.Name, 3)}}
		}
		if s.random.IntN(3) > 0 {
			t.Compensate = &fanout.Target{Sender: s.fake("undo "+t.Name, 3)}
		}
		s.targets = append(s.targets, t)
	}
	return s
}

// fake succeeds, more often than not, or refuses, or loses the connection.
func (s *randomSaga) fake(name string, often int) fanout.SenderFunc {
	how, takes := s.random.IntN(often), time.Duration(s.random.IntN(5))*time.Second
	return func(ctx context.Context, _ *fanout.Request) (*fanout.Response, error) {
		s.note(name, func(c *called) {
			if c.times++; c.times == 1 {
				c.begin = time.Now()
			}
		})
		defer s.note(name, func(c *called) { c.end = time.Now() })
		err := ctx.Err()
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err == nil && how == 0 {
			return nil, fanout.Permanent(errors.New("no"))
		}
		s.note(name, func(c *called) { c.effect = true })
		if err == nil && how == 1 {
			return nil, errors.New("connection lost")
		}
		s.note(name, func(c *called) { c.ok = c.ok || err == nil })
		return nil, err
	}
}

func (s *randomSaga) note(name string, what func(*called)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls[name] == nil {
		s.calls[name] = &called{}
	}
	what(s.calls[name])
}

// forward is what was done for a target, by itself or its fallback.
func (s *randomSaga) forward(name string) called {
	c, instead := s.of(name), s.of("or "+name)
	if instead.times > 0 {
		c.end = instead.end
	}
	c.times += instead.times
	c.effect, c.ok = c.effect || instead.effect, c.ok || instead.ok
	return c
}

func (s *randomSaga) of(name string) called {
	if c := s.calls[name]; c != nil {
		return *c
	}
	return called{}
}

func (s *randomSaga) check(results fanout.Results, err error) string {
	if len(results) != len(s.targets) {
		return fmt.Sprintf("%d results of %d targets", len(results), len(s.targets))
	}
	failed, passed := s.fate(results)
	undoing := failed && !passed && slices.ContainsFunc(s.targets, func(t fanout.Target) bool { return t.Compensate != nil })
	if (err != nil) != failed {
		return fmt.Sprintf("a required target failed: %v; error: %v", failed, err)
	}
	for _, t := range s.targets {
		forward, undo, r := s.forward(t.Name), s.of("undo "+t.Name), results[t.Name]
		mustUndo := undoing && t.Compensate != nil && forward.effect
		switch {
		case len(r.Attempts) != forward.times+undo.times:
			return t.Name + ": attempts in the result are not those on the wire"
		case undo.times > 0 && !forward.effect:
			return t.Name + ": undone though it never did anything"
		case undo.times > 0 && !undoing:
			return t.Name + ": undone though the saga did not fail, or had passed its pivot"
		case mustUndo && undo.times == 0:
			return t.Name + ": not undone"
		case mustUndo && r.Outcome != fanout.Compensated && r.Outcome != fanout.CompensationFailed:
			return t.Name + ": undone, and nobody was told"
		case !mustUndo && forward.effect != (succeeded(r) || r.Outcome == fanout.Unknown):
			return t.Name + ": the outcome does not say whether it may have acted"
		}
		if r.Outcome == fanout.Skipped && !failed && !slices.ContainsFunc(t.After, func(name string) bool { return !s.forward(name).ok }) {
			return t.Name + ": skipped without a reason"
		}
		for _, name := range t.After {
			before, undoBefore := s.forward(name), s.of("undo "+name)
			switch {
			case forward.times > 0 && !before.ok:
				return t.Name + ": began though " + name + " had not succeeded"
			case forward.times > 0 && (before.times == 0 || before.end.After(forward.begin)):
				return t.Name + ": began before " + name + " had ended"
			case undo.times > 0 && undoBefore.times > 0 && undoBefore.begin.Before(undo.end):
				return name + ": undone before " + t.Name + " was"
			}
		}
	}
	return ""
}

// fate is whether the saga failed, and whether it had passed its pivot.
func (s *randomSaga) fate(results fanout.Results) (failed, passed bool) {
	for _, t := range s.targets {
		r := results[t.Name]
		if !succeeded(r) && !t.Optional {
			failed = true
		}
		if t.Pivot {
			passed = succeeded(r) || (r.Outcome == fanout.Unknown && t.Compensate == nil)
		}
	}
	return failed, passed
}

// succeeded tells whether the target itself, or its fallback, did its work.
func succeeded(r fanout.Result) bool {
	return r.Outcome == fanout.Delivered || r.Outcome == fanout.Degraded
}

func (s *randomSaga) describe() string {
	var all string
	for _, t := range s.targets {
		all += fmt.Sprintf("%s: after %v, optional %v, pivot %v, can be undone %v, %+v, undo %+v\n", t.Name, t.After, t.Optional, t.Pivot, t.Compensate != nil, s.of(t.Name), s.of("undo "+t.Name))
	}
	return all
}

func TestSaga_KeepsItsPromisesInRandomOrders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newWith(t, fanout.Config{Defaults: fanout.Policy{
			Retry: fanout.Retry{MaxAttempts: 1}, Breaker: fanout.Breaker{OpenFor: -1}, Bulkhead: fanout.Bulkhead{MaxConcurrent: -1},
		}})
		for i := range uint64(*seeds) {
			seed := *firstSeed + i
			s := newRandomSaga(seed)
			ctx, cancel := context.WithCancel(t.Context())
			if s.random.IntN(4) == 0 {
				time.AfterFunc(time.Duration(s.random.IntN(10_000))*time.Millisecond, cancel)
			}
			results, err := d.Dispatch(ctx, "order", fanout.ToTargets(s.targets...))
			cancel()
			if broken := s.check(results, err); broken != "" {
				t.Fatalf("%s\nrun it again with: go test -run %s -seed %d -seeds 1\n%v\n%v", broken, t.Name(), seed, s.describe(), results)
			}
		}
	})
}

func TestRandomSaga_IsTheSameForItsSeed(t *testing.T) {
	first, second := newRandomSaga(7), newRandomSaga(7)
	require.Equal(t, first.describe(), second.describe())
}
