package panics_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/fanout-go/fanout/internal/panics"
)

// oops panics.
func oops() { panic("oops") }

// again recovers and panics again, as encoding/json does.
func again() {
	defer func() { panic(recover()) }()
	oops()
}

func TestSite_IsWhereItFirstPanicked(t *testing.T) {
	for name, do := range map[string]func(){"once": oops, "again": again} {
		var site string
		func() {
			defer func() {
				_ = recover()
				site = panics.Site()
			}()
			do()
		}()
		assert.Contains(t, site, "panics_test.oops:", name)
	}
	assert.Equal(t, "unknown place", panics.Site(), "outside of a panic")
}
