package retryafter_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/fanout-go/fanout/internal/retryafter"
)

func TestParse_ReadsSecondsAndDates(t *testing.T) {
	now := time.Date(2026, time.January, 2, 3, 4, 5, 0, time.UTC)
	const longest time.Duration = math.MaxInt64
	for value, want := range map[string]time.Duration{
		"":                              0,
		"0":                             0,
		"9":                             9 * time.Second,
		"120":                           2 * time.Minute,
		"9223372036":                    9223372036 * time.Second, // the most that a Duration can hold
		"9223372037":                    longest,
		"99999999999999999999":          longest,
		"-1":                            0,
		"+1":                            0,
		"1.5":                           0,
		"1s":                            0,
		"a1":                            0,
		" 1":                            0,
		"1:":                            0, // a colon comes right after the digits in ASCII
		"1/":                            0, // and a slash right before them
		"soon":                          0,
		"Fri, 02 Jan 2026 03:04:15 GMT": 10 * time.Second,
		"Fri, 02 Jan 2026 03:04:05 GMT": 0,
		"Fri, 02 Jan 2026 03:03:05 GMT": 0,
	} {
		assert.Equal(t, want, retryafter.Parse(value, now), "%q", value)
	}
}
