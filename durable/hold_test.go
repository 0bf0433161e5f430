package durable_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
)

func TestHold_KeepsWhatArrivesUntilTheTargetIsResumed(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, again := open(t, durable.Config{})
		arrivals := make(chan string, 10)
		config := fanout.Config{Targets: []fanout.Target{
			sending("held", func(*fanout.Request) error { arrivals <- "held"; return nil }),
			sending("other", func(*fanout.Request) error { arrivals <- "other"; return nil }),
		}}
		d := dispatcher(t, q, config)
		submit(t, d, "before")
		assert.ElementsMatch(t, []string{"held", "other"}, []string{<-arrivals, <-arrivals})
		require.NoError(t, q.Hold(t.Context(), "held"))
		submit(t, d, "meanwhile")
		assert.Equal(t, "other", <-arrivals)
		held, err := q.Held(t.Context())
		require.NoError(t, err)
		assert.Equal(t, []string{"held"}, held)
		closeNow(t, d)

		q = again(t, durable.Config{})
		newest := dispatcher(t, q, config)
		select {
		case to := <-arrivals:
			t.Error("held over a restart, and yet delivered to", to)
		case <-time.After(1500 * time.Millisecond):
		}
		backlog, err := q.Backlog(t.Context())
		require.NoError(t, err)
		require.Len(t, backlog, 1)
		assert.Equal(t, []any{"held", 1, true}, []any{backlog[0].Target, backlog[0].Deliveries, backlog[0].Held})
		require.NoError(t, q.Resume(t.Context(), "held"))
		assert.Equal(t, "held", <-arrivals)
		submit(t, newest, "after")
		assert.ElementsMatch(t, []string{"held", "other"}, []string{<-arrivals, <-arrivals})
	})
}

// quiet is a time in which a delivery would arrive if it were not held.
const quiet = 2500 * time.Millisecond

func TestHold_OfOneTargetHoldsItsSaga(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, again := open(t, durable.Config{})
		var c calls
		config := fanout.Config{Targets: order(&c, ok, ok)}
		d := dispatcher(t, q, config)
		submit(t, d, "opens its lane")
		eventually(t, func() bool { return len(c.seen()) == 3 }, "a saga before")
		other := again(t, durable.Config{})
		require.NoError(t, other.Hold(t.Context(), "payment"), "by another process, such as fanoutctl")
		require.NoError(t, other.Hold(t.Context(), "shipping"))
		time.Sleep(quiet) // until this process knows of the hold
		submit(t, d, "held")
		time.Sleep(quiet)
		assert.Len(t, c.seen(), 3)
		require.NoError(t, other.Resume(t.Context(), "payment"))
		time.Sleep(quiet)
		assert.Len(t, c.seen(), 3, "shipping still is")
		closeNow(t, d)

		q = again(t, durable.Config{})
		d = dispatcher(t, q, config)
		require.NoError(t, other.Resume(t.Context(), "shipping"))
		eventually(t, func() bool { return len(c.seen()) == 6 }, "the saga that was held")
		submit(t, d, "after")
		eventually(t, func() bool { return len(c.seen()) == 9 }, "one after it")
		require.NoError(t, other.Close(t.Context()))
	})
}

func TestHold_NeedsAName(t *testing.T) {
	q, _ := inFile(t, durable.Config{})
	require.EqualError(t, q.Hold(t.Context(), ""), "durable: no target to hold is named")
	require.NoError(t, q.Close(t.Context()))
}
