package lifetime

import (
	"context"
	"sync"
	"time"
)

// Group counts operations that are running. When the last one has ended, Closing ends.
// The group itself is the first operation, so that the count cannot reach zero before it
// is closed.
type Group struct {
	mu       sync.Mutex
	running  int
	closed   bool
	finished chan struct{} // closed when no operation is running any more

	// Overtime ends when running operations must stop, because the time to close is over.
	Overtime context.Context //nolint:containedctx // the group is made for it
	TimeIsUp context.CancelFunc

	// Closing ends when no operation is running any more.
	Closing context.Context //nolint:containedctx // as above
	hangUp  context.CancelFunc
}

// Init begins the group, with one operation.
func (g *Group) Init() {
	g.running = 1
	g.finished = make(chan struct{})
	g.Overtime, g.TimeIsUp = context.WithCancel(context.Background()) //nolint:gosec // whoever waits calls it
	g.Closing, g.hangUp = context.WithCancel(context.Background())
}

// Begin counts one more operation, and returns true. If the group is closed, it returns
// false and counts nothing.
func (g *Group) Begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.running++
	}
	return !g.closed
}

// Resume counts one more operation, also if the group is closed. It is for a part of an
// operation that is running.
func (g *Group) Resume() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running++
}

// End counts one operation less.
func (g *Group) End() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	if g.running == 0 {
		close(g.finished)
		g.hangUp()
	}
}

// Close makes Begin return false from now on.
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

// Wait returns 0 when all operations have ended. If ctx ends before, it waits for grace
// longer, and then returns how many operations are still running.
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
