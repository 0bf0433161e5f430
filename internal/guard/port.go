package guard

import (
	"math"
	"net/url"
	"strconv"
)

// Port is the one in the URL, or its scheme's; more than any port if it is no number.
func Port(u *url.URL) int {
	if u.Port() != "" {
		port, err := strconv.Atoi(u.Port())
		if err != nil {
			return math.MaxInt
		}
		return port
	}
	if u.Scheme == "https" {
		return 443
	}
	return 80
}
