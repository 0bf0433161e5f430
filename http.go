package fanout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/fanout-go/fanout/internal/ability"
	"github.com/fanout-go/fanout/internal/guard"
	"github.com/fanout-go/fanout/internal/header"
	"github.com/fanout-go/fanout/internal/lifetime"
	"github.com/fanout-go/fanout/internal/redact"
)

// endpoint is the part that all requests to an HTTP target share.
type endpoint struct {
	method      string
	template    *http.Request
	url         *url.URL
	header      http.Header
	auth        Authenticator
	signer      Signer
	transport   http.RoundTripper
	own, traced bool // the transport is the dispatcher's own; it is net/http's and can be traced
	idempotency Idempotency
	keyHeader   string
	maxBytes    int64
	inject      func(context.Context, http.Header)
	lifetime    context.Context //nolint:containedctx // the dispatcher's: ends when it is closed
}

func newEndpoint(b *builder, def *target) (*endpoint, error) {
	p := def.policy
	e := &endpoint{method: def.Method, header: canonical(def.Header), auth: def.Auth, signer: def.Sign, transport: def.Transport, idempotency: p.Idempotency, maxBytes: p.MaxResponseBytes,
		keyHeader: http.CanonicalHeaderKey(p.Idempotency.Header), inject: b.inject, lifetime: b.lifetime}
	if e.method == "" {
		e.method = http.MethodPost
	}
	e.template = &http.Request{Method: e.method, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	var err error
	if e.url, err = parseURL(def.URL); err != nil {
		return nil, join(err, e.check(def))
	}
	if err := e.check(def); err != nil {
		return nil, err
	}
	if e.transport == nil {
		e.transport = b.transport
	}
	if def.Guard != nil || def.TLS != nil {
		if e.transport, err = b.transports.get(def.Guard, def.TLS); err != nil {
			return nil, err
		}
	}
	_, e.own = e.transport.(*ownTransport)
	_, e.traced = e.transport.(*http.Transport)
	e.traced = e.traced || e.own
	return e, nil
}

// check returns all errors of a target except those of its URL.
func (e *endpoint) check(def *target) error {
	errs := []error{checkPart("Auth", def.Auth), checkPart("Sign", def.Sign)}
	if !validMethod(e.method) {
		errs = append(errs, invalid("Method", "%q is not a method in upper case that can carry a payload", e.method))
	}
	if err := header.Check(def.Header); err != nil {
		errs = append(errs, &InvalidError{Field: "Header", Err: err})
	}
	if _, taken := e.header[e.keyHeader]; taken {
		errs = append(errs, invalid("Header", "%s is the idempotency key's, which differs for each dispatch", def.policy.Idempotency.Header))
	}
	if def.TLS != nil && e.url != nil && e.url.Scheme != "https" {
		errs = append(errs, invalid("TLS", "is for https, and the URL's scheme is %s", e.url.Scheme))
	}
	return join(errs...)
}

func checkPart[Part any](field string, part Part) error {
	if c, ok := ability.Of[checker](part); ok {
		if err := c.Check(); err != nil {
			return &InvalidError{Field: field, Err: err}
		}
	}
	return nil
}

func validMethod(method string) bool {
	for i := range len(method) {
		if 'a' <= method[i] && method[i] <= 'z' {
			return false
		}
	}
	return header.ValidName(method) && method != http.MethodConnect
}

// exchange is one attempt's request. It is used for one attempt only, because a transport
// may still read it after it has answered.
type exchange struct {
	request http.Request
	body    bytes.Reader
	values  [4]string     // of the headers set for each attempt
	trace   *wireTrace    // nil if the transport cannot be traced
	answer  *Response     // allocated separately, because the result keeps it
	refused *http.Request // the request that got a 401, if its credentials are to be renewed
	sent    *Request      // what the attempt sends
	own     *Request      // the copy of sent that a Sender gets
}

// build makes and signs the request. It always sets Body and never GetBody. Otherwise
// net/http would repeat the request by itself if its connection turned out to be dead,
// and nobody would count that attempt.
func (e *endpoint) build(ctx context.Context, x *exchange, r *Request) error {
	watched := ctx
	if e.traced {
		x.trace = new(wireTrace)
		watched = x.trace.watch(ctx, e.own)
	}
	body := r.Body
	if e.method == http.MethodGet || e.method == http.MethodHead {
		body = nil
	}
	seen := watched
	if e.auth != nil { // auth may send a request for a token, which must not be traced as this one
		seen = ctx
	}
	x.request = *e.template.WithContext(seen)
	x.request.URL, x.request.Host = r.URL, r.URL.Host
	x.request.Header = e.requestHeader(x, r, len(body) > 0)
	e.inject(ctx, x.request.Header)
	x.request.ContentLength = int64(len(body))
	x.body.Reset(body)
	// With this type, net/http sends the header and the body in one packet.
	x.request.Body = io.NopCloser(&x.body)
	if len(body) == 0 {
		x.request.TransferEncoding = identity
	}
	if err := e.authenticate(ctx, x); err != nil {
		return fmt.Errorf("%w: %w", ErrAuth, err)
	}
	if err := e.sign(ctx, x, r, body); err != nil {
		return fmt.Errorf("%w: signature: %w", ErrAuth, err)
	}
	if e.auth != nil {
		x.request = *x.request.WithContext(watched)
	}
	return nil
}

func (e *endpoint) sign(ctx context.Context, x *exchange, r *Request, body []byte) error {
	if e.signer == nil {
		return nil
	}
	own, u := *r, *r.URL
	own.URL, own.Body, own.Header = &u, body, x.request.Header.Clone()
	if err := e.signer.Sign(ctx, &own); err != nil {
		return redact.URL(err)
	}
	if own.Header == nil {
		return errors.New("the signer removed the header")
	}
	x.request.Header = own.Header
	return header.CheckFields(x.request.Header)
}

// authenticate gives user code a copy of what attempts share, so that it changes only its
// own.
func (e *endpoint) authenticate(ctx context.Context, x *exchange) error {
	if e.auth == nil {
		return nil
	}
	u := *x.request.URL
	x.request.URL, x.request.Header = &u, x.request.Header.Clone()
	within := lifetime.With(ctx, e.lifetime)
	if refresher, ok := ability.Of[Refresher](e.auth); ok && x.refused != nil {
		if err := refresher.Refresh(within, x.refused); err != nil {
			return redact.URL(err)
		}
	}
	if err := e.auth.Authenticate(within, &x.request); err != nil {
		return redact.URL(err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return header.CheckFields(x.request.Header)
}

var identity = []string{"identity"} // so that net/http sends no body, instead of an empty chunked one

func (e *endpoint) requestHeader(x *exchange, r *Request, hasBody bool) http.Header {
	h := make(http.Header, len(e.header)+len(r.Header)+len(x.values))
	maps.Copy(h, e.header)
	for name, values := range r.Header {
		h[http.CanonicalHeaderKey(name)] = slices.Clip(values)
	}
	x.values = [4]string{r.Payload.CorrelationID, r.RequestID, r.ContentType, e.idempotency.value(r.Key)}
	h[header.CorrelationID] = x.values[0:1:1]
	h[header.RequestID] = x.values[1:2:2]
	if hasBody && r.ContentType != "" {
		h["Content-Type"] = x.values[2:3:3]
	}
	if !e.idempotency.off() {
		h[e.keyHeader] = x.values[3:4:4]
	}
	return h
}

// canonical copies a header, with its names as net/http writes them.
func canonical(h http.Header) http.Header {
	c := make(http.Header, len(h))
	for name, values := range h {
		c[http.CanonicalHeaderKey(name)] = slices.Clip(slices.Clone(values))
	}
	return c
}

// roundTrip does not follow redirects, because another host must not get the body, the
// key and the signature.
func (e *endpoint) roundTrip(ctx context.Context, x *exchange) (*Response, error) {
	resp, err := e.transport.RoundTrip(&x.request)
	switch {
	case err != nil && x.trace != nil && x.trace.nothingSent():
		return nil, NotSent(redact.Quotes(err))
	case err != nil:
		return nil, redact.Quotes(err)
	case resp == nil:
		return nil, errors.New("the transport returned neither answer nor error")
	}
	if !e.traced && resp.Body != nil && resp.Body != http.NoBody {
		defer closeAtEnd(ctx, resp.Body)()
	}
	body, err := readBody(resp, e.maxBytes)
	if err != nil {
		err = redact.Quotes(err)
	}
	*x.answer = Response{StatusCode: resp.StatusCode, Header: resp.Header, Body: body, incomplete: err != nil}
	switch {
	case resp.StatusCode < 100:
		return nil, errors.New("malformed HTTP status code")
	case resp.StatusCode/100 == 2:
		return x.answer, err
	}
	return x.answer, nil // the status says that the target denied, even if the body could not be read
}

// closeAtEnd closes the body when the context ends, so that reading it ends. net/http
// does this by itself. Other transports may not.
func closeAtEnd(ctx context.Context, body io.Closer) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = body.Close() })
}

