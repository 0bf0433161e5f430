package river

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// dialect is how the two databases differ in the SQL of this package.
type dialect struct {
	numbered string // how a numbered parameter begins
	now      string
	epoch    string // seconds of a time, as a fraction
	json     string // a column of JSON, as text
	revived  string // metadata without the mark of a cancellation
	blob     string
	serial   string
}

var (
	sqlite = dialect{"?", "strftime('%Y-%m-%d %H:%M:%f', 'now')", "unixepoch(%s, 'subsec')", "json(%s)",
		"jsonb_remove(metadata, '$.cancel_attempted_at')", "blob", "integer PRIMARY KEY AUTOINCREMENT"}
	postgres = dialect{"$", "now()", "extract(epoch from %s)::float8", "%s::text",
		"metadata - 'cancel_attempted_at'", "bytea", "bigserial PRIMARY KEY"}
)

// tables runs SQL on River's tables and on those beside them. In a query "@job" stands for
// River's table of jobs, "@journal" for the journal, "@now" for the time, and so on.
type tables struct {
	db       *sql.DB
	dialect  dialect
	schema   string // empty in SQLite
	replacer *strings.Replacer
}

func newTables(db *sql.DB, d dialect, schema string) *tables {
	prefix := ""
	if schema != "" {
		prefix = schema + "."
	}
	return &tables{db: db, dialect: d, schema: schema, replacer: strings.NewReplacer(
		"@job", prefix+"river_job", "@leader", prefix+"river_leader",
		"@journal", prefix+"fanout_journal", "@holds", prefix+"fanout_holds", "@members", prefix+"fanout_members",
		"@now", d.now, "@revived", d.revived, "@blob", d.blob, "@serial", d.serial, "$", d.numbered)}
}

func (t *tables) onPostgres() bool { return t.schema != "" }

func (t *tables) sql(query string) string { return t.replacer.Replace(query) }

// exec returns how many rows a statement changed.
func (t *tables) exec(ctx context.Context, query string, args ...any) (int, error) {
	result, err := t.db.ExecContext(ctx, t.sql(query), args...)
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}

func (t *tables) row(ctx context.Context, query string, args ...any) *sql.Row {
	return t.db.QueryRowContext(ctx, t.sql(query), args...)
}

// each calls scan for every row.
func (t *tables) each(ctx context.Context, query string, args []any, scan func(*sql.Rows) error) (err error) {
	rows, err := t.db.QueryContext(ctx, t.sql(query), args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (t *tables) strings(ctx context.Context, query string, args ...any) ([]string, error) {
	var all []string
	err := t.each(ctx, query, args, func(rows *sql.Rows) error {
		var one string
		err := rows.Scan(&one)
		all = append(all, one)
		return err
	})
	return all, err
}

func (t *tables) epoch(column string) string { return fmt.Sprintf(t.dialect.epoch, column) }
func (t *tables) json(column string) string  { return fmt.Sprintf(t.dialect.json, column) }

// isFor is a condition: the job is for the target, alone or with others. The target is
// the parameter of that number, and its pattern, see [tables.holding], the next one.
func isFor(target, targets string, parameter int) string {
	return fmt.Sprintf("(%[1]s = $%[3]d OR (%[1]s IS NULL AND %[2]s LIKE $%[4]d ESCAPE '!'))", target, targets, parameter, parameter+1)
}

// holding is a pattern of JSON lists that hold a name.
func (t *tables) holding(target string) string {
	return "%" + likeEscaper.Replace(t.inJSON(target)) + "%"
}

var likeEscaper = strings.NewReplacer("!", "!!", "%", "!%", "_", "!_")

// inJSON is a string as it stands in a column of JSON. SQLite keeps what was encoded, and
// Go's encoder escapes <, > and &; Postgres writes JSON its own way, without those escapes.
func (t *tables) inJSON(text string) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(!t.onPostgres())
	_ = encoder.Encode(text) // a string can be
	return strings.TrimSpace(b.String())
}

// state makes a job's state of an expression that is text.
func (t *tables) state(text string) string {
	if !t.onPostgres() {
		return text
	}
	return "(" + text + ")::" + t.schema + ".river_job_state"
}

// notify tells all processes that there is work in a lane, as River itself does for what
// it inserts. An error does no harm: a lane looks by itself, too.
func (t *tables) notify(ctx context.Context, lane string) {
	_, _ = t.db.ExecContext(ctx, "SELECT pg_notify($1, $2)", t.schema+".river_insert", `{"queue": "`+lane+`"}`)
}

func fromEpoch(seconds float64) time.Time {
	return time.UnixMicro(int64(seconds * 1e6))
}
