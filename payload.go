package fanout

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"

	"github.com/fanout-go/fanout/internal/header"
	"github.com/fanout-go/fanout/internal/ids"
	"github.com/fanout-go/fanout/internal/redact"
)

// Payload is what is sent. Any other value given to [Dispatcher.Dispatch] is sent as
// Payload{Value: value}.
//
// The dispatcher works on a copy of its own, and fills in what is not given: ID, Key,
// CorrelationID, ContentType and, from Value, Body. Validators, Senders, hooks, queues
// and results get that copy, which must not be changed. It can be given to Dispatch or
// Submit again, and kept as JSON for that, which keeps Body but not Value.
type Payload struct {
	// ID names the dispatch: 1 to 100 characters as in [ValidCorrelationID]. A durable
	// queue accepts an ID once for each target: submitting it again changes nothing,
	// and is no error. Default: a new one.
	ID string `json:"id,omitempty"`
	// Key names the operation, 1 to 128 visible ASCII characters. Each target gets an
	// idempotency key of its own made from it, so dispatching again with the same Key
	// repeats the keys. Default: the ID.
	Key string `json:"key,omitempty"`
	// CorrelationID overrides the one in the context; see [WithCorrelationID].
	// Default: the context's, or else the ID.
	CorrelationID string `json:"correlation_id,omitempty"`
	// Type says what happened, such as "order.placed", for validators, Senders, hooks
	// and queues. It is not sent to HTTP targets. Default none.
	Type string `json:"type,omitempty"`

	// Value is encoded as JSON, once for all targets. It must not be set
	// together with Body. It is nil in a payload that was stored, by a durable queue or
	// as JSON: code that may get such a payload, as a Sender may, reads Body.
	Value any `json:"-"`
	// Body is sent as it is, with ContentType. It is copied.
	Body []byte `json:"body,omitempty"`
	// ContentType describes Body. Required with a Body; with a Value the
	// default is "application/json".
	ContentType string `json:"content_type,omitempty"`
	// Header is sent to every HTTP target, over the target's own header.
	Header http.Header `json:"header,omitempty"`

	encoded encoding
}

// encoding is where the Body begins that a dispatcher made of a Value. Its capacity is its
// length, so that a part of it is known from the whole. Any other Body is somebody's own.
type encoding struct {
	value any
	body  *byte
}

// fill copies what was given into p, checked and encoded, all but what a context tells.
// Of a payload that a dispatcher has filled in before, Value is encoded again if whoever
// copied it has set another one.
func (p *Payload) fill(given any) error {
	if err := p.take(given); err != nil {
		return err
	}
	switch {
	case p.Value != nil && p.Body != nil && !p.isEncoded():
		return invalidPayload("Body", errors.New("set together with Value"))
	case p.Value != nil && p.Body != nil && same(p.Value, p.encoded.value):
	case p.Value != nil:
		if err := p.encode(); err != nil {
			return err
		}
	case p.Body != nil && p.ContentType == "":
		return invalidPayload("ContentType", errors.New("required with Body"))
	case p.Body != nil:
		p.Body, p.encoded = slices.Clone(p.Body), encoding{}
	}
	return p.check()
}

// isEncoded reports whether Body was made of Value.
func (p *Payload) isEncoded() bool {
	return len(p.Body) > 0 && len(p.Body) == cap(p.Body) && &p.Body[0] == p.encoded.body
}

// same reports whether two values are known to be one, without a look at what they lead to,
// which their owner may change meanwhile.
func same(a, b any) bool {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	switch {
	case va.Type() != vb.Type():
		return false
	case va.Kind() == reflect.Map, va.Kind() == reflect.Slice:
		return va.UnsafePointer() == vb.UnsafePointer() && va.Len() == vb.Len()
	}
	return va.Comparable() && vb.Comparable() && a == b
}

