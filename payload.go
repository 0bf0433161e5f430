package fanout

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
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

// message is a payload encoded and checked: what every target of a dispatch shares.
type message struct {
	value         any
	body          []byte
	contentType   string
	header        http.Header
	key           string
	correlationID string
}

func encode(payload any) (message, error) {
	p, err := asPayload(payload)
	if err != nil {
		return message{}, err
	}
	m := message{value: p.Value, contentType: p.ContentType, header: p.Header, key: p.IdempotencyKey, correlationID: p.CorrelationID}
	switch {
	case p.Value != nil && p.Body != nil:
		return m, invalidPayload("Body", errors.New("set together with Value"))
	case p.Body != nil && p.ContentType == "":
		return m, invalidPayload("ContentType", errors.New("required with Body"))
	case p.Body != nil:
		m.body = slices.Clone(p.Body)
	case p.Value != nil:
		if m.body, err = marshal(p.Value); err != nil {
			return m, invalidPayload("Value", err)
		}
		if m.contentType == "" {
			m.contentType = "application/json"
		}
	}
	if !validFieldValue(m.contentType) {
		return m, invalidPayload("ContentType", errors.New("not a header value"))
	}
	if p.Header != nil {
		if err := checkHeader(p.Header); err != nil {
			return m, invalidPayload("Header", err)
		}
		m.header = p.Header.Clone()
	}
	if m.key != "" && !validKey(m.key) {
		return m, invalidPayload("IdempotencyKey", errKey)
	}
	if m.correlationID != "" && !ValidCorrelationID(m.correlationID) {
		return m, invalidPayload("CorrelationID", errCorrelationID)
	}
	return m, nil
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
	case []byte:
		return Payload{}, invalidPayload("Payload", errors.New("bytes without a content type: use fanout.Payload{Body: …, ContentType: …}"))
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
