package fanout

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/fanout-go/fanout/internal/redact"
	"github.com/fanout-go/fanout/internal/retryafter"
)

// Outcome is what became of one target in a dispatch. The zero value is no outcome.
// In JSON it is its name, such as "delivered".
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
	if o == 0 {
		return "none"
	}
	if int(o) >= len(outcomeNames) {
		return fmt.Sprintf("Outcome(%d)", uint8(o))
	}
	return outcomeNames[o]
}

// MarshalText writes the name. No outcome has none, and is an error.
func (o Outcome) MarshalText() ([]byte, error) {
	if o == 0 || int(o) >= len(outcomeNames) {
		return nil, fmt.Errorf("fanout: Outcome(%d) is no outcome", uint8(o))
	}
	return []byte(o.String()), nil
}

// UnmarshalText reads what MarshalText writes.
func (o *Outcome) UnmarshalText(text []byte) error {
	i := slices.Index(outcomeNames[1:], string(text))
	if i < 0 {
		return fmt.Errorf("fanout: no outcome is called %q", text)
	}
	*o = Outcome(i + 1) //nolint:gosec // i is an index into a small table
	return nil
}

// AttemptKind says what an attempt was made for. The zero value is an ordinary
// attempt. In JSON it is its name, such as "hedge".
type AttemptKind uint8

// What attempts are made for, if they are not ordinary.
const (
	HedgeAttempt        AttemptKind = iota + 1 // beside one that was slow
	FallbackAttempt                            // instead, see [Target.Fallback]
	CompensationAttempt                        // to undo, see [Target.Compensate]
)

var kindNames = [...]string{"", "hedge", "fallback", "compensation"}

// String returns "", "hedge", "fallback" or "compensation".
func (k AttemptKind) String() string {
	if int(k) >= len(kindNames) {
		return fmt.Sprintf("AttemptKind(%d)", uint8(k))
	}
	return kindNames[k]
}

