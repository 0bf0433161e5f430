package durable

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// dialect is how the two databases differ in what is written here.
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

// store runs SQL on River's tables and our own: in it "@job" is River's table of
// jobs, "@journal" one of ours, "@now" the time.
type store struct {
	db       *sql.DB
	dialect  dialect
	schema   string
	replacer *strings.Replacer
}

func newStore(db *sql.DB, d dialect, schema string) *store {
	prefix := ""
	if schema != "" {
		prefix = schema + "."
	}
	return &store{db: db, dialect: d, schema: schema, replacer: strings.NewReplacer(
		"@job", prefix+"river_job", "@leader", prefix+"river_leader",
		"@journal", prefix+"fanout_journal", "@holds", prefix+"fanout_holds", "@nodes", prefix+"fanout_nodes",
		"@now", d.now, "@revived", d.revived, "@blob", d.blob, "@serial", d.serial, "$", d.numbered)}
}

func (s *store) sql(query string) string { return s.replacer.Replace(query) }

func (s *store) exec(ctx context.Context, query string, args ...any) (int, error) {
	result, err := s.db.ExecContext(ctx, s.sql(query), args...)
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}

// each calls scan for every row.
func (s *store) each(ctx context.Context, query string, args []any, scan func(*sql.Rows) error) (err error) {
	rows, err := s.db.QueryContext(ctx, s.sql(query), args...)
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

func (s *store) strings(ctx context.Context, query string, args ...any) ([]string, error) {
	var all []string
	err := s.each(ctx, query, args, func(rows *sql.Rows) error {
		var one string
		err := rows.Scan(&one)
		all = append(all, one)
		return err
	})
	return all, err
}

func (s *store) epoch(column string) string { return fmt.Sprintf(s.dialect.epoch, column) }
func (s *store) json(column string) string  { return fmt.Sprintf(s.dialect.json, column) }

// isFor selects the jobs for a target, the parameter of that number, be it one of
// several, by the next one.
func isFor(target, targets string, parameter int) string {
	return fmt.Sprintf("(%[1]s = $%[3]d OR (%[1]s IS NULL AND %[2]s LIKE $%[4]d ESCAPE '!'))", target, targets, parameter, parameter+1)
}

// holding is a pattern of lists that hold a name.
func (s *store) holding(target string) string {
	return "%" + likeEscaper.Replace(s.inJSON(target)) + "%"
}

var likeEscaper = strings.NewReplacer("!", "!!", "%", "!%", "_", "!_")

// inJSON is a string as it stands in a column of JSON: as it was encoded for SQLite, as
// Postgres writes it for Postgres.
func (s *store) inJSON(text string) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(s.schema == "")
	_ = encoder.Encode(text) // a string can be
	return strings.TrimSpace(b.String())
}

// state makes a state of text.
func (s *store) state(text string) string {
	if s.schema == "" {
		return text
	}
	return "(" + text + ")::" + s.schema + ".river_job_state"
}

// notify tells all processes, as River does, that there is work in a lane.
func (s *store) notify(ctx context.Context, lane string) {
	_, _ = s.db.ExecContext(ctx, "SELECT pg_notify($1, $2)", s.schema+".river_insert", `{"queue": "`+lane+`"}`) // or the lane looks by itself
}

func fromEpoch(seconds float64) time.Time {
	return time.UnixMicro(int64(seconds * 1e6))
}
