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

// dialect holds the parts of SQL that differ between the two databases.
type dialect struct {
	numbered string // prefix of a numbered parameter
	now      string
	epoch    string // a time as seconds, with a fraction
	json     string // a JSON column as text
	revived  string // metadata without the mark that the job was cancelled
	blob     string
	serial   string
}

var (
	sqlite = dialect{"?", "strftime('%Y-%m-%d %H:%M:%f', 'now')", "unixepoch(%s, 'subsec')", "json(%s)",
		"jsonb_remove(metadata, '$.cancel_attempted_at')", "blob", "integer PRIMARY KEY AUTOINCREMENT"}
	postgres = dialect{"$", "now()", "extract(epoch from %s)::float8", "%s::text",
		"metadata - 'cancel_attempted_at'", "bytea", "bigserial PRIMARY KEY"}
)

// tables runs SQL on River's tables and on those beside them. In a query, "@job" stands
// for River's table of jobs, "@journal" for the journal, "@now" for the current time, and
// so on.
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

// exec runs a statement, and returns how many rows it changed.
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

// isFor is an SQL condition: the job is for the target, alone or among others. The name
// of the target is the parameter with this number. The next parameter is the pattern of
// the name, see [tables.holding].
func isFor(target, targets string, parameter int) string {
	return fmt.Sprintf("(%[1]s = $%[3]d OR (%[1]s IS NULL AND %[2]s LIKE $%[4]d ESCAPE '!'))", target, targets, parameter, parameter+1)
}

// holding is a pattern that matches every JSON list that contains the name.
func (t *tables) holding(target string) string {
	return "%" + likeEscaper.Replace(t.inJSON(target)) + "%"
}

var likeEscaper = strings.NewReplacer("!", "!!", "%", "!%", "_", "!_")

// inJSON returns text as it is written in a JSON column. SQLite keeps what Go's encoder
// wrote, which escapes <, > and &. Postgres writes JSON in its own way, without these
// escapes.
func (t *tables) inJSON(text string) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(!t.onPostgres())
	_ = encoder.Encode(text) // a string can always be encoded
	return strings.TrimSpace(b.String())
}

// state converts an SQL expression from text to the type of a job's state.
func (t *tables) state(text string) string {
	if !t.onPostgres() {
		return text
	}
	return "(" + text + ")::" + t.schema + ".river_job_state"
}

// notify tells all processes that there is work in a lane, as River does itself when it
// inserts. An error does no harm, because an open lane also looks for work once a second.
func (t *tables) notify(ctx context.Context, lane string) {
	_, _ = t.db.ExecContext(ctx, "SELECT pg_notify($1, $2)", t.schema+".river_insert", `{"queue": "`+lane+`"}`)
}

func fromEpoch(seconds float64) time.Time {
	return time.UnixMicro(int64(seconds * 1e6))
}
