package river

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"time"
)

// running are the deliveries that are under way in this process, and those that ended so
// recently that their end may not be in the database yet.
type running struct {
	tables *tables
	self   string // the ID of this process

	mu   sync.Mutex
	ends map[int64]time.Time // zero while a delivery is under way
}

// lostAfter is how long a delivery that this process does not know of may be under way in
// the database. After that its beginning or its end was lost with a connection.
const lostAfter = time.Minute

// begin is called when a delivery begins; what it returns, when it has ended. The end of
// one that took long is remembered for lostAfter: its row says that it began long ago, and
// looks lost until River has written the end.
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

// releaseLost makes those available again that were lost in this process.
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