// readBody reads a body to its end and closes it, so that the connection can be used
// again. It does not read on if a body is over limit; then the connection is closed.
func readBody(resp *http.Response, limit int64) ([]byte, error) {
	if resp.Body == nil {
		return nil, nil
	}
	defer resp.Body.Close()
	if resp.Body == http.NoBody || resp.StatusCode == http.StatusSwitchingProtocols {
		return nil, nil // after a 101 the body is the connection, which does not end
	}
	if limit < 0 {
		limit = math.MaxInt64
	}
	if resp.ContentLength > limit {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrResponseTooLarge, resp.ContentLength, limit)
	}
	// One byte more than Content-Length, so that the end is seen without growing the slice.
	body := make([]byte, 0, max(512, min(resp.ContentLength, 64<<10)+1))
	for idle := 0; ; idle++ {
		n, err := resp.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if n > 0 {
			idle = 0
		}
		switch {
		case idle == 100:
			return nil, io.ErrNoProgress
		case int64(len(body)) > limit:
			return nil, fmt.Errorf("%w: limit %d", ErrResponseTooLarge, limit)
		case err == io.EOF:
			return body, nil
		case err != nil:
			return nil, err
		}
		if len(body) == cap(body) {
			body = slices.Grow(body, 1)
		}
	}
}

func parseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// url.Parse quotes the URL, which may hold a secret.
		return nil, invalid("URL", "cannot be parsed (not shown, as it may hold a secret)")
	}
	if u.Path == "" {
		u.Path = "/" // as net/http sends it; also, Prepare can join a path to it
	}
	return u, checkURL(u)
}

func checkURL(u *url.URL) error {
	switch {
	case u.User != nil:
		return invalid("URL", "has userinfo: use Auth or a header")
	case u.Scheme != "http" && u.Scheme != "https":
		return invalid("URL", "scheme is neither http nor https")
	case u.Hostname() == "":
		return invalid("URL", "no host")
	case guard.Port(u) > 65535:
		return invalid("URL", "its port is above 65535")
	case !strings.HasPrefix(u.EscapedPath(), "/"):
		return invalid("URL", "its path does not begin with a slash")
	case u.Fragment != "":
		return invalid("URL", "has a fragment, which is never sent")
	}
	return nil
}

// idempotent follows RFC 9110, section 9.2.2.
func (e *endpoint) idempotent() bool {
	switch e.method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}
