// Package statuspage holds the page that shows a dispatcher's targets.
package statuspage

import (
	_ "embed" // for the page
	"strings"
)

//go:embed page.html
var page string

// Page returns the page with a nonce for its script and style, which a content
// security policy can then allow.
func Page(nonce string) string { return strings.ReplaceAll(page, "NONCE", nonce) }
