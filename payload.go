package fanout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"

	"github.com/fanout-go/fanout/internal/header"
	"github.com/fanout-go/fanout/internal/ids"
	"github.com/fanout-go/fanout/internal/plainjson"
	"github.com/fanout-go/fanout/internal/redact"
)

// Payload is what is sent. Any other value given to [Dispatcher.Dispatch] or
// [Dispatcher.Submit] is sent as Payload{Value: value}.
//
// The dispatcher works on its own copy and fills in ID, Key, CorrelationID, ContentType
// and, from Value, Body. Validators, Senders, hooks, queues and results get that copy,
// and must not change it. You can dispatch it again, or store it as JSON to dispatch it
// later. The JSON has Body but not Value.
type Payload struct {
	// ID identifies the dispatch. It has 1 to 100 characters as in [ValidCorrelationID]. A
	// durable queue accepts an ID once for each target. Submitting it again does nothing,
	// and is no error. Default: a new ID.
	ID string `json:"id,omitempty"`
	// Key identifies the operation. It has 1 to 128 visible ASCII characters. Each target's
	// idempotency key is made from it. So to repeat a dispatch with the same idempotency
	// keys, set the same Key. Default: the ID.
	Key string `json:"key,omitempty"`
	// CorrelationID has 1 to 128 characters as in [ValidCorrelationID]. Default: the one in
	// the context, see [WithCorrelationID], or else the ID.
	CorrelationID string `json:"correlation_id,omitempty"`
	// Type says what happened, such as "order.placed", for validators, Senders, hooks and
	// queues. HTTP targets do not get it. Default none.
	Type string `json:"type,omitempty"`

	// Value is encoded as JSON, once for all targets. It must not be set together with Body.
	// It is nil in a payload that was stored. A Sender that may get such a payload, for
	// example from a durable queue, reads Body instead. Default none.
	Value any `json:"-"`
	// Body is sent as it is, with ContentType. It is copied. Default: the encoded Value, or
	// no body if Value is nil.
	Body []byte `json:"body,omitempty"`
	// ContentType describes Body. With a Body it is required. With a Value the default is
	// "application/json".
	ContentType string `json:"content_type,omitempty"`
	// Header is sent to every HTTP target. It replaces fields of the same name in
	// [Target.Header]. It must not set the fields that Target.Header must not set.
	Header http.Header `json:"header,omitempty"`

	encoded encoding
}

// encoding remembers the Body that a dispatcher made from a Value: the address of its
// first byte. Its capacity equals its length, so that isEncoded can tell a part of it
// from the whole. A Body at any other address was set by a user.
type encoding struct {
	value any
	body  *byte
}

// fill copies what was given into p, checks it and encodes it. The caller fills in ID,
// Key and CorrelationID. In a payload that was filled in before, Value is encoded again
// if a user has set another one.
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

// isEncoded reports whether a dispatcher made Body from Value.
func (p *Payload) isEncoded() bool {
	return len(p.Body) > 0 && len(p.Body) == cap(p.Body) && &p.Body[0] == p.encoded.body
}

// same reports whether a and b are certainly the same value. It does not read what they
// point to, because the owner may be changing that at the moment.
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

// whole returns p with its Key and CorrelationID filled in, if a queue that made the
// payload anew has left them out.
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
	case interface{ Binary() (Payload, error) }: // a type of package cloudevent, which this package cannot import
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

// checkBy calls a validator. A panic in it is an error.
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

// refusedBy makes an InvalidError of a validator's error. If that is one already, its
// Target and Field are kept.
func refusedBy(err error, target string) error {
	invalid := InvalidError{Target: target, Field: "Payload", Err: err}
	if own, ok := err.(*InvalidError); ok { //nolint:errorlint // an error that wraps one has its own text
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
	return plainjson.Marshal(v)
}

func invalidPayload(field string, err error) error {
	if field != "Payload" {
		field = "Payload." + field
	}
	return &InvalidError{Field: field, Err: err}
}

const defaultMaxPayloadBytes = 16 << 20

// checkSize refuses a body that is longer than limit. A negative limit is no limit.
func (p *Payload) checkSize(limit int) error {
	if limit > 0 && len(p.Body) > limit {
		return invalidPayload("Body", fmt.Errorf("%w: %d bytes, limit %d", ErrPayloadTooLarge, len(p.Body), limit))
	}
	return nil
}
