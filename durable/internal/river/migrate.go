package river

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivermigrate"
)

// ownTables are the tables and indexes that this package has beside River's.
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
CREATE TABLE IF NOT EXISTS @members (
	id      text PRIMARY KEY,
	seen_at bigint NOT NULL -- milliseconds, by the database's clock
);
CREATE INDEX IF NOT EXISTS fanout_job_ordered ON @job (queue, (metadata->>'fanout_order'), id) WHERE metadata->>'fanout_order' IS NOT NULL AND state = 'pending';
CREATE INDEX IF NOT EXISTS fanout_job_under_way ON @job (queue, (metadata->>'fanout_order')) WHERE metadata->>'fanout_order' IS NOT NULL AND state IN ('available', 'running', 'retryable', 'scheduled');
`

// ErrNotMigrated says that tables are missing, or belong to an older version of this
// package.
var ErrNotMigrated = errors.New("the database is not migrated, see Queue.Migrate")

// Schema creates and checks the tables.
type Schema struct {
	tables *tables
	river  migrator
}

// migrator is River's migrator, without the type of its transactions.
type migrator interface {
	AllVersions() []rivermigrate.Migration
	Migrate(context.Context, rivermigrate.Direction, *rivermigrate.MigrateOpts) (*rivermigrate.MigrateResult, error)
	Validate(context.Context, *rivermigrate.ValidateOpts) (*rivermigrate.ValidateResult, error)
}

func newSchema[Tx any](t *tables, driver riverdriver.Driver[Tx], logger *slog.Logger) (*Schema, error) {
	m, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: slog.New(atLeast{logger.Handler(), slog.LevelWarn}), Schema: t.schema})
	return &Schema{t, m}, err
}

// Migrate creates the tables, or brings them up to date. Several processes can call it at
// the same time.
func (s *Schema) Migrate(ctx context.Context) error {
	for tries := 0; ; tries++ {
		err := s.migrate(ctx)
		if tries == 10 || !isOvertaken(err) {
			return err
		}
		select {
		case <-time.After(100*time.Millisecond + rand.N(200*time.Millisecond)):
		case <-ctx.Done():
			return err
		}
	}
}

// overtaken holds error codes of PostgreSQL (Appendix A of its manual). They mean that
// another process has just done the step of the migration that this one was about to do.
// For example: A and B both see that a table is missing; A creates it; B fails with
// duplicate_table and tries again.
//
// A lock around the whole migration was rejected. It needs a second connection, and a
// pool may have only one.
var overtaken = []string{
	"23505", // unique_violation
	"42P06", // duplicate_schema
	"42P07", // duplicate_table
	"42710", // duplicate_object
	"42701", // duplicate_column
	"42704", // undefined_object
	"42703", // undefined_column
	"42P01", // undefined_table
	"40P01", // deadlock_detected
}

func isOvertaken(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && slices.Contains(overtaken, e.Code)
}

func (s *Schema) migrate(ctx context.Context) error {
	if s.tables.onPostgres() {
		if _, err := s.tables.exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+s.tables.schema); err != nil {
			return err
		}
	}
	if _, err := s.river.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	for statement := range strings.SplitSeq(strings.TrimSpace(ownTables), ";\n") {
		if _, err := s.tables.exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// SQL returns what Migrate runs on an empty database.
func (s *Schema) SQL() string {
	var b strings.Builder
	prefix := ""
	if s.tables.onPostgres() {
		prefix = s.tables.schema + "."
		fmt.Fprintf(&b, "CREATE SCHEMA IF NOT EXISTS %s;\n", s.tables.schema)
	}
	versions := s.river.AllVersions()
	for _, m := range versions {
		b.WriteString(strings.TrimSpace(strings.ReplaceAll(m.SQLUp, "/* TEMPLATE: schema */", prefix)) + "\n\n")
	}
	for _, m := range versions {
		fmt.Fprintf(&b, "INSERT INTO %sriver_migration (line, version) VALUES ('main', %d);\n\n", prefix, m.Version)
	}
	b.WriteString(strings.TrimSpace(s.tables.sql(ownTables)) + "\n")
	return b.String()
}

// Ready reports whether the database can be reached and has its tables.
func (s *Schema) Ready(ctx context.Context) error {
	result, err := s.river.Validate(ctx, nil)
	switch {
	case err != nil:
		return err
	case !result.OK:
		return fmt.Errorf("%w: %s", ErrNotMigrated, strings.Join(result.Messages, "; "))
	}
	return s.hasOwnTables(ctx)
}

// hasOwnTables is needed because River's tables may be there without ours: a schema can be
// one that a service's own River uses.
func (s *Schema) hasOwnTables(ctx context.Context) error {
	query, args := "SELECT name FROM sqlite_master WHERE type = 'table'", []any(nil)
	if s.tables.onPostgres() {
		query, args = "SELECT tablename::text FROM pg_tables WHERE schemaname = $1", []any{s.tables.schema}
	}
	found, err := s.tables.strings(ctx, query, args...)
	if err != nil {
		return err
	}
	for _, name := range []string{"fanout_journal", "fanout_holds", "fanout_members"} {
		if !slices.Contains(found, name) {
			return fmt.Errorf("%w: the table %s is missing", ErrNotMigrated, name)
		}
	}
	return nil
}
