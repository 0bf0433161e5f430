package durable

import (
	"cmp"
	"net/http"
	"time"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable/internal/river"
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
	RequestID string        `json:"request_id"`
	Start     time.Time     `json:"start"`
	Duration  time.Duration `json:"duration"`
	Status    int           `json:"status,omitempty"`
	Class     string        `json:"class,omitempty"`
	Error     string        `json:"error,omitempty"`
	Kind      string        `json:"kind,omitempty"` // as text, which outlasts a change of the constants
}

// kinds reads the text of an attempt's kind.
var kinds = map[string]fanout.AttemptKind{
	fanout.HedgeAttempt.String():        fanout.HedgeAttempt,
	fanout.FallbackAttempt.String():     fanout.FallbackAttempt,
	fanout.CompensationAttempt.String(): fanout.CompensationAttempt,
}

// entry is a result as the journal keeps it. Of an answer at most so many bytes are kept;
// 0 means all.
func (c sealer) entry(kind string, r fanout.Result, mostBody int) (river.Entry, error) {
	kept := record{Outcome: r.Outcome, Optional: r.Optional, Duration: r.Duration, Key: r.IdempotencyKey}
	kept.Class, kept.Error = describe(r.Err)
	if r.Response != nil {
		body := r.Response.Body
		if mostBody > 0 {
			body = body[:min(len(body), mostBody)]
		}
		kept.Answered, kept.Status, kept.Header, kept.Body = true, r.Response.StatusCode, r.Response.Header, body
	}
	for _, a := range r.Attempts {
		one := attempt{RequestID: a.RequestID, Start: a.Start, Duration: a.Duration, Status: a.StatusCode, Kind: a.Kind.String()}
		one.Class, one.Error = describe(a.Err)
		kept.Attempts = append(kept.Attempts, one)
	}
	sealed, err := c.seal(r.DispatchID, kept)
	return river.Entry{Kind: kind, Target: r.Target, At: time.Now(), Class: kept.Class, Error: kept.Error, Record: sealed}, err
}

// result is what was kept in an entry.
func (c sealer) result(e river.Entry, dispatch string) (fanout.Result, error) {
	var kept record
	if err := c.unseal(dispatch, e.Record, &kept); err != nil {
		return fanout.Result{}, err
	}
	r := fanout.Result{Target: e.Target, Outcome: kept.Outcome, Optional: kept.Optional, Duration: kept.Duration, DispatchID: dispatch, IdempotencyKey: kept.Key, Err: keptError(kept.Class, kept.Error)}
	if kept.Answered {
		r.Response = &fanout.Response{StatusCode: kept.Status, Header: kept.Header, Body: kept.Body}
	}
	for _, a := range kept.Attempts {
		r.Attempts = append(r.Attempts, fanout.Attempt{RequestID: a.RequestID, Start: a.Start, Duration: a.Duration, StatusCode: a.Status, Kind: kinds[a.Kind], Err: keptError(a.Class, a.Error)})
	}
	return r, nil
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

// describe is what is kept of an error, in the clear: errors hold no secrets.
func describe(err error) (class, text string) {
	if err == nil {
		return "", ""
	}
	return cmp.Or(fanout.ErrorClass(err), "_OTHER"), river.Clean(err.Error())
}
