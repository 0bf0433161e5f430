package lifetime_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/internal/lifetime"
)

func TestOf_IsWhatWithAdded(t *testing.T) {
	closing, end := context.WithCancel(t.Context())
	ctx := lifetime.With(t.Context(), closing)
	end()
	require.Error(t, lifetime.Of(ctx).Err())
	require.NoError(t, ctx.Err(), "what is called goes on, and what it leaves running ends")
	assert.Nil(t, lifetime.Of(t.Context()).Done(), "without With it never ends")
}
