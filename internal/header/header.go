// Package header holds the rules for HTTP header fields that several packages share.
package header

import (
	"net/http"
	"strings"
)

// reserved names are canonical, as [http.CanonicalHeaderKey] writes them.
var reserved = map[string]bool{
	"Connection": true, "Content-Length": true, "Host": true, "Keep-Alive": true, "Proxy-Connection": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
	"Idempotency-Key": true, "X-Correlation-Id": true, "X-Request-Id": true,
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
