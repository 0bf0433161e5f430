package fanouthttp

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/internal/header"
)

const defaultMaxBytes = 1 << 20

var methods = []string{http.MethodPost, http.MethodPut, http.MethodPatch}

// alwaysForwarded are headers for which a payload or the library has a field of its own.
var alwaysForwarded = map[string]bool{"Content-Type": true, "Content-Encoding": true, "Idempotency-Key": true, fanout.CorrelationHeader: true}

// neverForwarded are headers that concern only the client and this service. Headers that
// [header.Reserved] knows are not forwarded either.
var neverForwarded = map[string]bool{"Authorization": true, "Proxy-Authorization": true, "Proxy-Authenticate": true, "Cookie": true, "Set-Cookie": true, "Expect": true, "Http2-Settings": true}

// forwardable returns the names in canonical form, without those that are always
// forwarded.
func forwardable(names []string) ([]string, error) {
	var canonical []string
	for i, name := range names {
		field := fmt.Sprintf("ForwardHeader[%d]", i)
		if !header.ValidName(name) {
			return nil, invalid(field, fmt.Errorf("%.100q is not a header name", name))
		}
		name = http.CanonicalHeaderKey(name)
		if alwaysForwarded[name] {
			continue
		}
		if neverForwarded[name] || header.Reserved(name) {
			return nil, invalid(field, fmt.Errorf("%s is never passed on", name))
		}
		canonical = append(canonical, name)
	}
	return canonical, nil
}

// read returns what is passed on from the request.
func (h *Handler) read(w http.ResponseWriter, r *http.Request) (fanout.Payload, *Problem) {
	if !slices.Contains(methods, r.Method) {
		w.Header().Set("Allow", strings.Join(methods, ", "))
		return fanout.Payload{}, &Problem{Status: http.StatusMethodNotAllowed}
	}
	body, problem := h.readBody(w, r)
	if problem != nil {
		return fanout.Payload{}, problem
	}
	contentType := r.Header.Get("Content-Type")
	if len(body) > 0 && !isMediaType(contentType) {
		return fanout.Payload{}, &Problem{Status: http.StatusUnsupportedMediaType, Detail: "Content-Type is missing or cannot be read"}
	}
	if problem := h.validate(r, body); problem != nil {
		return fanout.Payload{}, problem
	}
	p := fanout.Payload{Header: h.forwarded(r.Header), Key: keyOf(r.Header.Get("Idempotency-Key"))}
	if len(body) > 0 {
		p.Body, p.ContentType = body, contentType
		if encoding := r.Header.Values("Content-Encoding"); len(encoding) > 0 {
			p.Header["Content-Encoding"] = encoding
		}
	}
	return p, nil
}

func (h *Handler) readBody(w http.ResponseWriter, r *http.Request) ([]byte, *Problem) {
	if r.Body == nil { // a request that did not come from a server
		return nil, nil
	}
	body := r.Body
	if limit := cmp.Or(h.config.MaxBytes, defaultMaxBytes); limit > 0 {
		body = http.MaxBytesReader(w, body, limit)
	}
	content, err := io.ReadAll(body)
	if err == nil {
		return content, nil
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, &Problem{Status: http.StatusRequestEntityTooLarge, Detail: fmt.Sprintf("the limit is %d bytes", tooLarge.Limit)}
	}
	return nil, &Problem{Status: http.StatusBadRequest, Detail: "the body could not be read"}
}

func isMediaType(contentType string) bool {
	name, _, err := mime.ParseMediaType(contentType)
	return err == nil && strings.Contains(name, "/")
}

func (h *Handler) validate(r *http.Request, body []byte) *Problem {
	if h.config.Validate == nil {
		return nil
	}
	err := h.config.Validate(r, body)
	if err == nil {
		return nil
	}
	var problem *Problem
	if errors.As(err, &problem) && problem.Status >= 400 && problem.Status <= 599 {
		return problem
	}
	return &Problem{Status: http.StatusUnprocessableEntity, Detail: err.Error()}
}

// forwarded returns the headers to pass on. It leaves out those that the inbound
// Connection header names (RFC 9110, section 7.6.1).
func (h *Handler) forwarded(in http.Header) http.Header {
	out := make(http.Header)
	hop := connectionFields(in)
	for _, name := range h.forward {
		if values := in[name]; values != nil && !hop[name] {
			out[name] = values
		}
	}
	return out
}

// connectionFields returns the headers that Connection names. They are only for the next
// hop.
func connectionFields(in http.Header) map[string]bool {
	fields := map[string]bool{}
	for _, value := range in["Connection"] {
		for name := range strings.SplitSeq(value, ",") {
			fields[http.CanonicalHeaderKey(strings.TrimSpace(name))] = true
		}
	}
	return fields
}

func wholeSeconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}

// keyOf returns the key of an Idempotency-Key header. By the IETF draft "The
// Idempotency-Key HTTP Header Field" it is a string of RFC 9651, whose quotes and escapes
// are no part of it. Many clients send it without quotes, as Stripe's API takes it.
func keyOf(value string) string {
	inner, opens := strings.CutPrefix(value, `"`)
	inner, closes := strings.CutSuffix(inner, `"`)
	if !opens || !closes {
		return value
	}
	var key strings.Builder
	for i := 0; i < len(inner); i++ {
		switch inner[i] {
		case '"':
			return value
		case '\\':
			i++
			if i == len(inner) || (inner[i] != '\\' && inner[i] != '"') {
				return value
			}
		}
		key.WriteByte(inner[i])
	}
	return key.String()
}
