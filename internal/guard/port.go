package guard

import (
	"math"
	"net/url"
	"strconv"
)

// Port returns the port in the URL, or else the port of its scheme. If the port is no
// number, it returns a number that is larger than any port.
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
