package durable

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/propagation"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable/internal/river"
)

// storable refuses a submission that cannot be kept, or not be made again after a restart.
func storable(s *fanout.Submission, mostBytes int) error {
	if s == nil || len(s.Targets) == 0 {
		return &fanout.InvalidError{Field: "Submission", Err: errors.New("names no target")}
	}
	if given := s.Given(); len(given) > 0 {
		return &fanout.InvalidError{Target: given[0], Field: "ToTargets", Err: errors.New("a durable queue finds targets by name: configure it, or name it and have Config.Lookup find it")}
	}
	if s.OrderKey() != "" && s.Chained() {
		return &fanout.InvalidError{Field: "InOrder", Err: errors.New("is not for targets that depend on each other")}
	}
	size := len(s.Body)
	for name, values := range s.Header {
		all := strings.Join(values, "")
		if !utf8.ValidString(name + all) {
			return &fanout.InvalidError{Field: "Payload.Header", Err: fmt.Errorf("%s: not UTF-8, which a durable queue cannot keep", name)}
		}
		size += len(name) + len(all)
	}
	if !utf8.ValidString(s.ContentType) {
		return &fanout.InvalidError{Field: "Payload.ContentType", Err: errors.New("not UTF-8, which a durable queue cannot keep")}
	}
	if mostBytes > 0 && size > mostBytes {
		return &fanout.InvalidError{Field: "Payload.Body", Err: fmt.Errorf("%w: %d bytes with its header, and the queue takes %d", fanout.ErrPayloadTooLarge, size, mostBytes)}
	}
	return nil
}

// sealer turns what was submitted into what is stored, and back.
type sealer struct {
	encryption      AEAD // nil if nothing is encrypted
	acceptPlaintext bool
}

// jobs is one for each target, or one for all if they depend on each other.
func (c sealer) jobs(ctx context.Context, s *fanout.Submission) ([]river.Job, error) {
	all := river.Job{Dispatch: s.DispatchID, Targets: s.Targets, Submitted: s.Submitted.UnixMilli(), Trace: traceOf(ctx)}
	if s.CorrelationID != s.DispatchID {
		all.CorrelationID = s.CorrelationID
	}
	content := &river.Content{Key: s.IdempotencyKey, ContentType: s.ContentType, Header: s.Header, Body: s.Body}
	if c.encryption == nil {
		all.Payload = content
	} else {
		var err error
		if all.Sealed, err = c.seal(s.DispatchID, content); err != nil {
			return nil, err
		}
	}
	if s.Chained() {
		all.Set = river.SetOf(slices.Sorted(slices.Values(s.Targets)))
		return []river.Job{all}, nil
	}
	jobs := make([]river.Job, len(s.Targets))
	for i, name := range s.Targets {
		jobs[i] = all
		jobs[i].Target = name
	}
	return jobs, nil
}

// submission is what was submitted, with the bytes of its payload and without the value.
func (c sealer) submission(j *river.Job) (*fanout.Submission, error) {
	if len(j.Names()) == 0 {
		return nil, errors.New("it names no target")
	}
	content := j.Payload
	switch {
	case content == nil:
		content = &river.Content{}
		if err := c.unseal(j.Dispatch, j.Sealed, content); err != nil {
			return nil, err
		}
	case c.encryption != nil && !c.acceptPlaintext:
		return nil, errPlaintext
	}
	return &fanout.Submission{
		DispatchID: j.Dispatch, CorrelationID: cmp.Or(j.CorrelationID, j.Dispatch), IdempotencyKey: content.Key, Submitted: time.UnixMilli(j.Submitted), Targets: j.Targets,
		Header: content.Header, ContentType: content.ContentType, Body: content.Body,
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

// withTrace is the context of a delivery, which is linked to its submitter's trace.
func withTrace(ctx context.Context, trace map[string]string) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier(trace))
}

// seal encrypts what belongs to a dispatch. It cannot be unsealed for another one.
func (c sealer) seal(dispatch string, v any) ([]byte, error) {
	plain, err := json.Marshal(v)
	if err != nil || c.encryption == nil {
		return plain, err
	}
	sealed, err := c.encryption.Encrypt(plain, []byte(dispatch))
	if err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	return sealed, nil
}

var (
	errNoKey     = errors.New("encrypted, and no Config.Encryption is given")
	errPlaintext = errors.New("not encrypted, and Config.AcceptPlaintext is not set")
)

func (c sealer) unseal(dispatch string, sealed []byte, v any) error {
	isPlain := len(sealed) > 0 && sealed[0] == '{'
	if c.encryption == nil {
		if isPlain {
			return json.Unmarshal(sealed, v)
		}
		return errNoKey
	}
	plain, err := c.encryption.Decrypt(sealed, []byte(dispatch))
	if err != nil && c.acceptPlaintext && isPlain {
		plain, err = sealed, nil
	}
	if err != nil {
		return fmt.Errorf("decrypting: %w", err)
	}
	return json.Unmarshal(plain, v)
}
