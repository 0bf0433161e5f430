package river

import (
	"context"
	"fmt"
	"time"
)

// ShutIdleLanesAfter replaces the time of one minute, after which an idle lane is shut.
func (e *Engine) ShutIdleLanesAfter(d time.Duration) { e.lanes.idleFor = d }

// OpenLanes counts the lanes that are not shut.
func (e *Engine) OpenLanes() int {
	e.lanes.mu.Lock()
	defer e.lanes.mu.Unlock()
	count := 0
	for _, one := range e.lanes.byName {
		if one.state != shut {
			count++
		}
	}
	return count
}

// Self is the ID of this process.
func (e *Engine) Self() string { return e.lease.id() }

// OnPostgres reports whether the engine is on Postgres.
func (e *Engine) OnPostgres() bool { return e.tables.onPostgres() }

// Maintain does the maintenance of one second.
func (e *Engine) Maintain(ctx context.Context, second int) error {
	return e.maintenance.once(ctx, second)
}

// TakeLease takes the lease, or renews it, and takes over deliveries.
func (e *Engine) TakeLease(ctx context.Context) error { return e.lease.take(ctx) }

// GiveLeaseBack ends the lease.
func (e *Engine) GiveLeaseBack(ctx context.Context) error { return e.lease.giveBack(ctx) }

// Exec runs SQL in which @job, for example, stands for the table of jobs.
func (e *Engine) Exec(ctx context.Context, query string, args ...any) error {
	_, err := e.tables.exec(ctx, query, args...)
	return err
}

// Strings returns a column.
func (e *Engine) Strings(ctx context.Context, query string, args ...any) ([]string, error) {
	return e.tables.strings(ctx, query, args...)
}

// PretendRunning makes the jobs of a target look as if a process had begun them that long
// ago.
func (e *Engine) PretendRunning(ctx context.Context, target, process string, began time.Duration) error {
	seconds := int(began.Seconds())
	set := fmt.Sprintf("attempted_at = strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', '-%d seconds'), attempted_by = jsonb_array($2)", seconds)
	if e.OnPostgres() {
		set = fmt.Sprintf("attempted_at = now() - interval '%d seconds', attempted_by = ARRAY[$2::text]", seconds)
	}
	return e.Exec(ctx, "UPDATE @job SET state = 'running', attempt = 1, "+set+" WHERE args->>'target' = $1", target, process)
}

// Lanes makes lanes without a database.
func Lanes() *lanes { return &lanes{byName: map[string]*lane{}} }

// NotLetThrough returns how long a delivery waits for a closed gate.
func (l *lanes) NotLetThrough(name string) time.Duration { return l.notLetThrough(name, nil) }

// LetThrough says that a delivery got through.
func (l *lanes) LetThrough(name string) { l.letThrough(name) }

// Running remembers what runs.
func Running() *running { return &running{ends: map[int64]time.Time{}} }

// Begin says that a delivery begins.
func (r *running) Begin(job int64) (end func()) { return r.begin(job) }

// Knows forgets old ends, and reports whether a delivery is still known.
func (r *running) Knows(job int64) bool {
	r.forgetEnds()
	return r.knows(job)
}

// Order remembers which sequences to look at.
func Order() *order { return &order{looks: make(chan struct{}, 1), due: map[sequence]bool{}} }

// Look marks a sequence.
func (o *order) Look(lane, key string) { o.look(sequence{lane, key}) }

// Take counts the sequences that are marked, and forgets them.
func (o *order) Take() int { return len(o.take()) }
