package fanouttest

import (
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/fanout-go/fanout"
)

// Request is one attempt as it arrived.
type Request struct {
	Time   time.Time // when all of it had arrived
	Method string
	Path   string // with the query
	Header http.Header
	Body   []byte
}

func receive(r *http.Request) (Request, error) {
	body, err := io.ReadAll(r.Body)
	return Request{Time: time.Now(), Method: r.Method, Path: r.RequestURI, Header: r.Header.Clone(), Body: body}, err
}

// IdempotencyKey returns the Idempotency-Key header.
func (r Request) IdempotencyKey() string { return r.Header.Get("Idempotency-Key") }

// CorrelationID returns the X-Correlation-ID header.
func (r Request) CorrelationID() string { return r.Header.Get(fanout.CorrelationHeader) }

// RequestID returns the X-Request-ID header.
func (r Request) RequestID() string { return r.Header.Get(fanout.RequestIDHeader) }

// JSON decodes the body into v.
func (r Request) JSON(v any) error { return json.Unmarshal(r.Body, v) }
