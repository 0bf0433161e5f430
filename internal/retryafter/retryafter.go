// Package retryafter reads the Retry-After header.
package retryafter

import (
	"net/http"
	"strconv"
	"time"
)

// Parse reads both forms of RFC 9110, section 10.2.3: a number of seconds, and an
// HTTP-date. It returns zero for any other text, and for a date in the past.
func Parse(value string, now time.Time) time.Duration {
	if value == "" {
		return 0
	}
	if isDigits(value) {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(maxDuration/time.Second) {
			return maxDuration
		}
		return time.Duration(seconds) * time.Second
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return max(0, date.Sub(now))
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

const maxDuration time.Duration = 1<<63 - 1
