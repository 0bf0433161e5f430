package lifetime

import (
	"context"
	"sync"
	"time"
)

// Group counts what is under way, until nothing is. Then Closing ends.
type Group struct {
	mu       sync.Mutex
	running  int
	closed   bool
	finished chan struct{} // closed when nothing is running any more

	// Overtime ends when what is under way has had time enough.
	Overtime context.Context //nolint:containedctx // it is what the group is about
	TimeIsUp context.CancelFunc

	// Closing ends when nothing is running any more.
	Closing context.Context //nolint:containedctx // as above
	hangUp  context.CancelFunc
}

// Init begins the group with its first member.
func (g *Group) Init() {
	g.running = 1
	g.finished = make(chan struct{})
	g.Overtime, g.TimeIsUp = context.WithCancel(context.Background()) //nolint:gosec // whoever waits calls it
	g.Closing, g.hangUp = context.WithCancel(context.Background())
}

// Begin counts one more that is under way, unless the group is closed.
func (g *Group) Begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.running++
	}
	return !g.closed
}

// Resume is Begin for what is part of something that has begun.
func (g *Group) Resume() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running++
}

// End counts one less.
func (g *Group) End() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	if g.running == 0 {
		close(g.finished)
		g.hangUp()
	}
}

// Close lets nothing more begin.
func (g *Group) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

// IsClosed reports whether Close was called.
func (g *Group) IsClosed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

// Wait returns 0 when all has ended, or how many are still under way when the grace after
// the end of ctx is over.
func (g *Group) Wait(ctx context.Context, grace time.Duration) (running int) {
	select {
	case <-g.finished:
		return 0
	case <-ctx.Done():
	}
	select {
	case <-g.finished:
		return 0
	case <-time.After(grace):
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running
}
