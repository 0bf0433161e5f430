package fanout

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/fanout-go/fanout/internal/redact"
)

// Outcome is what became of one target in a dispatch. The zero value is invalid.
type Outcome uint8

const (
	// Delivered means that the target accepted the payload.
	Delivered Outcome = iota + 1
	// Failed means that the target said no, or was never reached.
	Failed
	// Unknown means that at least one attempt was sent and not answered, and none
	// succeeded, so it may have taken effect. For a payment the difference
	// between Failed and Unknown is money.
	Unknown
	// Rejected means that nothing was sent, because of bad input, an open circuit, a full
	// bulkhead, a rate limit, a closed dispatcher or a context that had ended.
	Rejected
	// Degraded means that the target was not delivered to, but one of its
	// [Target.Fallback] was. It is a success: [Results.Err] leaves it out.
	Degraded
	// Skipped means that nothing was sent, because a target that this one comes
	// after did not succeed, or the saga had failed.
	Skipped
	// Compensated means that the saga failed, and what this target did, or may have
	// done, was undone.
	Compensated
	// CompensationFailed means that it was to be undone, and was not, or nobody
	// knows: somebody has to look at it.
	CompensationFailed
)

var outcomeNames = [...]string{Delivered: "delivered", Failed: "failed", Unknown: "unknown", Rejected: "rejected",
	Degraded: "degraded", Skipped: "skipped", Compensated: "compensated", CompensationFailed: "compensation_failed"}

// succeeded reports whether what comes after it may begin.
func (o Outcome) succeeded() bool { return o == Delivered || o == Degraded }

// String returns the outcome in lower case.
func (o Outcome) String() string {
	if o == 0 || int(o) >= len(outcomeNames) {
		return fmt.Sprintf("Outcome(%d)", uint8(o))
	}
	return outcomeNames[o]
}

// MarshalText makes an outcome readable in JSON.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (o *Outcome) UnmarshalText(text []byte) error {
	i := slices.Index(outcomeNames[1:], string(text))
	if i < 0 {
		return fmt.Errorf("fanout: no outcome is called %q", text)
	}
	*o = Outcome(i + 1) //nolint:gosec // i is an index into a small table
	return nil
}

// Results holds one entry for every target of a dispatch, by target name.
type Results map[string]Result

// Result is what became of one target.
type Result struct {
	Target  string
	Outcome Outcome
	// Optional is copied from the [Target]: its failure is not in [Results.Err].
	Optional bool
	position int32 // an int would make a result more than 128 bytes, which maps keep apart

	// Response is the last answer seen, nil if there was none. Its body is nil
	// if it could not be read whole.
	Response *Response
	// Err is nil if Outcome is Delivered, and a [*TargetError] otherwise. If it is
	// Degraded, Err says why the fallback was needed.
	Err error
	// Attempts are all tries on the wire, the first one first, those of fallbacks
	// and of the compensation included.
	Attempts []Attempt
	// Duration is the whole delivery's, waits included.
	Duration       time.Duration
	DispatchID     string
	IdempotencyKey string // as the target got it; empty if it takes none
	// PayloadKey repeats a dispatch: as [Payload.IdempotencyKey] of another one, it
	// gives every target the key it had.
	PayloadKey string
}

// dead reports whether a delivery is for the dead letters. What was compensated
// because another failed is not.
func (r *Result) dead() bool {
	if r.Outcome == Compensated {
		return r.targetError().Err != nil
	}
	return !r.Outcome.succeeded()
}

// Attempt is one try on the wire.
type Attempt struct {
	RequestID  string // sent as X-Request-ID
	Start      time.Time
	Duration   time.Duration // from when it was built and signed to the answer's last byte
	StatusCode int           // zero if no answer was seen
	Err        error         // nil if the attempt delivered
	Kind       AttemptKind
}

// AttemptKind says what an attempt was made for. The zero value is an ordinary one.
type AttemptKind uint8

// What attempts are made for, if they are not ordinary.
const (
	HedgeAttempt        AttemptKind = iota + 1 // beside one that was slow
	FallbackAttempt                            // instead, see [Target.Fallback]
	CompensationAttempt                        // to undo, see [Target.Compensate]
)

// String returns "", "hedge", "fallback" or "compensation".
func (k AttemptKind) String() string {
	names := [...]string{"", "hedge", "fallback", "compensation"}
	if int(k) >= len(names) {
		return fmt.Sprintf("AttemptKind(%d)", uint8(k))
	}
	return names[k]
}

// Response is a target's answer, read whole and closed.
type Response struct {
	StatusCode int         // zero from a [Sender] that has none
	Header     http.Header // nil from a [Sender] that has none
	Body       []byte

	incomplete bool // the body could not be read whole
}

// Err joins the failures of the required targets, in definition order, as a
// [*DispatchError]; it is nil if there are none.
func (r Results) Err() error {
	var failed []Result
	for _, res := range r {
		if res.Err != nil && !res.Optional && res.Outcome != Degraded {
			failed = append(failed, res)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	slices.SortFunc(failed, byPosition)
	e := &DispatchError{DispatchID: failed[0].DispatchID, Targets: len(r)}
	for _, res := range failed {
		e.Failures = append(e.Failures, res.targetError())
	}
	return e
}

// Sorted returns the results in definition order.
func (r Results) Sorted() []Result {
	all := make([]Result, 0, len(r))
	for _, res := range r {
		all = append(all, res)
	}
	slices.SortFunc(all, byPosition)
	return all
}

func byPosition(a, b Result) int {
	return cmp.Or(cmp.Compare(a.position, b.position), cmp.Compare(a.Target, b.Target))
}

func (r Result) targetError() *TargetError {
	var e *TargetError
	if errors.As(r.Err, &e) {
		return e
	}
	return &TargetError{Target: r.Target, Outcome: r.Outcome, Reason: r.Err}
}

// Decode reads the JSON answer of a delivered target into a T:
//
//	contact, err := fanout.Decode[Contact](results["crm"])
//
// If the target was not delivered to, the error is the result's own.
func Decode[T any](r Result) (T, error) {
	var v T
	switch {
	case r.Err != nil && r.Outcome != Degraded:
		return v, r.Err
	case r.Outcome == 0:
		return v, fmt.Errorf("fanout: no such target in the results")
	case r.Response == nil || len(r.Response.Body) == 0:
		return v, fmt.Errorf("fanout: %s: answer has no body", r.Target)
	}
	err := json.Unmarshal(r.Response.Body, &v)
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrongType): // whose text has the value
		return v, fmt.Errorf("fanout: %s: answer is not the JSON expected: field %q cannot be a %v", r.Target, wrongType.Field, wrongType.Type)
	case has[*json.SyntaxError](err):
		return v, fmt.Errorf("fanout: %s: answer is not the JSON expected: %w", r.Target, err)
	case err != nil: // of a type that reads itself, and may quote the value
		return v, redact.As(fmt.Sprintf("fanout: %s: answer is not the JSON expected: a %T cannot be read from it", r.Target, v), err)
	}
	return v, nil
}
