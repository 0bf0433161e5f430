package redact

import (
	"strings"
	"unicode"
)

const mostShown = 1024 // bytes

// Shown is an error's text for logs, spans and files: bounded, since a Sender, a classifier
// or a panic may have taken it from an answer, and without control characters.
func Shown(err error) string {
	text := strings.ToValidUTF8(err.Error(), "\uFFFD")
	if len(text) > mostShown {
		text = strings.ToValidUTF8(text[:mostShown], "") + "\u2026"
	}
	return strings.Map(func(r rune) rune {
		if Misleading(r) {
			return ' '
		}
		return r
	}, text)
}

// Misleading runes end lines, or turn the order of what follows around.
func Misleading(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp, unicode.Bidi_Control)
}