// MarshalText writes the name.
func (k AttemptKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (k *AttemptKind) UnmarshalText(text []byte) error {
	i := slices.Index(kindNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("fanout: no kind of attempt is called %q", text)
	}
	*k = AttemptKind(i) //nolint:gosec // i is an index into a small table
	return nil
}

// Results holds one entry for every target of a dispatch, by target name. A name that
// has no entry, such as a misspelt one, gives the zero [Result], whose Err is not nil.
type Results map[string]Result

// Result is what became of one target.
type Result struct {
	Target  string
	Outcome Outcome
	// Optional is copied from the [Target]: its failure is not in [Results.Err].
	Optional bool
	position int32 // in definition order; an int would make a result larger than maps keep in place

	// Payload is what was dispatched, filled in. Given to Dispatch or Submit again, with
	// [To], it repeats the delivery with the same keys. It must not be changed.
	Payload *Payload
	// Key is the idempotency key that the target got; empty if it takes none.
	Key string
	// Response is the last answer seen, nil if there was none. Its body is nil
	// if it could not be read whole.
	Response *Response
	// Attempts are all tries on the wire, the first one first, those of fallbacks
	// and of the compensation included.
	Attempts []Attempt
	// Duration is the whole delivery's, waits included.
	Duration time.Duration

	err error // see Err
}

// Err is nil if Outcome is [Delivered], and never nil otherwise. In results that a
// dispatcher made it is a [*TargetError]; if Outcome is [Degraded], it says why the
// fallback was needed. A result that was read from JSON has the error's text and
// [Class]. That of the zero Result says that there is no such target.
func (r Result) Err() error {
	switch {
	case r.err != nil || r.Outcome == Delivered:
		return r.err
	case r.Outcome == 0:
		return errNoResult
	}
	return &TargetError{Target: r.Target, Outcome: r.Outcome, Attempts: len(r.Attempts), Reason: ErrNotRetried}
}

// WithErr is the result with that error, for tests of what looks at results.
func (r Result) WithErr(err error) Result {
	r.err = err
	return r
}

var errNoResult = errors.New("fanout: no such target in the results")

// IsDeadLetter reports whether, of a submitted delivery, it is told to
// [Config.OnDeadLetter]: the delivery failed for good. What was compensated because
// another target failed did not.
func (r Result) IsDeadLetter() bool {
	if r.Outcome == Compensated {
		return r.targetError().Err != nil
	}
	return !r.Outcome.succeeded()
}

// Attempt is one try on the wire.
type Attempt struct {
	RequestID  string        // sent as X-Request-ID
	Start      time.Time     // when it left the gates
	Duration   time.Duration // from Start to the answer's last byte
	StatusCode int           // zero if no answer was seen
	Err        error         // nil if the attempt delivered
	Kind       AttemptKind

	reach   reach // how far it got
	renewed bool  // its answer had us renew the credentials
}

// reach is how far an attempt got.
type reach uint8

const (
	unanswered reach = iota // it may have taken effect
	notSent                 // nothing can have reached the target
	refused                 // the target said no
	delivered
)

// Response is a target's answer, read whole and closed.
type Response struct {
	StatusCode int         `json:"status,omitempty"` // zero from a [Sender] that has none
	Header     http.Header `json:"header,omitempty"` // nil from a [Sender] that has none
	Body       []byte      `json:"body,omitempty"`   // base64 in JSON

	incomplete bool // the body could not be read whole
}

// Err is nil for a success (2xx, or no status at all) and a [*StatusError] for
// any other. A [Target.Classify] calls it for what it does not decide itself.
func (r *Response) Err() error {
	if r.StatusCode == 0 || r.StatusCode/100 == 2 {
		return nil
	}
	return &StatusError{StatusCode: r.StatusCode, RetryAfter: retryafter.Parse(r.Header.Get("Retry-After"), time.Now())}
}

// Err joins the failures of the required targets, in definition order, as a
// [*DispatchError]; it is nil if there are none.
func (r Results) Err() error {
	var failed []Result
	for _, res := range r {
		if res.Outcome != Delivered && res.Outcome != Degraded && !res.Optional {
			failed = append(failed, res)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	slices.SortFunc(failed, byPosition)
	e := &DispatchError{DispatchID: failed[0].dispatchID(), Targets: len(r)}
	for _, res := range failed {
		e.Failures = append(e.Failures, res.targetError())
	}
	return e
}

func (r *Result) dispatchID() string {
	if r.Payload == nil {
		return ""
	}
	return r.Payload.ID
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

func (r *Result) targetError() *TargetError {
	err := r.Err()
	var e *TargetError
	if errors.As(err, &e) {
		return e
	}
	return &TargetError{Target: r.Target, Outcome: r.Outcome, Reason: err}
}

// unmade is the result of a delivery of which nothing more is known.
func unmade(p *Payload, target string, outcome Outcome, reason error) Result {
	r := Result{Target: target, Outcome: outcome, Payload: p}
	if outcome != Delivered {
		r.err = &TargetError{Target: target, Outcome: outcome, Reason: orNotMade(reason)}
	}
	return r
}

func orNotMade(reason error) error {
	if reason == nil {
		return errNotMade
	}
	return reason
}

var errNotMade = errors.New("not made")

// Decode reads the JSON answer of a target, or of the fallback that stood in for it, into a T:
//
//	contact, err := fanout.Decode[Contact](results["crm"])
//
// If the outcome is neither [Delivered] nor [Degraded], the error is the result's own.
func Decode[T any](r Result) (T, error) {
	var v T
	switch {
	case !r.Outcome.succeeded():
		return v, r.Err()
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

// TargetError says why one target was not delivered to.
type TargetError struct {
	Target   string
	Outcome  Outcome
	Attempts int   // attempts made
	Reason   error // why no further attempt was made; never nil
	Err      error // what the last attempt met; nil if there was none
	Fallback error // why the last fallback failed too; nil if there was none, or it did not

	text string // what Error says, of an error that was read from JSON
}

// Error reads like "crm: given up after 3 attempts: 503 Service Unavailable".
func (e *TargetError) Error() string {
	if e.text != "" {
		return e.text
	}
	reason := e.Reason.Error()
	if invalid, ok := e.Reason.(*InvalidError); ok && invalid.Target == e.Target { //nolint:errorlint // its own text only
		reason = fmt.Sprintf("%s: %v", invalid.Field, invalid.Err)
	}
	var b strings.Builder
	b.WriteString(e.Target + ": " + reason)
	switch {
	case e.Attempts == 0, e.Outcome == Compensated, e.Outcome == CompensationFailed: // they are of several
	case e.Attempts == 1:
		b.WriteString(" after 1 attempt")
	default:
		fmt.Fprintf(&b, " after %d attempts", e.Attempts)
	}
	if e.Err != nil && !strings.HasSuffix(reason, e.Err.Error()) {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Fallback != nil {
		fmt.Fprintf(&b, "; fallback: %v", e.Fallback)
	}
	switch {
	case e.Outcome == Unknown && !strings.HasSuffix(b.String(), effectUnknown):
		b.WriteString(effectUnknown)
	case e.Outcome == Degraded:
		b.WriteString("; a fallback answered")
	}
	return b.String()
}

const effectUnknown = "; it may have taken effect"

// Unwrap returns Reason and, if they are not nil, Err and Fallback.
func (e *TargetError) Unwrap() []error {
	return slices.DeleteFunc([]error{e.Reason, e.Err, e.Fallback}, func(err error) bool { return err == nil })
}

// ErrorClass is for [ClassOf]: what the last attempt met, if there was one.
func (e *TargetError) ErrorClass() Class {
	last := ClassOf(e.Err)
	if last == "" || (last == ClassCanceled && errors.Is(e.Reason, ErrTimeout)) {
		return ClassOf(e.Reason)
	}
	return last
}

// DispatchError joins the failures of a dispatch's required targets.
type DispatchError struct {
	DispatchID string
	Targets    int            // targets of the dispatch, optional ones included
	Failures   []*TargetError // in definition order; at least one
}

// Error is one line: how many targets did not get it, and why each did not.
func (e *DispatchError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "fanout: %d of %d targets not delivered", len(e.Failures), e.Targets)
	for i, f := range e.Failures {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		b.WriteString(sep + f.Error())
	}
	return b.String()
}

func (*TargetError) ofDispatch()   {}
func (*DispatchError) ofDispatch() {}

// ErrorClass is for [ClassOf]: the class that all failures have, or else [ClassSeveral].
// What was skipped or undone because of another failure does not count.
func (e *DispatchError) ErrorClass() Class {
	var causes, all []Class
	for _, f := range e.Failures {
		c := f.ErrorClass()
		all = append(all, c)
		if c != ClassSkipped && c != ClassCompensated {
			causes = append(causes, c)
		}
	}
	if len(causes) == 0 {
		causes = all
	}
	if slices.ContainsFunc(causes, func(c Class) bool { return c != causes[0] }) {
		return ClassSeveral
	}
	return causes[0]
}

// Unwrap returns Failures.
func (e *DispatchError) Unwrap() []error {
	errs := make([]error, len(e.Failures))
	for i, f := range e.Failures {
		errs[i] = f
	}
	return errs
}

// failed is the outcome of a delivery that did not succeed. It is Unknown if any attempt
// went unanswered: that one may have taken effect, whatever a later one was answered.
func failed(attempts []Attempt) Outcome {
	switch {
	case slices.ContainsFunc(attempts, func(a Attempt) bool { return a.reach == unanswered }):
		return Unknown
	case len(attempts) == 0:
		return Rejected
	default:
		return Failed
	}
}
