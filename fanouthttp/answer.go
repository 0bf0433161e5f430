package fanouthttp

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/fanout-go/fanout"
)

// Receipt is the answer to a request that was accepted for delivery in the background.
type Receipt struct {
	DispatchID    string `json:"dispatch_id"`
	CorrelationID string `json:"correlation_id"`
}

// Report is the answer to a request whose deliveries have ended. It has no texts of
// errors, because they can name internal hosts.
type Report struct {
	Receipt
	Targets []TargetReport `json:"targets"` // in the order of their definitions
}

// TargetReport says how the delivery to one target ended.
type TargetReport struct {
	Target     string         `json:"target"`
	Optional   bool           `json:"optional,omitempty"`
	Outcome    fanout.Outcome `json:"outcome"`
	StatusCode int            `json:"status,omitempty"` // of the last answer; zero if there was none
	Attempts   int            `json:"attempts"`
	DurationMS int64          `json:"duration_ms"`
}

// NewReport makes a report from the results of one dispatch. It is for handlers of your
// own.
func NewReport(correlationID string, results fanout.Results) Report {
	report := Report{Receipt: Receipt{CorrelationID: correlationID}}
	for _, r := range results.Sorted() {
		if r.Payload != nil {
			report.DispatchID = r.Payload.ID
		}
		t := TargetReport{Target: r.Target, Optional: r.Optional, Outcome: r.Outcome, Attempts: len(r.Attempts), DurationMS: r.Duration.Milliseconds()}
		if r.Response != nil {
			t.StatusCode = r.Response.StatusCode
		}
		report.Targets = append(report.Targets, t)
	}
	return report
}

// Problem is the answer to a request that was refused, as RFC 9457 describes it. It is
// also an error, with which [Config.Validate] can choose the answer:
//
//	return &fanouthttp.Problem{Status: http.StatusForbidden, Detail: "not your account"}
type Problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"` // default: the text of the status
	Detail string `json:"detail,omitempty"`
}

// Error returns a text such as "403 Forbidden: not your account".
func (p *Problem) Error() string {
	title := p.Title
	if title == "" {
		title = http.StatusText(p.Status)
	}
	text := strings.TrimSpace(fmt.Sprintf("%d %s", p.Status, title))
	if p.Detail != "" {
		text += ": " + p.Detail
	}
	return text
}

// problemOf returns the answer for a dispatch that was not begun. It does not quote the
// error of the dispatcher, which names targets and fields.
func problemOf(err error) Problem {
	switch {
	case errors.Is(err, fanout.ErrPayloadTooLarge):
		return Problem{Status: http.StatusRequestEntityTooLarge}
	case errors.Is(err, fanout.ErrPayloadRefused):
		return Problem{Status: http.StatusUnprocessableEntity, Detail: "the body is not valid"}
	case errors.Is(err, fanout.ErrIdempotencyKey):
		return Problem{Status: http.StatusBadRequest, Detail: "Idempotency-Key " + fanout.ErrIdempotencyKey.Error()}
	case errors.Is(err, fanout.ErrTargetGone):
		return Problem{Status: http.StatusNotFound, Detail: "there is no such target"}
	case errors.Is(err, fanout.ErrFull):
		return Problem{Status: http.StatusServiceUnavailable, Detail: "no room for more at the moment"}
	case errors.Is(err, fanout.ErrClosed):
		return Problem{Status: http.StatusServiceUnavailable, Detail: "shutting down"}
	case errors.Is(err, fanout.ErrNoTargets), errors.Is(err, fanout.ErrLookup), isOfTarget(err):
		return Problem{Status: http.StatusServiceUnavailable, Detail: "there is nowhere to send it at the moment"}
	case errors.Is(err, fanout.ErrInvalid):
		return Problem{Status: http.StatusBadRequest, Detail: "the request cannot be passed on"}
	}
	return Problem{Status: http.StatusInternalServerError}
}

// isOfTarget reports whether the error is about a target, which cannot be used or is not
// known. Only the operator can fix that, so the client is not blamed.
func isOfTarget(err error) bool {
	var invalid *fanout.InvalidError
	return errors.As(err, &invalid) && invalid.Target != ""
}
