package panics_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
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

func TestSite_IsNotThatOfAPanicAroundTheLibrary(t *testing.T) {
	d, err := fanout.New(fanout.Config{
		Targets: []fanout.Target{{Name: "crm", URL: "https://crm.example"}},
		Validate: func(context.Context, *fanout.Payload) error {
			oops()
			return nil
		},
	})
	require.NoError(t, err)
	defer func() {
		_ = recover()
		require.NoError(t, d.Close(t.Context()))
	}()
	defer func() { // Dispatch is called while another panic is on its way
		_, err := d.Dispatch(t.Context(), "hello")
		var panicked *fanout.PanicError
		require.ErrorAs(t, err, &panicked)
		assert.Contains(t, panicked.Where, "panics_test.oops:")
	}()
	panic("around")
}
