package retryafter_test

import (
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/fanout-go/fanout/internal/retryafter"
)

var now = time.Date(2026, time.January, 2, 3, 4, 5, 0, time.UTC)

func TestOf_ReadsSecondsAndDates(t *testing.T) {
	const longest time.Duration = math.MaxInt64
	for value, want := range map[string]time.Duration{
		"":                              0,
		"0":                             0,
		"9":                             9 * time.Second,
		"120":                           2 * time.Minute,
		"9223372036":                    9223372036 * time.Second, // the most that a Duration can hold
		"9223372036.9":                  longest,
		"9223372037":                    longest,
		"99999999999999999999":          longest,
		"-1":                            0,
		"+1":                            0,
		"1.5":                           1500 * time.Millisecond,
		"2.0":                           2 * time.Second,
		"0.0000000001":                  1, // never earlier than asked for
		"1.":                            0,
		".5":                            0,
		"1.5.1":                         0,
		"1e3":                           0,
		"0x10":                          0,
		"Inf":                           0,
		"1s":                            0,
		"a1":                            0,
		" 1 ":                           time.Second,
		"1:":                            0, // a colon comes right after the digits in ASCII
		"1/":                            0, // and a slash right before them
		"soon":                          0,
		"Fri, 02 Jan 2026 03:04:15 GMT": 10 * time.Second,
		"Fri, 02 Jan 2026 03:04:05 GMT": 0,
		"Fri, 02 Jan 2026 03:03:05 GMT": 0,
	} {
		assert.Equal(t, want, retryafter.Of(http.Header{"Retry-After": {value}}, now), "%q", value)
	}
}

func TestOf_MeasuresADateFromTheAnswersOwn(t *testing.T) {
	at := http.Header{"Retry-After": {"Fri, 02 Jan 2026 03:04:15 GMT"}}
	at.Set("Date", "Fri, 02 Jan 2026 03:03:15 GMT")
	assert.Equal(t, time.Minute, retryafter.Of(at, now))
	at.Set("Date", "yesterday")
	assert.Equal(t, 10*time.Second, retryafter.Of(at, now))
}

func TestOf_TakesTheLongestOfSeveral(t *testing.T) {
	assert.Equal(t, 9*time.Second, retryafter.Of(http.Header{"Retry-After": {"1", "9", "3"}}, now))
	for _, name := range []string{"retry-after-ms", "x-ms-retry-after-ms"} {
		h := http.Header{}
		h.Set(name, "1500")
		assert.Equal(t, 1500*time.Millisecond, retryafter.Of(h, now), name)
		h.Set("Retry-After", "1")
		assert.Equal(t, 1500*time.Millisecond, retryafter.Of(h, now), name)
		h.Set("Retry-After", "2")
		assert.Equal(t, 2*time.Second, retryafter.Of(h, now), name)
	}
}
