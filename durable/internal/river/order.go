package river

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// A delivery with an ordering key is inserted with the state "pending", which River
// ignores. To release it means to make it "available". The first pending delivery of a key
// is released when no other delivery of that key is available, running or waiting for its
// next round.

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

// sequence stands for the deliveries to one target that have the same ordering key.
type sequence struct{ lane, key string }

// metadata is the part of a River job's metadata that this package writes.
type metadata struct {
	Order string `json:"fanout_order"`
}

func orderMetadata(key string) []byte {
	if key == "" {
		return nil
	}
	encoded, _ := json.Marshal(metadata{key}) // a string can always be encoded
	return encoded
}

// orderKey returns the ordering key of a job. It is empty if the order does not matter.
func orderKey(encoded []byte) string {
	var m metadata
	if err := json.Unmarshal(encoded, &m); err != nil {
		return ""
	}
	return m.Order
}

// order releases deliveries that have an ordering key, one after the other.
type order struct {
	tables   *tables
	lanes    *lanes
	self     string // the ID of this process
	complain func(what string, err error)

	seen  atomic.Bool   // this process has seen a delivery with an ordering key
	looks chan struct{} // has an element if due is not empty

	mu  sync.Mutex
	due map[sequence]bool
}

// look marks a sequence to be looked at soon, because something was added to it.
func (o *order) look(one sequence) {
	o.seen.Store(true)
	o.mu.Lock()
	o.due[one] = true
	o.mu.Unlock()
	select {
	case o.looks <- struct{}{}:
	default:
	}
}

// take returns the sequences that are due, and forgets them.
func (o *order) take() map[sequence]bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	due := o.due
	o.due = map[sequence]bool{}
	return due
}

// follow releases the next delivery of a sequence when one was submitted, and when one
// failed for good.
func (o *order) follow(ctx context.Context, c client) {
	events, unsubscribe := c.failed()
	defer unsubscribe()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-o.looks:
			for one := range o.take() {
				err = errors.Join(err, o.releaseNext(ctx, one))
			}
		case event, ok := <-events:
			if !ok {
				return
			}
			if key := orderKey(event.Job.Metadata); key != "" {
				err = o.releaseNext(ctx, sequence{event.Job.Queue, key})
			}
		}
		if err != nil && ctx.Err() == nil {
			o.complain("releasing deliveries in order", err)
		}
	}
}

func (o *order) releaseNext(ctx context.Context, one sequence) error {
	return o.advance(ctx, one, nil)
}

// releaseLeftBehind releases deliveries that were not released in time although none of
// their key is running. For example, their transaction was committed long after Submit,
// or their process died.
func (o *order) releaseLeftBehind(ctx context.Context) error {
	var left []sequence
	err := o.tables.each(ctx, leftBehind, nil, func(rows *sql.Rows) error {
		var one sequence
		err := rows.Scan(&one.lane, &one.key)
		left = append(left, one)
		return err
	})
	errs := []error{err}
	for _, one := range left {
		errs = append(errs, o.releaseNext(ctx, one))
	}
	return errors.Join(errs...)
}

// completed stores that a delivery has ended, and releases the next one in the same
// transaction. River stores the end of jobs later, in batches. It then finds that this
// one is already stored.
func (o *order) completed(ctx context.Context, job int64, one sequence) {
	err := o.advance(context.WithoutCancel(ctx), one, func(ctx context.Context, tx *sql.Tx) error {
		query, args := complete, []any{job}
		if o.tables.onPostgres() { // another process may have taken the job over
			query, args = query+" AND "+attemptedBy(2), append(args, o.self)
		}
		_, err := tx.ExecContext(ctx, o.tables.sql(query), args...)
		return err
	})
	if err != nil {
		o.complain("releasing the next delivery in order", err)
	}
}

// orderLock prevents two processes from releasing two deliveries of the same key. Without
// it: the transaction that inserted delivery 1 is still open, so that A sees 2 as the
// first and releases it. Before A commits, 1 is committed. B sees 1 as the first, does
// not see that 2 is released, and releases 1. Now both would be sent at the same time.
//
// A process that freezes while it holds the lock loses its connection after 10 s, and the
// lock with it.
const orderLock = `SELECT set_config('idle_in_transaction_session_timeout', '10s', true), pg_advisory_xact_lock(hashtextextended($1, 7453010373645641))`

// orderTimeout limits one release. If it fails, maintenance releases the delivery later.
const orderTimeout = 5 * time.Second

// advance calls first, if it is not nil, and then releases the next delivery of a
// sequence. Both are done in one transaction.
func (o *order) advance(ctx context.Context, one sequence, first func(context.Context, *sql.Tx) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	tx, err := o.tables.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tx.Rollback())
		}
	}()
	if o.tables.onPostgres() {
		if _, err := tx.ExecContext(ctx, orderLock, o.tables.schema+"\x1f"+one.lane+"\x1f"+one.key); err != nil {
			return err
		}
	}
	if first != nil {
		if err := first(ctx, tx); err != nil {
			return err
		}
	}
	released, err := tx.ExecContext(ctx, o.tables.sql(releaseFirst), one.lane, one.key)
	if err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	if n, err := released.RowsAffected(); err != nil || n > 0 {
		o.seen.Store(true)
		o.lanes.changed(ctx, one.lane)
	}
	return nil
}
