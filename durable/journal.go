package durable

import (
	"context"
	"database/sql"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/riverqueue/river"

	"github.com/fanout-go/fanout"
)

// What a record in the journal tells of a target.
const (
	roundFailed = "round" // a round did, but not the delivery
	stepEnded   = "step"  // of a saga
	stepUndone  = "undo"
)

// record is a result as it is kept.
type record struct {
	Outcome  fanout.Outcome `json:"outcome"`
	Optional bool           `json:"optional,omitempty"`
	Status   int            `json:"status,omitempty"`
	Header   http.Header    `json:"header,omitempty"`
	Body     []byte         `json:"body,omitempty"`
	Answered bool           `json:"answered,omitempty"`
	Attempts []attempt      `json:"attempts,omitempty"`
	Duration time.Duration  `json:"duration"`
	Class    string         `json:"class,omitempty"`
	Error    string         `json:"error,omitempty"`
	Key      string         `json:"key,omitempty"`
}

type attempt struct {
	RequestID string             `json:"request_id"`
	Start     time.Time          `json:"start"`
	Duration  time.Duration      `json:"duration"`
	Status    int                `json:"status,omitempty"`
	Class     string             `json:"class,omitempty"`
	Error     string             `json:"error,omitempty"`
	Kind      fanout.AttemptKind `json:"kind,omitempty"`
}

// answerKept is how much of an answer is kept of a round that failed.
const answerKept = 16 << 10

func newRecord(r fanout.Result, most int) record {
	kept := record{Outcome: r.Outcome, Optional: r.Optional, Duration: r.Duration, Key: r.IdempotencyKey}
	kept.Class, kept.Error = describe(r.Err)
	if r.Response != nil {
		body := r.Response.Body
		if most > 0 {
			body = body[:min(len(body), most)]
		}
		kept.Answered, kept.Status, kept.Header, kept.Body = true, r.Response.StatusCode, r.Response.Header, body
	}
	for _, a := range r.Attempts {
		one := attempt{RequestID: a.RequestID, Start: a.Start, Duration: a.Duration, Status: a.StatusCode, Kind: a.Kind}
		one.Class, one.Error = describe(a.Err)
		kept.Attempts = append(kept.Attempts, one)
	}
	return kept
}

// KeptError is an error as it was when it was written to the database: its text.
type KeptError struct {
	Text  string
	Class string // see [fanout.ErrorClass]
}

func (e *KeptError) Error() string { return e.Text }

// ErrorClass is for [fanout.ErrorClass].
func (e *KeptError) ErrorClass() string { return e.Class }

func keptError(class, text string) error {
	if text == "" {
		return nil
	}
	return &KeptError{text, class}
}

func (k *record) result(target, dispatch string) fanout.Result {
	r := fanout.Result{Target: target, Outcome: k.Outcome, Optional: k.Optional, Duration: k.Duration, DispatchID: dispatch, IdempotencyKey: k.Key, Err: keptError(k.Class, k.Error)}
	if k.Answered {
		r.Response = &fanout.Response{StatusCode: k.Status, Header: k.Header, Body: k.Body}
	}
	for _, a := range k.Attempts {
		r.Attempts = append(r.Attempts, fanout.Attempt{RequestID: a.RequestID, Start: a.Start, Duration: a.Duration, StatusCode: a.Status, Kind: a.Kind, Err: keptError(a.Class, a.Error)})
	}
	return r
}

// journal is one saga's.
type journal struct {
	q        *Queue
	job      int64
	dispatch string
	past     []fanout.Step

	torn atomic.Bool // a step could not be noted
}

func (q *Queue) openJournal(ctx context.Context, job int64, dispatch string) (*journal, error) {
	j := &journal{q: q, job: job, dispatch: dispatch}
	entries, err := q.entries(ctx, job, dispatch, stepEnded, stepUndone)
	for _, e := range entries {
		j.past = append(j.past, fanout.Step{Result: e.result, Compensation: e.kind == stepUndone})
	}
	return j, err
}

// Past implements [fanout.Journal].
func (j *journal) Past() []fanout.Step { return j.past }

// Note implements [fanout.Journal].
func (j *journal) Note(ctx context.Context, s fanout.Step) error {
	kind := stepEnded
	if s.Compensation {
		kind = stepUndone
	}
	err := j.q.write(ctx, j.job, j.dispatch, kind, newRecord(s.Result, 0), s.Result.Target)
	if err != nil {
		j.torn.Store(true)
	}
	return err
}

func (q *Queue) write(ctx context.Context, job int64, dispatch, kind string, r record, target string) error {
	sealed, err := q.seal(dispatch, r)
	if err != nil {
		return err
	}
	_, err = q.store.exec(ctx, "INSERT INTO @journal (job_id, kind, target, at, class, error, record) VALUES ($1, $2, $3, $4, $5, $6, $7)",
		job, kind, target, time.Now().UnixMilli(), r.Class, r.Error, sealed)
	return err
}

// keepFailures is for whoever looks into a dead letter; without them it goes on all the same.
func (q *Queue) keepFailures(ctx context.Context, j *river.Job[job], failures []fanout.Result) {
	for _, f := range failures {
		if err := q.write(ctx, j.ID, j.Args.Dispatch, roundFailed, newRecord(f, answerKept), f.Target); err != nil {
			q.logger.WarnContext(ctx, "durable: what became of a round is not kept", "dispatch_id", j.Args.Dispatch, "target", f.Target, "error", err)
		}
	}
}

type entry struct {
	kind   string
	at     time.Time
	result fanout.Result
}

func (q *Queue) entries(ctx context.Context, job int64, dispatch string, kinds ...string) ([]entry, error) {
	var all []entry
	err := q.store.each(ctx, "SELECT kind, target, at, record FROM @journal WHERE job_id = $1 ORDER BY id", []any{job}, func(rows *sql.Rows) error {
		var kind, target string
		var at int64
		var sealed []byte
		if err := rows.Scan(&kind, &target, &at, &sealed); err != nil {
			return err
		}
		for _, wanted := range kinds {
			if kind != wanted {
				continue
			}
			var kept record
			if err := q.unseal(dispatch, sealed, &kept); err != nil {
				return err
			}
			all = append(all, entry{kind, time.UnixMilli(at), kept.result(target, dispatch)})
		}
		return nil
	})
	return all, err
}

// forgetEntries removes those of deliveries that are forgotten.
func (q *Queue) forgetEntries(ctx context.Context) error {
	_, err := q.store.exec(ctx, "DELETE FROM @journal WHERE NOT EXISTS (SELECT 1 FROM @job AS j WHERE j.id = job_id)")
	return err
}
