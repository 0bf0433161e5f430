package redact

import (
	"strings"
	"unicode"
)

const mostShown = 1024 // bytes

// Shown returns an error's text for logs, spans and files. The text is shortened and has
// no control characters, because a Sender, a classifier or a panic may have taken it from
// an answer.
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

// Misleading reports whether a rune ends a line, or changes the direction in which text
// is shown.
func Misleading(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp, unicode.Bidi_Control)
}
