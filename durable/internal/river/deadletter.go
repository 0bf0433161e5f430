package river

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"
)

// DeadLetter is a job that was given up, or that failed in its last round.
type DeadLetter struct {
	ID         int64
	DispatchID string
	Target     string
	Targets    []string
	Submitted  time.Time
	Died       time.Time
	Rounds     int
	Class      string
	Error      string
}

// Filter selects dead letters. Its zero value selects all.
type Filter struct {
	Target string
	Class  string
	Since  time.Time
	Until  time.Time
}

// ErrNotFound says that there is no dead letter with this ID.
var ErrNotFound = errors.New("no such dead letter")

// DeadLetters are River's discarded and cancelled jobs.
type DeadLetters struct {
	tables *tables
	lanes  *lanes
	order  *order
}

const (
	deadQuery = `SELECT id, dispatch, coalesce(target, ''), targets, submitted, died, rounds,
		coalesce(class, ''), coalesce(error, ''), coalesce(failed, '') FROM (
	SELECT j.id, j.args->>'dispatch' AS dispatch, j.args->>'target' AS target, j.args->>'targets' AS targets,
		CAST(j.args->>'submitted' AS bigint) AS submitted, %s AS died, j.attempt AS rounds, last.class, last.error, last.target AS failed
	FROM @job AS j LEFT JOIN @journal AS last ON last.id = (SELECT max(id) FROM @journal WHERE job_id = j.id AND kind = '` + RoundFailed + `')
	WHERE j.kind = 'fanout' AND j.state IN ('discarded', 'cancelled') AND j.id > $1
) AS dead WHERE 1 = 1`
	deadPage = 500
)

// List lists dead letters by ID, and reads them page by page. An error ends the list.
func (d *DeadLetters) List(ctx context.Context, f Filter) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		for after := int64(0); ; {
			page, err := d.page(ctx, f, after)
			if err != nil {
				yield(DeadLetter{}, err)
				return
			}
			for _, dead := range page {
				if !yield(dead, nil) {
					return
				}
				after = dead.ID
			}
			if len(page) < deadPage {
				return
			}
		}
	}
}

func (d *DeadLetters) page(ctx context.Context, f Filter, after int64) ([]DeadLetter, error) {
	where, args := d.where(f, []any{after})
	return d.scan(ctx, d.query()+where+fmt.Sprintf(" ORDER BY id LIMIT %d", deadPage), args)
}

func (d *DeadLetters) query() string { return fmt.Sprintf(deadQuery, d.tables.epoch("j.finalized_at")) }

func (d *DeadLetters) where(f Filter, args []any) (string, []any) {
	var b strings.Builder
	add := func(condition string, arg any) {
		args = append(args, arg)
		fmt.Fprintf(&b, " AND "+condition, len(args))
	}
	if f.Target != "" {
		b.WriteString(" AND " + isFor("target", "targets", len(args)+1))
		args = append(args, f.Target, d.tables.holding(f.Target))
	}
	if f.Class != "" {
		add("class = $%d", f.Class)
	}
	if !f.Since.IsZero() {
		add("died >= $%d", float64(f.Since.UnixMicro())/1e6)
	}
	if !f.Until.IsZero() {
		add("died < $%d", float64(f.Until.UnixMicro())/1e6)
	}
	return b.String(), args
}

func (d *DeadLetters) scan(ctx context.Context, query string, args []any) ([]DeadLetter, error) {
	var page []DeadLetter
	err := d.tables.each(ctx, query, args, func(rows *sql.Rows) error {
		var one DeadLetter
		var targets, failed string
		var submitted int64
		var died float64
		if err := rows.Scan(&one.ID, &one.DispatchID, &one.Target, &targets, &submitted, &died, &one.Rounds, &one.Class, &one.Error, &failed); err != nil {
			return err
		}
		if one.Target == "" {
			one.Target = failed
		}
		one.Submitted, one.Died = time.UnixMilli(submitted), fromEpoch(died)
		if err := json.Unmarshal([]byte(targets), &one.Targets); err != nil {
			return err
		}
		page = append(page, one)
		return nil
	})
	return page, err
}

// Get returns a dead letter with its job, or [ErrNotFound].
func (d *DeadLetters) Get(ctx context.Context, id int64) (DeadLetter, *Job, error) {
	found, err := d.scan(ctx, d.query()+" AND id = $2", []any{id - 1, id})
	switch {
	case err != nil:
		return DeadLetter{}, nil, err
	case len(found) == 0:
		return DeadLetter{}, nil, ErrNotFound
	}
	var text string
	if err := d.tables.row(ctx, "SELECT "+d.tables.json("args")+" FROM @job WHERE id = $1", id).Scan(&text); err != nil {
		return DeadLetter{}, nil, orNotFound(err) // it was discarded meanwhile
	}
	job := &Job{}
	return found[0], job, json.Unmarshal([]byte(text), job)
}

func orNotFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}

const (
	isDead = " WHERE id = $1 AND kind = 'fanout' AND state IN ('discarded', 'cancelled')"
	revive = `UPDATE @job SET state = %s,
		attempt = 0, finalized_at = NULL, scheduled_at = @now, metadata = @revived` + isDead
)

// Replay makes a dead letter available again, or pending if it has an ordering key.
func (d *DeadLetters) Replay(ctx context.Context, id int64) error {
	n, err := d.tables.exec(ctx, fmt.Sprintf(revive, d.tables.state("CASE WHEN metadata->>'fanout_order' IS NULL THEN 'available' ELSE 'pending' END")), id)
	switch {
	case err != nil:
		return err
	case n == 0:
		return ErrNotFound
	}
	var one sequence
	row := d.tables.row(ctx, "SELECT queue, coalesce(metadata->>'fanout_order', '') FROM @job WHERE id = $1", id)
	switch err := row.Scan(&one.lane, &one.key); {
	case errors.Is(err, sql.ErrNoRows): // it was delivered, and forgotten, meanwhile
	case err != nil:
		return err
	case one.key == "":
		d.lanes.changed(ctx, one.lane)
	case d.lanes.delivering.Load():
		d.order.look(one)
	}
	return nil
}

// Discard removes a dead letter and its journal.
func (d *DeadLetters) Discard(ctx context.Context, id int64) error {
	n, err := d.tables.exec(ctx, "DELETE FROM @job"+isDead, id)
	switch {
	case err != nil:
		return err
	case n == 0:
		return ErrNotFound
	}
	_, err = d.tables.exec(ctx, "DELETE FROM @journal WHERE job_id = $1", id)
	return err
}
