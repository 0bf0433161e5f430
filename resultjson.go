package fanout

import (
	"encoding/json"
	"time"

	"github.com/fanout-go/fanout/internal/redact"
)

// A result as JSON, for queues and for whoever keeps results. The payload is left out:
// it is large, the same for all targets, and known to whoever dispatched it.
type resultJSON struct {
	Target   string        `json:"target"`
	Outcome  Outcome       `json:"outcome"`
	Optional bool          `json:"optional,omitempty"`
	Key      string        `json:"key,omitempty"`
	Error    *keptError    `json:"error,omitempty"`
	Response *Response     `json:"response,omitempty"`
	Attempts []Attempt     `json:"attempts,omitempty"`
	Duration time.Duration `json:"duration_ns"`
}

// MarshalJSON writes all but the payload. Of an error it writes text and [Class].
func (r Result) MarshalJSON() ([]byte, error) {
	return json.Marshal(resultJSON{r.Target, r.Outcome, r.Optional, r.Key, keep(r.err), r.Response, r.Attempts, r.Duration})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *Result) UnmarshalJSON(text []byte) error {
	var j resultJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	*r = Result{Target: j.Target, Outcome: j.Outcome, Optional: j.Optional, Key: j.Key, Response: j.Response,
		Attempts: j.Attempts, Duration: j.Duration, err: j.Error.orNil()}
	return nil
}

type attemptJSON struct {
	RequestID  string        `json:"request_id"`
	Start      time.Time     `json:"start"`
	Duration   time.Duration `json:"duration_ns"`
	StatusCode int           `json:"status,omitempty"`
	Kind       AttemptKind   `json:"kind,omitempty"`
	Error      *keptError    `json:"error,omitempty"`
}

// MarshalJSON writes an attempt. Of its error it writes text and [Class].
func (a Attempt) MarshalJSON() ([]byte, error) {
	return json.Marshal(attemptJSON{a.RequestID, a.Start, a.Duration, a.StatusCode, a.Kind, keep(a.Err)})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (a *Attempt) UnmarshalJSON(text []byte) error {
	var j attemptJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	*a = Attempt{RequestID: j.RequestID, Start: j.Start, Duration: j.Duration, StatusCode: j.StatusCode, Kind: j.Kind, Err: j.Error.orNil()}
	return nil
}

// keptError is an error as it was when it was written: text and class.
type keptError struct {
	Text string `json:"text"`
	Kind Class  `json:"class"`
}

func keep(err error) *keptError {
	if err == nil {
		return nil
	}
	return &keptError{redact.Shown(err), ClassOf(err)}
}

// orNil is the error, or a nil interface for none.
func (e *keptError) orNil() error {
	if e == nil {
		return nil
	}
	return e
}

func (e *keptError) Error() string     { return e.Text }
func (e *keptError) ErrorClass() Class { return e.Kind }
