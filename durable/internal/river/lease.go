package river

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// lease is the right of a process to deliver. The process takes it before its first
// delivery, renews it while deliveries run, and gives it back after the last one. When a
// process loses its lease, others take over what it was delivering.
type lease interface {
	id() string // names this process
	take(context.Context) error
	renew(context.Context) error
	giveBack(context.Context) error
}

// attemptedBy is an SQL condition for Postgres: the process that runs the job, or ran it
// last, is the one in the parameter with this number.
func attemptedBy(parameter int) string {
	return fmt.Sprintf("attempted_by[array_upper(attempted_by, 1)] = $%d", parameter)
}

// release makes deliveries available again that were running when their process died. The
// round that they were in does not count. Otherwise a crash loop would turn healthy
// deliveries into dead letters.
const release = `UPDATE @job SET state = 'available', attempt = CASE WHEN attempt > 0 THEN attempt - 1 ELSE 0 END
	WHERE state = 'running' AND kind = 'fanout'`

// fileLock is the lease on an SQLite file. One process at a time has it.
type fileLock struct {
	tables *tables
	path   string
	lock   *flock.Flock // nil for a database in memory
}

func newFileLock(t *tables) (*fileLock, error) {
	f := &fileLock{tables: t}
	return f, t.row(context.Background(), fileOf).Scan(&f.path)
}

const fileOf = "SELECT file FROM pragma_database_list WHERE name = 'main'"

// errInUse is returned to the second process that wants to deliver from a file.
var errInUse = errors.New("another queue, in this process or another one, already delivers from it")

func (f *fileLock) id() string { return "file" }

// owns refuses a transaction of another file. Jobs inserted there would never be found.
func (f *fileLock) owns(ctx context.Context, tx any) error {
	given, ok := tx.(*sql.Tx)
	if !ok {
		return nil // the insert refuses it because of its type
	}
	var its string
	if err := given.QueryRowContext(ctx, fileOf).Scan(&its); err != nil {
		return err
	}
	if its != f.path {
		return &TxError{fmt.Errorf("is a transaction of %q, and the queue is in %q", its, f.path)}
	}
	return nil
}

// take also takes over the deliveries of the process before, at once: if its lock is
// gone, it is dead.
func (f *fileLock) take(ctx context.Context) error {
	if f.path != "" {
		f.lock = flock.New(f.path + ".lock")
		ok, err := f.lock.TryLock()
		if err != nil {
			return fmt.Errorf("%s: %w", f.lock.Path(), err)
		}
		if !ok {
			return fmt.Errorf("%s: %w", f.path, errInUse)
		}
	}
	for _, statement := range []string{"DELETE FROM @leader", release} {
		if _, err := f.tables.exec(ctx, statement); err != nil {
			return errors.Join(err, f.giveBack(ctx))
		}
	}
	return nil
}

func (f *fileLock) renew(context.Context) error { return nil }

func (f *fileLock) giveBack(context.Context) error {
	if f.lock == nil {
		return nil
	}
	return f.lock.Unlock()
}

// membership is the lease on Postgres, from which many processes deliver. Each process
// regularly writes into a table that it is alive.
type membership struct {
	tables  *tables
	self    string
	expires time.Duration
	renewed time.Time
}

func newMembership(t *tables, expires time.Duration) *membership {
	return &membership{tables: t, self: strings.ReplaceAll(hostname(), ".", "_") + "_" + strings.ToLower(rand.Text()[:12]), expires: expires}
}

// hostname is part of the ID, for people who look into the database.
func hostname() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "unknown"
	}
	return name[:min(len(name), 40)]
}

func (m *membership) id() string { return m.self }

func (m *membership) take(ctx context.Context) error { return m.renew(ctx) }

const milliseconds = "(extract(epoch from clock_timestamp()) * 1000)::bigint"

// renew also takes over the deliveries of processes whose lease has expired.
func (m *membership) renew(ctx context.Context) error {
	if time.Since(m.renewed) < m.expires/5 {
		return nil
	}
	_, err := m.tables.exec(ctx, "INSERT INTO @members (id, seen_at) VALUES ($1, "+milliseconds+") ON CONFLICT (id) DO UPDATE SET seen_at = EXCLUDED.seen_at", m.self)
	if err != nil {
		return err
	}
	m.renewed = time.Now()
	_, err = m.tables.exec(ctx, "DELETE FROM @members WHERE seen_at < "+milliseconds+" - $1", m.expires.Milliseconds())
	if err != nil {
		return err
	}
	_, err = m.tables.exec(ctx, release+" AND attempted_by[array_upper(attempted_by, 1)] NOT IN (SELECT id FROM @members)")
	return err
}

func (m *membership) giveBack(ctx context.Context) error {
	_, err := m.tables.exec(ctx, "DELETE FROM @members WHERE id = $1", m.self)
	return err
}
