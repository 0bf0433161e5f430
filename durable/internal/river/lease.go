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

// lease is the right of a process to deliver. It is taken before the first delivery, kept
// up while there are any, and given back after the last one. What a process had under way
// that lost its lease is taken over by others.
type lease interface {
	id() string // of this process
	take(context.Context) error
	renew(context.Context) error
	giveBack(context.Context) error
}

// attemptedBy is a condition: the process that is the parameter of that number has the
// job, or had it last. It is for Postgres.
func attemptedBy(parameter int) string {
	return fmt.Sprintf("attempted_by[array_upper(attempted_by, 1)] = $%d", parameter)
}

// release makes deliveries that were under way available again. The round that they were in
// does not count: otherwise a crash loop would make dead letters of healthy deliveries.
const release = `UPDATE @job SET state = 'available', attempt = CASE WHEN attempt > 0 THEN attempt - 1 ELSE 0 END
	WHERE state = 'running' AND kind = 'fanout'`

// fileLock is the lease on an SQLite file, from which one process at a time delivers.
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

// errInUse is what the second process on a file gets.
var errInUse = errors.New("another queue, of this process or another, delivers from it")

func (f *fileLock) id() string { return "file" }

// owns refuses a transaction of another file: what it inserted would never be found.
func (f *fileLock) owns(ctx context.Context, tx any) error {
	given, ok := tx.(*sql.Tx)
	if !ok {
		return nil // and is refused for its type
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

// take also takes over, at once: the process before is dead, as its lock is gone.
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

// membership is the lease in a Postgres, from which many processes deliver. Each writes
// now and then that it is alive.
type membership struct {
	tables  *tables
	self    string
	expires time.Duration
	renewed time.Time
}

func newMembership(t *tables, expires time.Duration) *membership {
	return &membership{tables: t, self: strings.ReplaceAll(hostname(), ".", "_") + "_" + strings.ToLower(rand.Text()[:12]), expires: expires}
}

// hostname is for people who look into the database.
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

// renew also takes over from members whose lease has expired.
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
