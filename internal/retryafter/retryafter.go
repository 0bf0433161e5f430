// Package retryafter reads for how long an answer asks not to be asked again.
package retryafter

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Of returns the longest wait that the header of an answer asks for, and zero if it asks
// for none that can be read. It knows
//
//   - Retry-After with a number of seconds or an HTTP-date (RFC 9110, section 10.2.3);
//   - Retry-After with a fraction, such as "2.0", which the APIs of Shopify and others send;
//   - Retry-After-Ms and X-Ms-Retry-After-Ms, in milliseconds, which the APIs of Azure and
//     OpenAI send, and their own clients obey.
//
// A date is measured from the answer's own Date, if it has one: our clock may differ.
func Of(header http.Header, now time.Time) time.Duration {
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		now = date
	}
	var longest time.Duration
	for _, value := range header["Retry-After"] {
		longest = max(longest, parse(strings.TrimSpace(value), now))
	}
	for _, name := range []string{"Retry-After-Ms", "X-Ms-Retry-After-Ms"} {
		for _, value := range header[name] {
			longest = max(longest, number(strings.TrimSpace(value), time.Millisecond))
		}
	}
	return longest
}

func parse(value string, now time.Time) time.Duration {
	if date, err := http.ParseTime(value); err == nil {
		return max(0, date.Sub(now))
	}
	return number(value, time.Second)
}

// number reads a decimal number of a unit, such as "120" or "1.5": digits, and perhaps a
// point with digits behind it.
func number(value string, unit time.Duration) time.Duration {
	whole, fraction, decimal := strings.Cut(value, ".")
	if !isDigits(whole) || (decimal && !isDigits(fraction)) {
		return 0
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	part, _ := strconv.ParseFloat("0."+fraction, 64) // digits alone
	rest := time.Duration(math.Ceil(part * float64(unit)))
	if err != nil || n > int64((math.MaxInt64-rest)/unit) {
		return math.MaxInt64
	}
	return time.Duration(n)*unit + rest
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
