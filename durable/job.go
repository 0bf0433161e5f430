package durable

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/fanout-go/fanout"
)

// job is a delivery as River keeps it, or a whole dispatch if its deliveries depend on
// each other. River knows one of its own by the fields marked unique.
type job struct {
	Dispatch      string            `json:"dispatch" river:"unique"`
	Target        string            `json:"target,omitempty" river:"unique"` // none if they are made together
	Set           string            `json:"set,omitempty" river:"unique"`    // of targets that are
	Targets       []string          `json:"targets"`
	Submitted     int64             `json:"submitted"`                // milliseconds
	CorrelationID string            `json:"correlation_id,omitempty"` // if it is not the dispatch's
	Trace         map[string]string `json:"trace,omitempty"`          // of the submitter, by W3C Trace Context
	Payload       *content          `json:"payload,omitempty"`
	Sealed        []byte            `json:"sealed,omitempty"` // Payload, encrypted

	notBefore time.Time // of the next round
}

// content is what nobody else shall read.
type content struct {
	Key         string      `json:"key,omitempty"`
	ContentType string      `json:"content_type,omitempty"`
	Header      http.Header `json:"header,omitempty"`
	Body        []byte      `json:"body,omitempty"`
}

// Kind implements river.JobArgs.
func (job) Kind() string { return "fanout" }

func (q *Queue) jobOf(ctx context.Context, s *fanout.Submission) (job, error) {
	j := job{Dispatch: s.DispatchID, Targets: s.Targets, Submitted: s.Submitted.UnixMilli(), CorrelationID: s.CorrelationID, Trace: traceOf(ctx)}
	if j.CorrelationID == j.Dispatch {
		j.CorrelationID = ""
	}
	j.Payload = &content{Key: s.IdempotencyKey, ContentType: s.ContentType, Header: s.Header, Body: s.Body}
	if q.config.Encryption == nil {
		return j, nil
	}
	var err error
	j.Sealed, err = q.seal(s.DispatchID, j.Payload)
	j.Payload = nil
	return j, err
}

// submission is nearly what was submitted: of its payload, the bytes are left.
func (q *Queue) submission(j *job) (*fanout.Submission, error) {
	c := j.Payload
	switch {
	case c == nil:
		c = &content{}
		if err := q.unseal(j.Dispatch, j.Sealed, c); err != nil {
			return nil, err
		}
	case q.config.Encryption != nil && !q.config.AcceptPlaintext:
		return nil, errPlaintext
	}
	return &fanout.Submission{
		DispatchID: j.Dispatch, CorrelationID: cmp.Or(j.CorrelationID, j.Dispatch), IdempotencyKey: c.Key, Submitted: time.UnixMilli(j.Submitted), Targets: j.Targets,
		Header: c.Header, ContentType: c.ContentType, Body: c.Body,
	}, nil
}

func traceOf(ctx context.Context) map[string]string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	if len(carrier) == 0 {
		return nil
	}
	return carrier
}

// within is the context of a delivery: its submitter's trace is linked.
func (j *job) within(ctx context.Context) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier(j.Trace))
}

// seal encrypts what belongs to a dispatch, and cannot be moved to another.
func (q *Queue) seal(dispatch string, v any) ([]byte, error) {
	plain, err := json.Marshal(v)
	if err != nil || q.config.Encryption == nil {
		return plain, err
	}
	sealed, err := q.config.Encryption.Encrypt(plain, []byte(dispatch))
	if err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	return sealed, nil
}

var (
	errNoKey     = errors.New("encrypted, and no Config.Encryption is given")
	errPlaintext = errors.New("not encrypted, and Config.AcceptPlaintext is not set")
)

func (q *Queue) unseal(dispatch string, sealed []byte, v any) error {
	if q.config.Encryption == nil {
		if len(sealed) > 0 && sealed[0] == '{' {
			return json.Unmarshal(sealed, v)
		}
		return errNoKey
	}
	plain, err := q.config.Encryption.Decrypt(sealed, []byte(dispatch))
	if err != nil && q.config.AcceptPlaintext && len(sealed) > 0 && sealed[0] == '{' {
		plain, err = sealed, nil
	}
	if err != nil {
		return fmt.Errorf("decrypting: %w", err)
	}
	return json.Unmarshal(plain, v)
}