func (p *Payload) encode() (err error) {
	if p.Body, err = marshal(p.Value); err != nil {
		return invalidPayload("Value", err)
	}
	if len(p.Body) > 0 {
		p.Body = slices.Clip(p.Body)
		p.encoded = encoding{p.Value, &p.Body[0]}
	}
	if p.ContentType == "" {
		p.ContentType = "application/json"
	}
	return nil
}

// whole is the payload of a queue that has made it again, with what it left out.
func (p *Payload) whole() *Payload {
	if p.Key != "" && p.CorrelationID != "" {
		return p
	}
	own := *p
	own.Key, own.CorrelationID = cmp.Or(p.Key, p.ID), cmp.Or(p.CorrelationID, p.ID)
	return &own
}

func (p *Payload) check() error {
	if !header.ValidValue(p.ContentType) {
		return invalidPayload("ContentType", errors.New("not a header value"))
	}
	if p.Header != nil {
		if err := header.Check(p.Header); err != nil {
			return invalidPayload("Header", err)
		}
		p.Header = p.Header.Clone()
	}
	switch {
	case p.ID != "" && (!ids.Valid(p.ID) || len(p.ID) > 100):
		return invalidPayload("ID", errors.New("must be 1 to 100 letters, digits and characters of -._~:/+=@"))
	case p.Key != "" && !ids.ValidKey(p.Key):
		return invalidPayload("Key", ErrIdempotencyKey)
	case p.CorrelationID != "" && !ids.Valid(p.CorrelationID):
		return invalidPayload("CorrelationID", errors.New("must be 1 to 128 letters, digits and characters of -._~:/+=@"))
	}
	return nil
}

func (p *Payload) take(given any) error {
	switch g := given.(type) {
	case Payload:
		*p = g
	case *Payload:
		if g == nil {
			return invalidPayload("Payload", errors.New("nil pointer"))
		}
		*p = *g
	case interface{ Binary() (Payload, error) }: // of package cloudevent, which this one cannot import
		return invalidPayload("Payload", errors.New("a CloudEvent: send what its Binary or Structured returns"))
	case []byte:
		return invalidPayload("Payload", errors.New("bytes without a content type: use fanout.Payload{Body: …, ContentType: …}"))
	case io.Reader:
		return invalidPayload("Payload", errors.New("a reader, which all targets would share: read it into fanout.Payload{Body: …, ContentType: …}"))
	case nil:
		return invalidPayload("Payload", errors.New("nil: use fanout.Payload{} to send no body"))
	default:
		p.Value = given
	}
	return nil
}

// checkBy has a validator look at the payload.
func (p *Payload) checkBy(ctx context.Context, validator func(context.Context, *Payload) error, target string) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = newPanicError(panicked)
		}
		if err != nil {
			err = refusedBy(err, target)
		}
	}()
	return validator(ctx, p)
}

// refusedBy keeps the place that a validator gave.
func refusedBy(err error, target string) error {
	invalid := InvalidError{Target: target, Field: "Payload", Err: err}
	if own, ok := err.(*InvalidError); ok { //nolint:errorlint // what wraps one has a text of its own
		invalid = *own
	}
	invalid.Err = fmt.Errorf("%w: %w", ErrPayloadRefused, redact.URL(invalid.Err))
	return &invalid
}

func marshal(v any) (body []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = newPanicError(p)
		}
	}()
	return json.Marshal(v)
}

func invalidPayload(field string, err error) error {
	if field != "Payload" {
		field = "Payload." + field
	}
	return &InvalidError{Field: field, Err: err}
}

const defaultMaxPayloadBytes = 16 << 20

// checkSize refuses a body over limit; a negative limit is none.
func (p *Payload) checkSize(limit int) error {
	if limit > 0 && len(p.Body) > limit {
		return invalidPayload("Body", fmt.Errorf("%w: %d bytes, limit %d", ErrPayloadTooLarge, len(p.Body), limit))
	}
	return nil
}
