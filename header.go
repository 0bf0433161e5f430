package fanout

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// refusedHeaders are the connection's and this library's own.
var refusedHeaders = map[string]bool{
	"Connection": true, "Content-Length": true, "Host": true, "Keep-Alive": true, "Proxy-Connection": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
	"Idempotency-Key": true, CorrelationHeader: true, RequestIDHeader: true,
}

// checkHeader names the header at fault and never shows a value.
func checkHeader(h http.Header) error {
	seen := make(map[string]bool, len(h))
	for name := range h {
		canonical := http.CanonicalHeaderKey(name)
		if canonical == "Content-Type" {
			return errContentType
		}
		if refusedHeaders[canonical] {
			return fmt.Errorf("%s is set by the library or the connection", name)
		}
		if seen[canonical] {
			return fmt.Errorf("%s is given twice, in different case", canonical)
		}
		seen[canonical] = true
	}
	return checkFields(h)
}

// checkFields holds that a header can be sent.
func checkFields(h http.Header) error {
	for name, values := range h {
		if !validFieldName(name) {
			return fmt.Errorf("%q is not a header name", name)
		}
		for _, v := range values {
			if !validFieldValue(v) {
				return fmt.Errorf("%s: %w", name, errFieldValue)
			}
		}
	}
	return nil
}

var errContentType = errors.New("Content-Type is the payload's: set Payload.ContentType, or Request.ContentType in a Prepare")

var errFieldValue = errors.New("value has a control character")

// validFieldName follows RFC 9110, section 5.6.2: a token.
func validFieldName(name string) bool {
	for i := range len(name) {
		c := name[i]
		letterOrDigit := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letterOrDigit && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return name != ""
}

// validFieldValue follows RFC 9110, section 5.5.
func validFieldValue(value string) bool {
	for i := range len(value) {
		if c := value[i]; (c < ' ' && c != '\t') || c == 0x7f {
			return false
		}
	}
	return true
}

// headerList splits lists such as those of Connection, and makes their names
// canonical.
func headerList(values []string) []string {
	var names []string
	for _, value := range values {
		for name := range strings.SplitSeq(value, ",") {
			names = append(names, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	return names
}
