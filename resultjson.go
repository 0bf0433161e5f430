package fanout

import (
	"encoding/json"
	"time"

	"github.com/fanout-go/fanout/internal/redact"
)

// resultJSON is a result as JSON. The payload is left out, because it is large, is the
// same for all targets, and is known to the dispatching code.
type resultJSON struct {
	DispatchID string           `json:"dispatch_id,omitempty"`
	Target     string           `json:"target"`
	Position   int32            `json:"position,omitempty"` // position in definition order
	Outcome    Outcome          `json:"outcome"`
	Optional   bool             `json:"optional,omitempty"`
	Key        string           `json:"key,omitempty"`
	Error      *targetErrorJSON `json:"error,omitempty"`
	Response   *Response        `json:"response,omitempty"`
	Attempts   []Attempt        `json:"attempts,omitempty"`
	Duration   time.Duration    `json:"duration_ns"`
}

type targetErrorJSON struct {
	Text     string `json:"text"`
	Class    Class  `json:"class"`
	Attempts int    `json:"attempts,omitempty"`
	Failed   bool   `json:"failed,omitempty"` // Err was set: the target's own attempt failed
}

// MarshalJSON writes the result with the payload's ID instead of the payload. Of an error
// it writes the text and the [Class].
func (r Result) MarshalJSON() ([]byte, error) {
	j := resultJSON{r.dispatchID(), r.Target, r.position, r.Outcome, r.Optional, r.Key, nil, r.Response, r.Attempts, r.Duration}
	if r.err != nil {
		e := r.targetError()
		j.Error = &targetErrorJSON{redact.Shown(r.err), ClassOf(r.err), e.Attempts, e.Err != nil}
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON writes. Its payload has only the ID. Its error is
// a [*TargetError] with the same text and [Class], but errors.Is does not find what the
// original error wrapped.
func (r *Result) UnmarshalJSON(text []byte) error {
	var j resultJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	*r = Result{Target: j.Target, position: j.Position, Outcome: j.Outcome, Optional: j.Optional, Key: j.Key, Response: j.Response,
		Attempts: j.Attempts, Duration: j.Duration}
	if j.DispatchID != "" {
		r.Payload = &Payload{ID: j.DispatchID}
	}
	if j.Error != nil {
		kept := &keptError{j.Error.Text, j.Error.Class}
		e := &TargetError{Target: j.Target, Outcome: j.Outcome, Attempts: j.Error.Attempts, Reason: kept, text: j.Error.Text}
		if j.Error.Failed {
			e.Err = kept
		}
		r.err = e
	}
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

// MarshalJSON writes an attempt. Of its error it writes the text and the [Class].
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

// keptError is an error that was written as its text and class.
type keptError struct {
	Text  string `json:"text"`
	Class Class  `json:"class"`
}

func keep(err error) *keptError {
	if err == nil {
		return nil
	}
	return &keptError{redact.Shown(err), ClassOf(err)}
}

// orNil returns e, or a nil interface if e is nil.
func (e *keptError) orNil() error {
	if e == nil {
		return nil
	}
	return e
}

func (e *keptError) Error() string     { return e.Text }
func (e *keptError) ErrorClass() Class { return e.Class }
