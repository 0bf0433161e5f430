package durable

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/gjson"
)

// Deliveries with an ordering key are put into the queue as pending, which River does
// not touch. The first of a key is released when no other is under way.

const (
	ordered  = "metadata->>'fanout_order' IS NOT NULL"
	underWay = "state IN ('available', 'running', 'retryable', 'scheduled')"
	ofKey    = " FROM @job WHERE queue = $1 AND metadata->>'fanout_order' = $2 AND " + ordered

	releaseFirst = `UPDATE @job SET state = 'available', scheduled_at = @now
	WHERE state = 'pending' AND id = (SELECT min(id)` + ofKey + ` AND state = 'pending')
	AND NOT EXISTS (SELECT 1` + ofKey + " AND " + underWay + ")"

	leftBehind = "SELECT DISTINCT queue, metadata->>'fanout_order' FROM @job AS first WHERE " + ordered + ` AND state = 'pending'
	AND NOT EXISTS (SELECT 1 FROM @job AS other
		WHERE other.queue = first.queue AND other.metadata->>'fanout_order' = first.metadata->>'fanout_order' AND other.` + ordered + " AND other." + underWay + `)
	LIMIT 1000`

	complete = "UPDATE @job SET state = 'completed', finalized_at = @now WHERE state = 'running' AND id = $1"
)

// orderedLane is where deliveries follow each other.
type orderedLane struct{ lane, key string }

// order is what there is to release.
type order struct {
	seen  atomic.Bool
	looks chan struct{} // says that something is due

	mu  sync.Mutex
	due map[orderedLane]bool
}

func (o *order) init() { o.looks, o.due = make(chan struct{}, 1), map[orderedLane]bool{} }

func (o *order) used() bool { return o.seen.Load() }

// look has what was submitted, or is to be made again, released.
func (o *order) look(one orderedLane) {
	o.seen.Store(true)
	o.mu.Lock()
	o.due[one] = true
	o.mu.Unlock()
	select {
	case o.looks <- struct{}{}:
	default:
	}
}

func (o *order) take() map[orderedLane]bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	due := o.due
	o.due = map[orderedLane]bool{}
	return due
}

// followOrder releases the next delivery of a key when one was submitted or has
// failed.
func (q *Queue) followOrder(ctx context.Context) {
	events, unsubscribe := q.engine.failed()
	defer unsubscribe()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-q.order.looks:
			err = q.releaseDue(ctx)
		case event, ok := <-events:
			if !ok {
				return
			}
			if key := orderKey(event.Job.Metadata); key != "" {
				err = q.releaseNext(ctx, orderedLane{event.Job.Queue, key})
			}
		}
		if err != nil && ctx.Err() == nil {
			q.complain("releasing deliveries in order", err)
		}
	}
}

func (q *Queue) releaseDue(ctx context.Context) error {
	var errs []error
	for one := range q.order.take() {
		errs = append(errs, q.releaseNext(ctx, one))
	}
	return errors.Join(errs...)
}

func (q *Queue) releaseNext(ctx context.Context, one orderedLane) error {
	return q.inOrder(ctx, one, nil)
}

// releaseOrdered releases what follows nothing, and was not released in its time: the
// transaction that it was submitted in took long, or its process died.
func (q *Queue) releaseOrdered(ctx context.Context) error {
	var left []orderedLane
	err := q.store.each(ctx, leftBehind, nil, func(rows *sql.Rows) error {
		var one orderedLane
		err := rows.Scan(&one.lane, &one.key)
		left = append(left, one)
		return err
	})
	errs := []error{err}
	for _, one := range left {
		errs = append(errs, q.releaseNext(ctx, one))
	}
	return errors.Join(errs...)
}

// completeInOrder notes the end of a delivery, and releases the next of its key, at
// once: River's own note of it comes later, and finds it done.
func (q *Queue) completeInOrder(ctx context.Context, job int64, one orderedLane) {
	err := q.inOrder(context.WithoutCancel(ctx), one, func(ctx context.Context, tx *sql.Tx) error {
		query, args := complete, []any{job}
		if q.store.schema != "" { // else another process may have it by now
			query, args = query+" AND attempted_by[array_upper(attempted_by, 1)] = $2", append(args, q.guard.id())
		}
		_, err := tx.ExecContext(ctx, q.store.sql(query), args...)
		return err
	})
	if err != nil {
		q.complain("releasing the next delivery in order", err)
	}
}

func orderKey(metadata []byte) string { return gjson.GetBytes(metadata, orderField).String() }

// orderLock keeps two processes from releasing two of one key. One that is frozen
// meanwhile loses its connection.
const orderLock = `SELECT set_config('idle_in_transaction_session_timeout', '10s', true), pg_advisory_xact_lock(hashtextextended($1, 7453010373645641))`

// orderTimeout bounds a release, which else is made by the next beat.
const orderTimeout = 5 * time.Second

// inOrder does first, and releases the next delivery of a key.
func (q *Queue) inOrder(ctx context.Context, one orderedLane, first func(context.Context, *sql.Tx) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
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
		if _, err := tx.ExecContext(ctx, orderLock, q.store.schema+"\x1f"+one.lane+"\x1f"+one.key); err != nil {
			return err
		}
	}
	if first != nil {
		if err := first(ctx, tx); err != nil {
			return err
		}
	}
	released, err := tx.ExecContext(ctx, q.store.sql(releaseFirst), one.lane, one.key)
	if err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	if n, err := released.RowsAffected(); err != nil || n > 0 {
		q.order.seen.Store(true)
		q.lanes.revived(ctx, one.lane)
	}
	return nil
}
