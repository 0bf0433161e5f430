package lifetime_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/internal/lifetime"
)

func TestGroup_LetsNothingBeginOnceItIsClosed(t *testing.T) {
	var g lifetime.Group
	g.Init()
	assert.True(t, g.Begin())
	assert.False(t, g.IsClosed())
	g.Close()
	assert.True(t, g.IsClosed())
	assert.False(t, g.Begin())
	g.Resume() // part of what has begun
	assert.Equal(t, 3, g.Wait(ended(t), 0), "what was refused does not count")
}

func TestGroup_IsClosingWhenTheLastHasEnded(t *testing.T) {
	var g lifetime.Group
	g.Init()
	assert.True(t, g.Begin())
	g.End()
	require.NoError(t, g.Closing.Err())
	g.End()
	require.Error(t, g.Closing.Err())
	assert.Equal(t, 0, g.Wait(ended(t), time.Hour))
}

func TestGroup_WaitsForAGraceAfterItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g lifetime.Group
		g.Init()
		began := time.Now()
		assert.Equal(t, 1, g.Wait(ended(t), time.Second))
		assert.Equal(t, time.Second, time.Since(began))
		time.AfterFunc(time.Second/2, g.End)
		assert.Equal(t, 0, g.Wait(ended(t), time.Second))
		require.NoError(t, g.Overtime.Err())
		g.TimeIsUp()
		require.Error(t, g.Overtime.Err())
	})
}

func ended(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
