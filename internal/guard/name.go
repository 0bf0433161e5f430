package guard

import (
	"strings"
	"unicode"
)

// PlainName reports whether every proxy and resolver reads a host as a name. It
// returns false for hosts that some of them read as an address: numbers such as
// 2130706433, 127.1 and 0x7f.1, and letters or digits beyond ASCII, which IDNA may map
// to ASCII digits (such as the circled ①).
func PlainName(host string) bool {
	last := strings.ToLower(host[strings.LastIndexByte(host, '.')+1:])
	return strings.Trim(last, "0123456789") != "" && !strings.HasPrefix(last, "0x") &&
		!strings.ContainsFunc(host, notOfAName)
}

func notOfAName(r rune) bool {
	return r != '-' && r != '.' && r != '_' && (r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r))
}
