package durable

import (
	"context"
	"database/sql"
	"errors"
	"sync/atomic"

	"github.com/riverqueue/river"
	"github.com/tidwall/gjson"
)

// Deliveries with an ordering key are put into the queue as pending, which River does
// not touch. The first of a key is released when no other is under way.

const (
	releaseFirst = `UPDATE @job SET state = 'available', scheduled_at = @now
	WHERE state = 'pending' AND metadata->>'fanout_order' IS NOT NULL
	AND NOT EXISTS (SELECT 1 FROM @job AS other WHERE other.queue = @job.queue
		AND other.metadata->>'fanout_order' IS NOT NULL AND other.metadata->>'fanout_order' = @job.metadata->>'fanout_order'
		AND (other.state IN ('available', 'running', 'retryable', 'scheduled') OR (other.state = 'pending' AND other.id < @job.id)))`
	onlyOne   = ` AND queue = $1 AND metadata->>'fanout_order' = $2`
	returning = ` RETURNING queue`
)

// order is whether there is anything to release.
type order struct {
	seen  atomic.Bool
	looks chan struct{}
}

func (o *order) used() bool { return o.seen.Load() }

// look has what was just submitted released.
func (o *order) look() {
	o.seen.Store(true)
	select {
	case o.looks <- struct{}{}:
	default:
	}
}

// followOrder releases the next delivery of a key when one has ended.
func (q *Queue) followOrder(ctx context.Context) {
	events, unsubscribe := q.engine.ended()
	defer unsubscribe()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-q.order.looks:
			err = q.releaseOrdered(ctx)
		case event, ok := <-events:
			if !ok {
				return
			}
			err = q.releaseNext(ctx, event)
		}
		if err != nil && ctx.Err() == nil {
			q.complain("releasing deliveries in order", err)
		}
	}
}

func (q *Queue) releaseNext(ctx context.Context, event *river.Event) error {
	key := orderKey(event.Job.Metadata)
	if key == "" {
		return nil
	}
	q.order.seen.Store(true)
	return q.release(ctx, releaseFirst+onlyOne+returning, event.Job.Queue, key)
}

func (q *Queue) releaseOrdered(ctx context.Context) error {
	return q.release(ctx, releaseFirst+returning)
}

func orderKey(metadata []byte) string { return gjson.GetBytes(metadata, orderField).String() }

// orderLock keeps two processes from releasing two of one key.
const orderLock = "SELECT pg_advisory_xact_lock(7453010373645641)"

func (q *Queue) release(ctx context.Context, query string, args ...any) (err error) {
	tx, err := q.store.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tx.Rollback())
		}
	}()
	if q.store.schema != "" {
		if _, err := tx.ExecContext(ctx, orderLock); err != nil {
			return err
		}
	}
	released, err := laneNames(tx.QueryContext(ctx, q.store.sql(query), args...))
	if err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	for _, lane := range released {
		q.lanes.revived(ctx, lane)
	}
	return nil
}

func laneNames(rows *sql.Rows, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	seen := map[string]bool{}
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names, rows.Err()
}
