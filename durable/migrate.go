package durable

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// ownTables is what there is beside River's.
const ownTables = `
CREATE TABLE IF NOT EXISTS @journal (
	id      @serial,
	job_id  bigint NOT NULL,
	kind    text NOT NULL,
	target  text NOT NULL,
	at      bigint NOT NULL, -- milliseconds
	class   text NOT NULL,
	error   text NOT NULL,
	record  @blob NOT NULL
);
CREATE INDEX IF NOT EXISTS fanout_journal_job ON @journal (job_id);
CREATE TABLE IF NOT EXISTS @holds (
	target  text PRIMARY KEY,
	since   bigint NOT NULL -- milliseconds
);
CREATE TABLE IF NOT EXISTS @nodes (
	id      text PRIMARY KEY,
	seen_at bigint NOT NULL -- milliseconds, by the database's clock
);
CREATE INDEX IF NOT EXISTS fanout_job_ordered ON @job (queue, (metadata->>'fanout_order'), id) WHERE metadata->>'fanout_order' IS NOT NULL AND state = 'pending';
CREATE INDEX IF NOT EXISTS fanout_job_under_way ON @job (queue, (metadata->>'fanout_order')) WHERE metadata->>'fanout_order' IS NOT NULL AND state IN ('available', 'running', 'retryable', 'scheduled');
`

// ErrNotMigrated is that tables are missing, or older than this package.
var ErrNotMigrated = errors.New("the database is not migrated, see Queue.Migrate")

// Migrate makes the tables, or brings them up to date. [Open] does it by itself. Several
// processes may do it at the same time.
func (q *Queue) Migrate(ctx context.Context) error {
	for tries := 0; ; tries++ {
		err := q.migrate(ctx)
		if tries == 10 || !madeByAnother(err) {
			return err
		}
		select {
		case <-time.After(100*time.Millisecond + rand.N(200*time.Millisecond)):
		case <-ctx.Done():
			return err
		}
	}
}

// madeByAnother reports whether another process has just made what was to be made.
func madeByAnother(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && slices.Contains([]string{"23505", "42P06", "42P07", "42710", "42701", "40P01"}, e.Code)
}

func (q *Queue) migrate(ctx context.Context) error {
	if schema := q.store.schema; schema != "" {
		if _, err := q.store.exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+schema); err != nil {
			return fmt.Errorf("durable: %w", err)
		}
	}
	if err := q.engine.migrate(ctx); err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	for statement := range strings.SplitSeq(strings.TrimSpace(ownTables), ";\n") {
		if _, err := q.store.exec(ctx, statement); err != nil {
			return fmt.Errorf("durable: %w", err)
		}
	}
	return nil
}

// Migrations is the SQL that [Queue.Migrate] runs on an empty database, River's and
// then that of this package, for those who run it themselves.
func (q *Queue) Migrations() string {
	var b strings.Builder
	if schema := q.store.schema; schema != "" {
		fmt.Fprintf(&b, "CREATE SCHEMA IF NOT EXISTS %s;\n", schema)
	}
	for _, statement := range q.engine.migrations() {
		b.WriteString(strings.TrimSpace(statement) + "\n\n")
	}
	b.WriteString(strings.TrimSpace(q.store.sql(ownTables)) + "\n")
	return b.String()
}
