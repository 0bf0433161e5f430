package river

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"time"
)

// running holds the deliveries that are running in this process, and those that ended so
// recently that the database may not have their end yet.
type running struct {
	tables *tables
	self   string // the ID of this process

	mu   sync.Mutex
	ends map[int64]time.Time // by job ID: when the delivery ended; zero while it runs
}

// lostAfter is how long the database may show a delivery as running that this process
// does not know. After that time, its beginning or its end was lost with a connection.
const lostAfter = time.Minute

// begin is called when a delivery begins. The function that it returns is called when the
// delivery has ended.
//
// The end of a long delivery is remembered for lostAfter. Otherwise this could happen: a
// delivery ends after two minutes and is forgotten here; River has not stored its end
// yet; releaseLost reads that the job has been running for two minutes, does not know it,
// and releases it. It would be delivered twice.
func (r *running) begin(id int64) (end func()) {
	began := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ends[id] = time.Time{}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ends[id] = time.Now()
		if time.Since(began) < lostAfter/2 {
			delete(r.ends, id)
		}
	}
}

// knows reports whether a delivery is running here, or has just ended.
func (r *running) knows(id int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, known := r.ends[id]
	return known
}

func (r *running) forgetEnds() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, end := range r.ends {
		if !end.IsZero() && time.Since(end) > lostAfter {
			delete(r.ends, id)
		}
	}
}

// releaseLost makes deliveries of this process available again that it has lost.
func (r *running) releaseLost(ctx context.Context) error {
	query := "SELECT id FROM @job WHERE state = 'running' AND kind = 'fanout' AND " + r.tables.epoch("attempted_at") + " < " + r.tables.epoch("@now") + " - $1"
	args := []any{lostAfter.Seconds()}
	if r.tables.onPostgres() {
		query += " AND " + attemptedBy(2)
		args = append(args, r.self)
	}
	r.forgetEnds()
	var lost []int64
	err := r.tables.each(ctx, query, args, func(rows *sql.Rows) error {
		var id int64
		err := rows.Scan(&id)
		if err == nil && !r.knows(id) {
			lost = append(lost, id)
		}
		return err
	})
	errs := []error{err}
	for _, id := range lost {
		_, err := r.tables.exec(ctx, release+" AND id = $1", id)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
