// Package header holds the rules for HTTP header fields that several packages share.
package header

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Names of headers that identify requests. Package fanout exports them.
const (
	CorrelationID = "X-Correlation-Id"
	RequestID     = "X-Request-Id"
)

// reserved holds names in canonical form, as [http.CanonicalHeaderKey] writes them.
var reserved = map[string]bool{
	"Connection": true, "Content-Length": true, "Host": true, "Keep-Alive": true, "Proxy-Connection": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
	"Idempotency-Key": true, CorrelationID: true, RequestID: true,
}

// Reserved reports whether the connection or this library sets the field, so that nobody
// else may. The name may be in any case.
func Reserved(name string) bool { return reserved[http.CanonicalHeaderKey(name)] }

// ValidName reports whether name is a token, as RFC 9110, section 5.6.2 defines it.
func ValidName(name string) bool {
	for i := range len(name) {
		c := name[i]
		letterOrDigit := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letterOrDigit && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return name != ""
}

// ValidValue reports whether value can be sent: it has no control characters except tabs
// (RFC 9110, section 5.5). A line end in a value would start a new field.
func ValidValue(value string) bool {
	for i := range len(value) {
		if c := value[i]; (c < ' ' && c != '\t') || c == 0x7f {
			return false
		}
	}
	return true
}

// Check returns an error for a header that a user may not set, or that cannot be sent.
// The error names the field, and never shows a value.
func Check(h http.Header) error {
	seen := make(map[string]bool, len(h))
	for name := range h {
		canonical := http.CanonicalHeaderKey(name)
		if canonical == "Content-Type" {
			return errContentType
		}
		if Reserved(canonical) {
			return fmt.Errorf("%s is set by the library or the connection", name)
		}
		if seen[canonical] {
			return fmt.Errorf("%s is given twice, in different case", canonical)
		}
		seen[canonical] = true
	}
	return CheckFields(h)
}

// CheckFields returns an error if a field of the header cannot be sent.
func CheckFields(h http.Header) error {
	for name, values := range h {
		if !ValidName(name) {
			return fmt.Errorf("%q is not a header name", name)
		}
		for _, v := range values {
			if !ValidValue(v) {
				return fmt.Errorf("%s: %w", name, errFieldValue)
			}
		}
	}
	return nil
}

var errContentType = errors.New("Content-Type is the payload's: set Payload.ContentType, or Request.ContentType in a Prepare")

var errFieldValue = errors.New("value has a control character")
