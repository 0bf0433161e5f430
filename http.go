package fanout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// endpoint is the fixed part of every request to an HTTP target.
type endpoint struct {
	method      string
	url         *url.URL
	header      http.Header
	auth        Authenticator
	transport   http.RoundTripper
	traced      bool // the transport is net/http's and reports what it does
	idempotency Idempotency
	maxBytes    int64
}

func newEndpoint(def *Target, p Policy, transport http.RoundTripper) (*endpoint, error) {
	e := &endpoint{method: def.Method, header: canonical(def.Header), auth: def.Auth, transport: def.Transport, idempotency: p.Idempotency, maxBytes: p.MaxResponseBytes}
	if e.method == "" {
		e.method = http.MethodPost
	}
	if !validMethod(e.method) {
		return nil, invalid("Method", "%q is not a method in upper case that can carry a payload", e.method)
	}
	var err error
	if e.url, err = parseURL(def.URL); err != nil {
		return nil, err
	}
	if err := checkHeader(def.Header); err != nil {
		return nil, &InvalidError{Field: "Header", Err: err}
	}
	if _, taken := e.header[http.CanonicalHeaderKey(p.Idempotency.Header)]; taken {
		return nil, invalid("Header", "%s is the idempotency key's, which differs for each dispatch", p.Idempotency.Header)
	}
	if e.transport == nil {
		e.transport = transport
	}
	_, e.traced = e.transport.(*http.Transport)
	return e, nil
}

func validMethod(method string) bool {
	for i := range len(method) {
		if 'a' <= method[i] && method[i] <= 'z' {
			return false
		}
	}
	return validFieldName(method) && method != http.MethodConnect
}

// sender builds and signs the request of one attempt.
func (e *endpoint) sender(ctx context.Context, r *Request) (func() (*Response, error), error) {
	req := e.newRequest(ctx, r)
	if e.auth != nil {
		if err := e.auth.Authenticate(ctx, req); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrAuth, err)
		}
	}
	return func() (*Response, error) { return e.roundTrip(req) }, nil
}

// newRequest never sets GetBody, and always a Body. Otherwise net/http would by
// itself repeat a request that met a dead connection: an attempt nobody sees.
func (e *endpoint) newRequest(ctx context.Context, r *Request) *http.Request {
	req := (&http.Request{
		Method: e.method, URL: r.URL, Host: r.URL.Host, Header: e.requestHeader(r),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	body := r.Body
	if e.method == http.MethodGet || e.method == http.MethodHead {
		body = nil
	}
	// net/http sends a body in one packet with the header if it is this type.
	req.Body = io.NopCloser(bytes.NewReader(body))
	req.ContentLength = int64(len(body))
	if len(body) == 0 {
		req.TransferEncoding = []string{"identity"} // not chunked
	}
	return req
}

func (e *endpoint) requestHeader(r *Request) http.Header {
	h := make(http.Header, len(e.header)+len(r.Header)+4)
	for name, values := range e.header {
		h[name] = values
	}
	for name, values := range r.Header {
		h[http.CanonicalHeaderKey(name)] = values
	}
	if r.ContentType != "" && len(r.Body) > 0 {
		h["Content-Type"] = []string{r.ContentType}
	}
	h[CorrelationHeader] = []string{r.CorrelationID}
	h[RequestIDHeader] = []string{r.RequestID}
	e.idempotency.write(h, r.IdempotencyKey)
	return h
}

// canonical copies a header with its names as net/http writes them.
func canonical(h http.Header) http.Header {
	c := make(http.Header, len(h))
	for name, values := range h {
		c[http.CanonicalHeaderKey(name)] = append(c[http.CanonicalHeaderKey(name)], values...)
	}
	return c
}

// roundTrip does not follow redirects: body, key and signature stay home.
func (e *endpoint) roundTrip(req *http.Request) (*Response, error) {
	var seen *sight
	if e.traced {
		req, seen = watch(req)
	}
	resp, err := e.transport.RoundTrip(req)
	switch {
	case err != nil && seen.nothingSent():
		return nil, NotSent(err)
	case err != nil:
		return nil, err
	case resp == nil:
		return nil, errors.New("the transport returned neither answer nor error")
	}
	body, err := readBody(resp, e.maxBytes)
	answer := &Response{StatusCode: resp.StatusCode, Header: resp.Header, Body: body}
	if resp.StatusCode/100 == 2 {
		return answer, err
	}
	return answer, nil // the status says no; its body would only explain
}

// readBody reads a body to its end, so that the connection can be used again,
// and closes it. A body over limit is not drained: its connection is closed.
func readBody(resp *http.Response, limit int64) ([]byte, error) {
	if resp.Body == nil {
		return nil, nil
	}
	defer resp.Body.Close()
	if limit < 0 {
		return io.ReadAll(resp.Body)
	}
	if resp.ContentLength > limit {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrResponseTooLarge, resp.ContentLength, limit)
	}
	var buf bytes.Buffer
	if resp.ContentLength > 0 {
		buf.Grow(int(resp.ContentLength) + bytes.MinRead)
	}
	if _, err := buf.ReadFrom(io.LimitReader(resp.Body, limit+1)); err != nil {
		return nil, err
	}
	if int64(buf.Len()) > limit {
		return nil, fmt.Errorf("%w: limit %d", ErrResponseTooLarge, limit)
	}
	return buf.Bytes(), nil
}
