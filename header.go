package fanout

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/fanout-go/fanout/internal/header"
)

// checkHeader names the header at fault and never shows a value.
func checkHeader(h http.Header) error {
	seen := make(map[string]bool, len(h))
	for name := range h {
		canonical := http.CanonicalHeaderKey(name)
		if canonical == "Content-Type" {
			return errContentType
		}
		if header.Reserved(canonical) {
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
		if !header.ValidName(name) {
			return fmt.Errorf("%q is not a header name", name)
		}
		for _, v := range values {
			if !header.ValidValue(v) {
				return fmt.Errorf("%s: %w", name, errFieldValue)
			}
		}
	}
	return nil
}

var errContentType = errors.New("Content-Type is the payload's: set Payload.ContentType, or Request.ContentType in a Prepare")

var errFieldValue = errors.New("value has a control character")
