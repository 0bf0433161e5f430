package river

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Holds are the targets to which nothing is sent until they are resumed. They are stored
// in a table. This process has a copy in memory, which is at most about a second old.
type Holds struct {
	tables   *tables
	released func(context.Context) error // called after a target was resumed

	// reading is held from reading the table until the copy is replaced. Otherwise this
	// could happen: A reads the table; a hold is added; B reads the table and replaces the
	// copy; A replaces the copy by its older reading, and the hold is not seen.
	reading sync.Mutex
	mu      sync.Mutex
	held    map[string]bool
}

// Add holds a target.
func (h *Holds) Add(ctx context.Context, target string) error {
	_, err := h.tables.exec(ctx, "INSERT INTO @holds (target, since) VALUES ($1, $2) ON CONFLICT (target) DO NOTHING", target, time.Now().UnixMilli())
	if err != nil {
		return err
	}
	return h.read(ctx)
}

// postponed makes jobs due that were put off because their target was held.
var postponed = "UPDATE @job SET scheduled_at = @now WHERE kind = 'fanout' AND state = 'available' AND scheduled_at > @now AND " +
	isFor("args->>'target'", "args->>'targets'", 1)

// Remove resumes a target.
func (h *Holds) Remove(ctx context.Context, target string) error {
	if _, err := h.tables.exec(ctx, "DELETE FROM @holds WHERE target = $1", target); err != nil {
		return err
	}
	if err := h.read(ctx); err != nil {
		return err
	}
	if _, err := h.tables.exec(ctx, postponed, target, h.tables.holding(target)); err != nil {
		return err
	}
	return h.released(ctx)
}

// List reads the names of the targets that are held, sorted.
func (h *Holds) List(ctx context.Context) ([]string, error) {
	return h.tables.strings(ctx, "SELECT target FROM @holds ORDER BY target")
}

// read brings the copy up to date.
func (h *Holds) read(ctx context.Context) error {
	h.reading.Lock()
	defer h.reading.Unlock()
	names, err := h.List(ctx)
	if err != nil {
		return err
	}
	held := make(map[string]bool, len(names))
	for _, name := range names {
		held[name] = true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = held
	return nil
}

// any reports whether one of the targets is held.
func (h *Holds) any(targets []string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(targets, func(target string) bool { return h.held[target] })
}
