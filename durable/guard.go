package durable

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/fanout-go/fanout"
)

// guard knows which processes deliver, and takes over from those that died.
type guard interface {
	id() string
	enter(context.Context, *store) error
	beat(context.Context) error
	leave(context.Context) error
	// owns refuses a transaction of another database.
	owns(ctx context.Context, tx any) error
}

// release makes deliveries that were under way available again. That they were does not count as
// a round.
const release = `UPDATE @job SET state = 'available', attempt = CASE WHEN attempt > 0 THEN attempt - 1 ELSE 0 END
	WHERE state = 'running' AND kind = 'fanout'`

// lostAfter is how long a delivery that this process does not know of, or has ended,
// may be under way in the database: its end, or its beginning, was lost with a
// connection.
const lostAfter = time.Minute

// findLost makes them available again.
func (q *Queue) findLost(ctx context.Context) error {
	query := "SELECT id FROM @job WHERE state = 'running' AND kind = 'fanout' AND " + q.store.epoch("attempted_at") + " < " + q.store.epoch("@now") + " - $1"
	args := []any{lostAfter.Seconds()}
	if q.store.schema != "" {
		query += " AND attempted_by[array_upper(attempted_by, 1)] = $2"
		args = append(args, q.guard.id())
	}
	q.lanes.forgetEnds()
	var lost []int64
	err := q.store.each(ctx, query, args, func(rows *sql.Rows) error {
		var id int64
		err := rows.Scan(&id)
		if err == nil && !q.lanes.knows(id) {
			lost = append(lost, id)
		}
		return err
	})
	errs := []error{err}
	for _, id := range lost {
		_, err := q.store.exec(ctx, release+" AND id = $1", id)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// fileGuard has one process at a time deliver from a file.
type fileGuard struct {
	path string
	lock *flock.Flock // nil for a database in memory
}

func newFileGuard(db *sql.DB) (*fileGuard, error) {
	g := &fileGuard{}
	return g, db.QueryRowContext(context.Background(), fileOf).Scan(&g.path)
}

func (g *fileGuard) id() string { return "file" }

const fileOf = "SELECT file FROM pragma_database_list WHERE name = 'main'"

func (g *fileGuard) owns(ctx context.Context, tx any) error {
	given, ok := tx.(*sql.Tx)
	switch {
	case !ok:
		return nil // and is refused as such
	case given == nil:
		return &fanout.InvalidError{Field: "InTx", Err: errors.New("is nil")}
	}
	var its string
	if err := given.QueryRowContext(ctx, fileOf).Scan(&its); err != nil {
		return err
	}
	if its != g.path {
		return &fanout.InvalidError{Field: "InTx", Err: fmt.Errorf("is a transaction of %q, and the queue is in %q", its, g.path)}
	}
	return nil
}

// enter takes over at once: whoever ran before is dead, as its lock is gone.
func (g *fileGuard) enter(ctx context.Context, s *store) error {
	if g.path != "" {
		g.lock = flock.New(g.path + ".lock")
		ok, err := g.lock.TryLock()
		if err != nil {
			return fmt.Errorf("%s: %w", g.lock.Path(), err)
		}
		if !ok {
			return fmt.Errorf("%s: %w", g.path, errInUse)
		}
	}
	if _, err := s.exec(ctx, "DELETE FROM @leader"); err != nil {
		return errors.Join(err, g.leave(ctx))
	}
	if _, err := s.exec(ctx, release); err != nil {
		return errors.Join(err, g.leave(ctx))
	}
	return nil
}

func (g *fileGuard) beat(context.Context) error { return nil }

func (g *fileGuard) leave(context.Context) error {
	if g.lock == nil {
		return nil
	}
	return g.lock.Unlock()
}

// nodes is the processes that deliver from one Postgres. Each says now and then that it is alive.
type nodes struct {
	store *store
	self  string
	after time.Duration
	last  time.Time
}

func newNodes(s *store, after time.Duration) *nodes {
	return &nodes{store: s, self: strings.ReplaceAll(hostname(), ".", "_") + "_" + strings.ToLower(rand.Text()[:12]), after: after}
}

func (n *nodes) id() string { return n.self }

func (n *nodes) owns(context.Context, any) error { return nil }

func (n *nodes) enter(ctx context.Context, _ *store) error { return n.beat(ctx) }

const milliseconds = "(extract(epoch from clock_timestamp()) * 1000)::bigint"

// beat says that this process is alive, and takes over from those that have not for
// long.
func (n *nodes) beat(ctx context.Context) error {
	if time.Since(n.last) < n.after/5 {
		return nil
	}
	_, err := n.store.exec(ctx, "INSERT INTO @nodes (id, seen_at) VALUES ($1, "+milliseconds+") ON CONFLICT (id) DO UPDATE SET seen_at = EXCLUDED.seen_at", n.self)
	if err != nil {
		return err
	}
	n.last = time.Now()
	_, err = n.store.exec(ctx, "DELETE FROM @nodes WHERE seen_at < "+milliseconds+" - $1", n.after.Milliseconds())
	if err != nil {
		return err
	}
	_, err = n.store.exec(ctx, release+" AND attempted_by[array_upper(attempted_by, 1)] NOT IN (SELECT id FROM @nodes)")
	return err
}

func (n *nodes) leave(ctx context.Context) error {
	_, err := n.store.exec(ctx, "DELETE FROM @nodes WHERE id = $1", n.self)
	return err
}
