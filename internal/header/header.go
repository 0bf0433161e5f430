// Package header holds the rules for HTTP header fields that several packages share.
package header

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Headers that tie requests together, as fanout exports them.
const (
	CorrelationID = "X-Correlation-Id"
	RequestID     = "X-Request-Id"
)

// reserved names are canonical, as [http.CanonicalHeaderKey] writes them.
var reserved = map[string]bool{
	"Connection": true, "Content-Length": true, "Host": true, "Keep-Alive": true, "Proxy-Connection": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
	"Idempotency-Key": true, CorrelationID: true, RequestID: true,
}

// Reserved reports whether the field is set by the connection or by this library, so
// that nobody else may set it. The name may be in any case.
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

// ValidValue reports whether value can be sent: it has no control character but tabs
// (RFC 9110, section 5.5). A line end in a value would begin a field of its own.
func ValidValue(value string) bool {
	for i := range len(value) {
		if c := value[i]; (c < ' ' && c != '\t') || c == 0x7f {
			return false
		}
	}
	return true
}

// Check names the header at fault and never shows a value.
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

// CheckFields holds that a header can be sent.
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
