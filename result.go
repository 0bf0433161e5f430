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

// Outcome says how the delivery to one target ended. The zero value means that there is
// no result. In JSON it is its name, such as "delivered".
type Outcome uint8

const (
	// Delivered means that the target accepted the payload.
	Delivered Outcome = iota + 1
	// Failed means that the target denied, or was never reached.
	Failed
	// Unknown means that the payload may have taken effect: at least one attempt was sent
	// and not answered, and none succeeded. For example, after an Unknown payment, find out
	// whether it was made before you pay again.
	Unknown
	// Rejected means that nothing was sent, for example because of an open breaker, a full
	// bulkhead, a rate limit, bad input, a closed dispatcher or a context that had ended.
	Rejected
	// Degraded means that the target failed, but one of its [Target.Fallback] succeeded. It
	// counts as a success: [Results.Err] leaves it out.
	Degraded
	// Skipped means that nothing was sent, because a target in [Target.After] did not
	// succeed, or the saga had failed.
	Skipped
	// Compensated means that the saga failed, and that what this target did, or may have
	// done, was undone.
	Compensated
	// CompensationFailed means that the saga failed, and that it is not certain that what
	// this target did was undone. A person has to look at it.
	CompensationFailed
)

var outcomeNames = [...]string{Delivered: "delivered", Failed: "failed", Unknown: "unknown", Rejected: "rejected",
	Degraded: "degraded", Skipped: "skipped", Compensated: "compensated", CompensationFailed: "compensation_failed"}

// succeeded reports whether the targets that come after this one may begin.
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

// MarshalText writes the name. It returns an error for the zero value.
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

// AttemptKind says why an attempt was made. The zero value is an ordinary attempt: the
// first one or a retry. In JSON it is its name, such as "hedge".
type AttemptKind uint8

