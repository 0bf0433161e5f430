package durable_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/fanouttest"
)

// refusing is a target that refuses everything until it is repaired.
func refusing(name string, mended *atomic.Bool) fanout.Target {
	return sending(name, func(*fanout.Request) error {
		if mended.Load() {
			return nil
		}
		return fanout.Permanent(errDown)
	})
}

func TestReplay_DeliversWithTheSameKey(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{})
		var mended atomic.Bool
		var keys sync.Map
		target := refusing("crm", &mended)
		target.Prepare = func(_ context.Context, r *fanout.Request) error {
			n, _ := keys.LoadOrStore(r.Key, new(atomic.Int32))
			n.(*atomic.Int32).Add(1)
			return nil
		}
		delivered := make(chan fanout.Result, 10)
		d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{target}, OnResult: func(_ context.Context, r fanout.Result) {
			if r.Err() == nil {
				delivered <- r
			}
		}})
		id := submit(t, d, "entry")
		eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 1 }, "a dead letter")
		dead := deadLetters(t, q, durable.Filter{})[0]

		mended.Store(true)
		require.NoError(t, q.Replay(t.Context(), dead.ID))
		assert.Equal(t, id, (<-delivered).Payload.ID)
		n, _ := keys.Load(id + ":crm")
		assert.EqualValues(t, 2, n.(*atomic.Int32).Load())

		assert.Empty(t, deadLetters(t, q, durable.Filter{}))
		require.ErrorIs(t, q.Replay(t.Context(), dead.ID), durable.ErrNotFound)
		require.ErrorIs(t, q.Discard(t.Context(), dead.ID), durable.ErrNotFound)
		_, err := q.Inspect(t.Context(), dead.ID)
		require.ErrorIs(t, err, durable.ErrNotFound)
	})
}

func TestDeadLetters_AreSelectedByTargetTimeAndClassAndReplayedInBulk(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{})
		var mended atomic.Bool
		var arrived atomic.Int32
		api := fanouttest.NewTarget(t, fanouttest.Status(410))
		crm := refusing("crm", &mended)
		crm.Classify = nil
		d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{crm, {Name: "api 100%_", URL: api.URL()}}, OnResult: func(_ context.Context, r fanout.Result) {
			if r.Err() == nil {
				arrived.Add(1)
			}
		}})
		const n = 20
		for i := range n {
			submit(t, d, i)
		}
		eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 2*n }, "all to be dead")
		now := time.Now()
		for _, c := range []struct {
			filter durable.Filter
			want   int
		}{
			{durable.Filter{Target: "crm"}, n},
			{durable.Filter{Target: "api 100%_"}, n},
			{durable.Filter{Target: "nobody"}, 0},
			{durable.Filter{Class: "410"}, n},
			{durable.Filter{Class: "410", Target: "crm"}, 0},
			{durable.Filter{Since: now.Add(-time.Hour)}, 2 * n},
			{durable.Filter{Since: now.Add(time.Hour)}, 0},
			{durable.Filter{Until: now.Add(-time.Hour)}, 0},
		} {
			assert.Len(t, deadLetters(t, q, c.filter), c.want, "%+v", c.filter)
		}

		mended.Store(true)
		var steps []string
		done, err := q.ReplayAll(t.Context(), durable.Filter{Target: "crm"}, durable.Bulk{PerSecond: -1, Progress: func(done, total int) {
			steps = append(steps, fmt.Sprintf("%d/%d", done, total))
		}})
		require.NoError(t, err)
		assert.Equal(t, n, done)
		assert.Equal(t, []any{"1/20", "20/20", n}, []any{steps[0], steps[n-1], len(steps)})
		eventually(t, func() bool { return arrived.Load() == n }, "all to arrive")

		done, err = q.DiscardAll(t.Context(), durable.Filter{}, durable.Bulk{PerSecond: -1})
		require.NoError(t, err)
		assert.Equal(t, n, done)
		assert.Empty(t, deadLetters(t, q, durable.Filter{}))
	})
}

func TestDeadLetters_FindASagaByEachOfItsTargetsWhateverTheirNames(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{})
		var never atomic.Bool
		names := []string{"R&D <x>", `quo"te\`, "100%_!", "日本"}
		var targets []fanout.Target
		for i, name := range names {
			target := refusing(name, &never)
			target.After = names[:i]
			targets = append(targets, target)
		}
		submit(t, dispatcher(t, q, fanout.Config{Targets: targets}), "entry")
		eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 1 }, "a dead letter")
		for _, name := range names {
			assert.Len(t, deadLetters(t, q, durable.Filter{Target: name}), 1, name)
		}
		assert.Empty(t, deadLetters(t, q, durable.Filter{Target: "R&D"}))
	})
}

func TestInspect_OfAHistoryThatCannotBeReadIsAnError(t *testing.T) {
	q, _ := inFile(t, durable.Config{})
	var never atomic.Bool
	submit(t, dispatcher(t, q, fanout.Config{Targets: []fanout.Target{refusing("crm", &never)}}), "entry")
	eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 1 }, "a dead letter")
	id := deadLetters(t, q, durable.Filter{})[0].ID
	one, err := q.Inspect(t.Context(), id)
	require.NoError(t, err)
	require.Len(t, one.History, 1)
	_, err = q.DB().Exec("UPDATE fanout_journal SET record = 'sealed'")
	require.NoError(t, err)
	one, err = q.Inspect(t.Context(), id)
	require.EqualError(t, err, fmt.Sprintf("durable: dead letter %d: encrypted, and no Config.Encryption is given", id))
	assert.Nil(t, one)
}

func TestReplayAll_KeepsToItsRate(t *testing.T) {
	q, _ := inFile(t, durable.Config{})
	var never atomic.Bool
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{refusing("crm", &never)}})
	for i := range 10 {
		submit(t, d, i)
	}
	eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 10 }, "all to be dead")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	done, err := q.ReplayAll(ctx, durable.Filter{}, durable.Bulk{PerSecond: 5})
	require.Error(t, err, "there is no time for all")
	assert.LessOrEqual(t, done, 4)
	assert.Positive(t, done)
}
