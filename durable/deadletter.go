package durable

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/fanout-go/fanout"
)

// DeadLetter is a delivery that failed for good. It is kept until it is replayed or
// discarded.
type DeadLetter struct {
	ID         int64     `json:"id"`
	DispatchID string    `json:"dispatch_id"`
	Target     string    `json:"target"` // of a saga the one that keeps it from its end
	Targets    []string  `json:"targets"`
	Submitted  time.Time `json:"submitted"`
	Died       time.Time `json:"died"`
	Rounds     int       `json:"rounds"`
	Class      string    `json:"class"` // of the last error, see [fanout.ErrorClass]
	Error      string    `json:"error"`
}

// Inspection is all there is of a dead letter.
type Inspection struct {
	DeadLetter
	CorrelationID string         `json:"correlation_id"`
	Payload       fanout.Payload `json:"-"`
	// History is the results of the rounds that failed, the first one first, with
	// the attempts, their errors and the beginning of the last answer; of a saga,
	// those of its steps too. Their Err is a [*KeptError].
	History []fanout.Result `json:"-"`
}

// Filter selects dead letters. Its zero value selects all.
type Filter struct {
	Target string    // of a saga any of its targets
	Class  string    // see [fanout.ErrorClass]
	Since  time.Time // of when it died; itself included
	Until  time.Time // itself not included
}

// ErrNotFound is that there is no dead letter of that ID.
var ErrNotFound = errors.New("no such dead letter")

const (
	deadQuery = `SELECT id, dispatch, coalesce(target, ''), targets, submitted, died, rounds,
		coalesce(class, ''), coalesce(error, ''), coalesce(failed, '') FROM (
	SELECT j.id, j.args->>'dispatch' AS dispatch, j.args->>'target' AS target, j.args->>'targets' AS targets,
		CAST(j.args->>'submitted' AS bigint) AS submitted, %s AS died, j.attempt AS rounds, last.class, last.error, last.target AS failed
	FROM @job AS j LEFT JOIN @journal AS last ON last.id = (SELECT max(id) FROM @journal WHERE job_id = j.id AND kind = 'round')
	WHERE j.kind = 'fanout' AND j.state IN ('discarded', 'cancelled') AND j.id > $1
) AS dead WHERE 1 = 1`
	deadPage = 500
)