// The kinds of attempts besides the zero one.
const (
	HedgeAttempt        AttemptKind = iota + 1 // at the same time as a slow one, see [Hedge]
	FallbackAttempt                            // to a [Target.Fallback]
	CompensationAttempt                        // to a [Target.Compensate]
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

// Results holds one entry for every target of a dispatch, by target name. For any other
// name, such as a misspelt one, it gives the zero [Result], whose Err is not nil.
type Results map[string]Result

// Result says how the delivery to one target ended.
type Result struct {
	Target  string
	Outcome Outcome
	// Optional is copied from the [Target]. If it is set, [Results.Err] leaves this result
	// out.
	Optional bool
	position int32 // in definition order; an int would make a result larger than maps keep in place

	// Payload is what was dispatched, with its ID and all defaults filled in. To repeat the
	// delivery with the same keys, dispatch it again with [To]. It must not be changed.
	Payload *Payload
	// Key is the idempotency key that the target got. It is empty if the target takes none.
	Key string
	// Response is the last answer, or nil if there was none. Its body is nil if it could not
	// be read whole.
	Response *Response
	// Attempts lists all attempts that were sent, the first one first. Those to fallbacks
	// and to the compensation are included.
	Attempts []Attempt
	// Duration is that of the whole delivery, with its waits and fallbacks, but without its
	// compensation.
	Duration time.Duration

	err error // see Err
}

// Err is nil if Outcome is [Delivered], and not nil otherwise. A dispatcher makes it a
// [*TargetError]. If Outcome is [Degraded], it says why the fallback was needed. A result
// that was read from JSON has only the error's text and [Class]. The Err of the zero
// Result says that there is no such target.
func (r Result) Err() error {
	switch {
	case r.err != nil || r.Outcome == Delivered:
		return r.err
	case r.Outcome == 0:
		return errNoResult
	}
	return &TargetError{Target: r.Target, Outcome: r.Outcome, Attempts: len(r.Attempts), Reason: ErrNotRetried}
}

// WithErr returns a copy of r with that error. It is for tests of code that reads
// results.
func (r Result) WithErr(err error) Result {
	r.err = err
	return r
}

var errNoResult = errors.New("fanout: no such target in the results")

// IsDeadLetter reports whether a submitted delivery with this result failed for good, so
// that [Config.OnDeadLetter] gets it. A target that succeeded and was compensated,
// because another one failed, is no dead letter.
func (r Result) IsDeadLetter() bool {
	if r.Outcome == Compensated {
		return r.targetError().Err != nil
	}
	return !r.Outcome.succeeded()
}

// Attempt is one attempt that was sent.
type Attempt struct {
	RequestID  string        // sent as X-Request-ID
	Start      time.Time     // when it had passed the gates, such as the rate limit
	Duration   time.Duration // from Start until the answer was read and judged
	StatusCode int           // zero if there was no answer, or a [Sender] gave none
	Err        error         // nil if the attempt delivered
	Kind       AttemptKind

	reach   reach // how far it got
	renewed bool  // after its answer the credentials are renewed
}

// reach is how far an attempt got.
type reach uint8

const (
	unanswered reach = iota // it may have taken effect
	notSent                 // nothing can have reached the target
	refused                 // the target denied
	delivered
)

// Response is a target's answer. Its body was read and closed.
type Response struct {
	StatusCode int         `json:"status,omitempty"` // zero from a [Sender] that has none
	Header     http.Header `json:"header,omitempty"` // nil from a [Sender] that has none
	Body       []byte      `json:"body,omitempty"`   // base64 in JSON

	incomplete bool // the body could not be read whole
}

// Err returns nil for a success: a status of 2xx, or zero. For any other status it
// returns a [*StatusError]. A [Target.Classify] can call it for answers that it does not
// judge itself.
func (r *Response) Err() error {
	if r.StatusCode == 0 || r.StatusCode/100 == 2 {
		return nil
	}
	return &StatusError{StatusCode: r.StatusCode, RetryAfter: retryafter.Of(r.Header, time.Now())}
}

// Err returns nil if all required targets were [Delivered] or [Degraded]. Otherwise it
// returns a [*DispatchError] with the others, in definition order.
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

// unmade returns a result without attempts.
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

// Decode reads a target's JSON answer, or its fallback's, into a T:
//
//	contact, err := fanout.Decode[Contact](results["crm"])
//
// If the outcome is neither [Delivered] nor [Degraded], it returns the result's own
// error. An answer that is empty, or no JSON for a T, is an error too.
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
	case errors.As(err, &wrongType): // its text quotes the value, which may be secret
		return v, fmt.Errorf("fanout: %s: answer is not the JSON expected: field %q cannot be a %v", r.Target, wrongType.Field, wrongType.Type)
	case has[*json.SyntaxError](err):
		return v, fmt.Errorf("fanout: %s: answer is not the JSON expected: %w", r.Target, err)
	case err != nil: // from an UnmarshalJSON, whose text may quote the value
		return v, redact.As(fmt.Sprintf("fanout: %s: answer is not the JSON expected: a %T cannot be read from it", r.Target, v), err)
	}
	return v, nil
}

// TargetError says why the delivery to one target did not succeed.
type TargetError struct {
	Target   string
	Outcome  Outcome
	Attempts int   // attempts that were sent
	Reason   error // why no further attempt was made; never nil
	Err      error // the last attempt's error; nil if there was none
	Fallback error // the last fallback's error; nil if none was tried, or it succeeded

	text string // the text of an error that was read from JSON
}

// Error returns, for example, "crm: given up after 3 attempts: 503 Service Unavailable".
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
	case e.Attempts == 0, e.Outcome == Compensated, e.Outcome == CompensationFailed: // they count those of several requests
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

// ErrorClass is for [ClassOf]. It is the class of Err, if there is one, or else of
// Reason.
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
	Targets    int            // number of targets of the dispatch, including optional ones
	Failures   []*TargetError // in definition order; at least one
}

// Error returns one line: how many targets failed, and why each of them did.
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

// ErrorClass is for [ClassOf]. It is the class that all failures share, or else
// [ClassSeveral]. Targets that were skipped or compensated because of another failure do
// not count.
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

// failed returns the outcome of a delivery that did not succeed. It is Unknown if any
// attempt was not answered, even if a later one was denied: the earlier one may have
// taken effect.
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
