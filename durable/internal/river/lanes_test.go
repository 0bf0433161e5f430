package river_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/durable/internal/river"
)

func TestLane_IsShutWhenItIsIdleAndOpenedAgainForWhatComes(t *testing.T) {
	onBoth(t, func(t *testing.T, e *river.Engine) {
		e.ShutIdleLanesAfter(100 * time.Millisecond)
		var arrived atomic.Int64
		require.NoError(t, e.Start(t.Context(), func(context.Context, river.Round) river.Verdict {
			arrived.Add(1)
			return river.Done()
		}))
		for n := range int64(3) {
			insert(t, e, "ledger")
			eventually(t, func() bool { return arrived.Load() == n+1 }, "it to arrive")
			eventually(t, func() bool { return e.OpenLanes() == 0 }, "the lane to be shut")
		}
		for n := range 100 { // some of them while the lane is being shut or opened
			insert(t, e, "ledger")
			time.Sleep(time.Duration(n%7) * 5 * time.Millisecond)
		}
		eventually(t, func() bool { return arrived.Load() == 103 }, "all to arrive")
	})
}

func TestLane_WhoseGateIsClosedWaitsAsLongAsItHasBeenClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := river.Lanes()
		assert.Equal(t, 2*time.Second, l.NotLetThrough("crm"), "at least")
		time.Sleep(20 * time.Second)
		assert.Equal(t, 20*time.Second, l.NotLetThrough("crm"))
		assert.Equal(t, 2*time.Second, l.NotLetThrough("other"))
		time.Sleep(time.Hour)
		assert.Equal(t, time.Minute, l.NotLetThrough("crm"), "at most")
		l.LetThrough("crm")
		assert.Equal(t, 2*time.Second, l.NotLetThrough("crm"))
	})
}
