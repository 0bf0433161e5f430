package fanout

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"

	"github.com/fanout-go/fanout/internal/header"
)

// Payload is a payload with more to say than its value. Any other value given
// to [Dispatcher.Dispatch] is sent as Payload{Value: value}.
type Payload struct {
	// Value is encoded as JSON, once for all targets. It must not be set
	// together with Body.
	Value any
	// Body is sent as it is, with ContentType. It is copied.
	Body []byte
	// ContentType describes Body. Required with a Body; with a Value the
	// default is "application/json".
	ContentType string
	// Header is sent to every HTTP target, over the target's own header.
	Header http.Header
	// IdempotencyKey names the operation, 1 to 128 visible ASCII characters.
	// Each target gets a key of its own made from it; dispatching again with the
	// same one repeats the same keys. Default: minted for each dispatch.
	IdempotencyKey string
	// CorrelationID overrides the one in the context; see [WithCorrelationID].
	CorrelationID string
}

func encode(payload any) (*Submission, error) {
	p, err := asPayload(payload)
	if err != nil {
		return nil, err
	}
	j := &job{Submission: Submission{Payload: p.Value, ContentType: p.ContentType, IdempotencyKey: p.IdempotencyKey, CorrelationID: p.CorrelationID}}
	s := &j.Submission
	s.job = j
	switch {
	case p.Value != nil && p.Body != nil:
		return nil, invalidPayload("Body", errors.New("set together with Value"))
	case p.Body != nil && p.ContentType == "":
		return nil, invalidPayload("ContentType", errors.New("required with Body"))
	case p.Body != nil:
		s.Body = slices.Clone(p.Body)
	case p.Value != nil:
		if s.Body, err = marshal(p.Value); err != nil {
			return nil, invalidPayload("Value", err)
		}
		if s.ContentType == "" {
			s.ContentType = "application/json"
		}
	}
	if !header.ValidValue(s.ContentType) {
		return nil, invalidPayload("ContentType", errors.New("not a header value"))
	}
	if p.Header != nil {
		if err := checkHeader(p.Header); err != nil {
			return nil, invalidPayload("Header", err)
		}
		s.Header = p.Header.Clone()
	}
	if s.IdempotencyKey != "" && !validKey(s.IdempotencyKey) {
		return nil, invalidPayload("IdempotencyKey", ErrIdempotencyKey)
	}
	if s.CorrelationID != "" && !ValidCorrelationID(s.CorrelationID) {
		return nil, invalidPayload("CorrelationID", errCorrelationID)
	}
	return s, nil
}

func asPayload(payload any) (Payload, error) {
	switch p := payload.(type) {
	case Payload:
		return p, nil
	case *Payload:
		if p == nil {
			return Payload{}, invalidPayload("Payload", errors.New("nil pointer"))
		}
		return *p, nil
	case interface{ Binary() (Payload, error) }: // of package cloudevent, which this one cannot import
		return Payload{}, invalidPayload("Payload", errors.New("a CloudEvent: send what its Binary or Structured returns"))
	case []byte:
		return Payload{}, invalidPayload("Payload", errors.New("bytes without a content type: use fanout.Payload{Body: …, ContentType: …}"))
	case io.Reader:
		return Payload{}, invalidPayload("Payload", errors.New("a reader, which all targets would share: read it into fanout.Payload{Body: …, ContentType: …}"))
	case nil:
		return Payload{}, invalidPayload("Payload", errors.New("nil: use fanout.Payload{} to send no body"))
	}
	return Payload{Value: payload}, nil
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