// DeadLetters lists them, the oldest first. An error ends the list.
func (q *Queue) DeadLetters(ctx context.Context, f Filter) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		for after := int64(0); ; {
			page, err := q.deadLetters(ctx, f, after)
			if err != nil {
				yield(DeadLetter{}, fmt.Errorf("durable: %w", err))
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

func (q *Queue) deadLetters(ctx context.Context, f Filter, after int64) ([]DeadLetter, error) {
	where, args := q.where(f, []any{after})
	query := fmt.Sprintf(deadQuery, q.store.epoch("j.finalized_at")) + where + fmt.Sprintf(" ORDER BY id LIMIT %d", deadPage)
	return q.scanDead(ctx, query, args)
}

func (q *Queue) where(f Filter, args []any) (string, []any) {
	var b strings.Builder
	add := func(condition string, arg any) {
		args = append(args, arg)
		fmt.Fprintf(&b, " AND "+condition, len(args))
	}
	if f.Target != "" {
		b.WriteString(" AND " + isFor("target", "targets", len(args)+1))
		args = append(args, f.Target, q.store.holding(f.Target))
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

func (q *Queue) scanDead(ctx context.Context, query string, args []any) ([]DeadLetter, error) {
	var page []DeadLetter
	err := q.store.each(ctx, query, args, func(rows *sql.Rows) error {
		var d DeadLetter
		var targets, failed string
		var submitted int64
		var died float64
		if err := rows.Scan(&d.ID, &d.DispatchID, &d.Target, &targets, &submitted, &died, &d.Rounds, &d.Class, &d.Error, &failed); err != nil {
			return err
		}
		if d.Target == "" {
			d.Target = failed
		}
		d.Submitted, d.Died = time.UnixMilli(submitted), fromEpoch(died)
		page = append(page, d)
		return json.Unmarshal([]byte(targets), &page[len(page)-1].Targets)
	})
	return page, err
}

// Inspect returns a dead letter with its payload and history. The error is
// [ErrNotFound] if it is none.
func (q *Queue) Inspect(ctx context.Context, id int64) (*Inspection, error) {
	query := fmt.Sprintf(deadQuery, q.store.epoch("j.finalized_at")) + " AND id = $2"
	found, err := q.scanDead(ctx, query, []any{id - 1, id})
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("durable: dead letter %d: %w", id, err)
	}
	one := &Inspection{DeadLetter: found[0]}
	if err := q.look(ctx, one); err != nil {
		return nil, fmt.Errorf("durable: dead letter %d: %w", id, err)
	}
	return one, nil
}

func (q *Queue) look(ctx context.Context, one *Inspection) error {
	var text string
	if err := q.store.db.QueryRowContext(ctx, q.store.sql("SELECT "+q.store.json("args")+" FROM @job WHERE id = $1"), one.ID).Scan(&text); err != nil {
		return err
	}
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	s, err := q.submission(&j)
	if err != nil {
		return err
	}
	one.Payload, one.CorrelationID = s.Repeat(), s.CorrelationID
	entries, err := q.entries(ctx, one.ID, one.DispatchID, roundFailed, stepEnded, stepUndone)
	for _, e := range entries {
		one.History = append(one.History, e.result)
	}
	return err
}

const (
	isDead = " WHERE id = $1 AND kind = 'fanout' AND state IN ('discarded', 'cancelled')"
	revive = `UPDATE @job SET state = %s,
		attempt = 0, finalized_at = NULL, scheduled_at = @now, metadata = @revived` + isDead
)

// Replay delivers a dead letter again, with the same idempotency keys and a schedule
// that begins anew. A saga goes on where it was. In an order it comes before what was
// submitted later and is not under way. The error is [ErrNotFound] if it is no dead
// letter, or not any more.
func (q *Queue) Replay(ctx context.Context, id int64) error {
	n, err := q.store.exec(ctx, fmt.Sprintf(revive, q.store.state("CASE WHEN metadata->>'fanout_order' IS NULL THEN 'available' ELSE 'pending' END")), id)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("durable: replaying %d: %w", id, err)
	}
	var one orderedLane
	row := q.store.db.QueryRowContext(ctx, q.store.sql("SELECT queue, coalesce(metadata->>'fanout_order', '') FROM @job WHERE id = $1"), id)
	switch err := row.Scan(&one.lane, &one.key); {
	case errors.Is(err, sql.ErrNoRows): // it was made, and forgotten, meanwhile
	case err != nil:
		return fmt.Errorf("durable: replaying %d: %w", id, err)
	case one.key == "":
		q.lanes.revived(ctx, one.lane)
	case q.delivers():
		q.order.look(one)
	}
	return nil
}

// Discard removes a dead letter for good. The error is [ErrNotFound] if it is none.
func (q *Queue) Discard(ctx context.Context, id int64) error {
	n, err := q.store.exec(ctx, "DELETE FROM @job"+isDead, id)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	if err == nil {
		_, err = q.store.exec(ctx, "DELETE FROM @journal WHERE job_id = $1", id)
	}
	if err != nil {
		return fmt.Errorf("durable: discarding %d: %w", id, err)
	}
	return nil
}

// Bulk is how much is done at once.
type Bulk struct {
	// PerSecond is how many are done in a second. Default 50; negative means as many
	// as can be.
	PerSecond float64
	// Progress, if set, is called after each.
	Progress func(done, total int)
}

// ReplayAll replays the dead letters that there are when it begins, and returns how
// many it did. It ends with the first error, or when ctx does; then it can be called again.
func (q *Queue) ReplayAll(ctx context.Context, f Filter, b Bulk) (int, error) {
	return q.all(ctx, f, b, q.Replay)
}

// DiscardAll is ReplayAll for [Queue.Discard].
func (q *Queue) DiscardAll(ctx context.Context, f Filter, b Bulk) (int, error) {
	return q.all(ctx, f, b, q.Discard)
}

func (q *Queue) all(ctx context.Context, f Filter, b Bulk, do func(context.Context, int64) error) (done int, err error) {
	var ids []int64
	for dead, err := range q.DeadLetters(ctx, f) {
		if err != nil {
			return 0, err
		}
		ids = append(ids, dead.ID)
	}
	limit := rate.Inf
	switch {
	case b.PerSecond == 0:
		limit = 50
	case b.PerSecond > 0:
		limit = rate.Limit(b.PerSecond)
	}
	pace := rate.NewLimiter(limit, 1)
	for i, id := range ids {
		if err := pace.Wait(ctx); err != nil {
			return done, err
		}
		switch err := do(ctx, id); {
		case err == nil:
			done++
		case !errors.Is(err, ErrNotFound): // somebody else was faster
			return done, err
		}
		if b.Progress != nil {
			b.Progress(i+1, len(ids))
		}
	}
	return done, nil
}
