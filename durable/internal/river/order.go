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

// A delivery with an ordering key is inserted as pending, which River does not touch. The
// first one of a key is released, which means made available, when no other is under way.

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

// sequence is the deliveries of one ordering key to one target.
type sequence struct{ lane, key string }

// metadata is River's of a job, as far as it is ours.
type metadata struct {
	Order string `json:"fanout_order"`
}

func orderMetadata(key string) []byte {
	if key == "" {
		return nil
	}
	encoded, _ := json.Marshal(metadata{key}) // a string can be
	return encoded
}

// orderKey is empty for a job whose order does not matter.
func orderKey(encoded []byte) string {
	var m metadata
	if err := json.Unmarshal(encoded, &m); err != nil {
		return ""
	}
	return m.Order
}

// order releases the next delivery of a sequence.
type order struct {
	tables   *tables
	lanes    *lanes
	self     string // the ID of this process
	complain func(what string, err error)

	seen  atomic.Bool   // there are deliveries with an ordering key
	looks chan struct{} // says that some are due

	mu  sync.Mutex
	due map[sequence]bool
}

// look has a sequence looked at soon, as something was added to it.
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

func (o *order) take() map[sequence]bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	due := o.due
	o.due = map[sequence]bool{}
	return due
}

// follow releases the next delivery when one was submitted or has failed.
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

// releaseLeftBehind releases what follows nothing, and was not released in its time: the
// transaction that it was submitted in took long, or its process died.
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

// completed writes the end of a delivery, and releases the next one in the same
// transaction. River would write the end later, together with others; it finds it done.
func (o *order) completed(ctx context.Context, job int64, one sequence) {
	err := o.advance(context.WithoutCancel(ctx), one, func(ctx context.Context, tx *sql.Tx) error {
		query, args := complete, []any{job}
		if o.tables.onPostgres() { // else another process may have it by now
			query, args = query+" AND "+attemptedBy(2), append(args, o.self)
		}
		_, err := tx.ExecContext(ctx, o.tables.sql(query), args...)
		return err
	})
	if err != nil {
		o.complain("releasing the next delivery in order", err)
	}
}

// orderLock keeps two processes from releasing two deliveries of one key. A process that is
// frozen meanwhile loses its connection after 10 s, and the lock with it.
const orderLock = `SELECT set_config('idle_in_transaction_session_timeout', '10s', true), pg_advisory_xact_lock(hashtextextended($1, 7453010373645641))`

// orderTimeout bounds a release. Maintenance makes up for one that failed.
const orderTimeout = 5 * time.Second

// advance does first, and then releases the next delivery of a sequence.
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
