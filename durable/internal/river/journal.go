package river

import (
	"context"
	"database/sql"
	"slices"
	"time"
)

// The kinds of entries.
const (
	RoundFailed     = "round" // a round failed; another one may follow
	StepEnded       = "step"  // a step of a saga ended
	StepCompensated = "undo"  // the compensation of a step ended
)

// Entry is the result of one target in a round, or in a saga.
type Entry struct {
	Kind   string
	Target string
	Class  string // of the error; not encrypted
	Error  string // text of the error; not encrypted
	Record []byte // the whole result, encrypted if there is a key
}

// Journal stores entries in a table beside River's jobs.
type Journal struct{ tables *tables }

// Write adds an entry to a job.
func (j *Journal) Write(ctx context.Context, job int64, e Entry) error {
	_, err := j.tables.exec(ctx, "INSERT INTO @journal (job_id, kind, target, at, class, error, record) VALUES ($1, $2, $3, $4, $5, $6, $7)",
		job, e.Kind, e.Target, time.Now().UnixMilli(), e.Class, e.Error, e.Record)
	return err
}

// Read returns the entries of a job that have one of the kinds, the oldest first.
func (j *Journal) Read(ctx context.Context, job int64, kinds ...string) ([]Entry, error) {
	var all []Entry
	err := j.tables.each(ctx, "SELECT kind, target, class, error, record FROM @journal WHERE job_id = $1 ORDER BY id", []any{job}, func(rows *sql.Rows) error {
		var e Entry
		if err := rows.Scan(&e.Kind, &e.Target, &e.Class, &e.Error, &e.Record); err != nil {
			return err
		}
		if slices.Contains(kinds, e.Kind) {
			all = append(all, e)
		}
		return nil
	})
	return all, err
}

// forget removes the entries of jobs that do not exist any more.
func (j *Journal) forget(ctx context.Context) error {
	_, err := j.tables.exec(ctx, "DELETE FROM @journal WHERE NOT EXISTS (SELECT 1 FROM @job AS j WHERE j.id = job_id)")
	return err
}
