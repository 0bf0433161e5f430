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

// storable refuses a delivery that cannot be stored, or that could not be restored from
// the database after a restart.
func storable(d *fanout.Delivery, mostBytes int) error {
	if given := d.Given(); given != "" {
		return &fanout.InvalidError{Target: given, Field: "ToTargets", Err: errors.New("a durable queue finds targets by name: configure the target, or choose it with To and let Config.Lookup find it")}
	}
	p := d.Payload
	size := len(p.Body)
	for name, values := range p.Header {
		all := strings.Join(values, "")
		if !utf8.ValidString(name + all) {
			return &fanout.InvalidError{Field: "Payload.Header", Err: fmt.Errorf("%s: not UTF-8, which a durable queue cannot store", name)}
		}
		size += len(name) + len(all)
	}
	for field, text := range map[string]string{"ContentType": p.ContentType, "Type": p.Type} {
		if !utf8.ValidString(text) {
			return &fanout.InvalidError{Field: "Payload." + field, Err: errors.New("not UTF-8, which a durable queue cannot store")}
		}
	}
	if mostBytes > 0 && size > mostBytes {
		return &fanout.InvalidError{Field: "Payload.Body", Err: fmt.Errorf("%w: %d bytes with its header, and the queue takes %d", fanout.ErrPayloadTooLarge, size, mostBytes)}
	}
	return nil
}

// sealer converts deliveries into what is stored, and back.
type sealer struct {
	encryption      AEAD // nil if nothing is encrypted
	acceptPlaintext bool
}

// jobs makes one job for each delivery of a dispatch. The jobs share the payload.
func (c sealer) jobs(ctx context.Context, deliveries []fanout.Delivery) ([]river.Job, error) {
	p := deliveries[0].Payload
	of := river.Job{Dispatch: p.ID, Submitted: deliveries[0].Submitted.UnixMilli(), Trace: traceOf(ctx)}
	if p.CorrelationID != p.ID {
		of.CorrelationID = p.CorrelationID
	}
	content := &river.Content{Type: p.Type, ContentType: p.ContentType, Header: p.Header, Body: p.Body}
	if p.Key != p.ID {
		content.Key = p.Key
	}
	if c.encryption == nil {
		of.Payload = content
	} else {
		var err error
		if of.Sealed, err = c.seal(p.ID, content); err != nil {
			return nil, err
		}
	}
	jobs := make([]river.Job, len(deliveries))
	for i := range deliveries {
		jobs[i] = of
		jobs[i].Targets = deliveries[i].Targets
		if deliveries[i].Chained {
			jobs[i].Set = river.SetOf(slices.Sorted(slices.Values(deliveries[i].Targets)))
		} else {
			jobs[i].Target = deliveries[i].Targets[0]
		}
	}
	return jobs, nil
}

// delivery restores what was submitted. The payload has its bytes, but not its Value.
func (c sealer) delivery(j *river.Job) (*fanout.Delivery, error) {
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
	return &fanout.Delivery{
		Payload: &fanout.Payload{
			ID: j.Dispatch, Key: cmp.Or(content.Key, j.Dispatch), CorrelationID: cmp.Or(j.CorrelationID, j.Dispatch),
			Type: content.Type, Body: content.Body, ContentType: content.ContentType, Header: content.Header,
		},
		Targets: j.Names(), Chained: j.Target == "", Submitted: time.UnixMilli(j.Submitted),
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

// withTrace returns the context of a delivery, which is linked to the trace of its
// submitter.
func withTrace(ctx context.Context, trace map[string]string) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier(trace))
}

// seal encrypts data of a dispatch. The dispatch ID is authenticated with it, so that the
// ciphertext cannot be decrypted as that of another dispatch.
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
