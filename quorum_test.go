package fanout_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestQuorum_ReturnsEarlyAndCutsTheRestShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, via("quick", slow(time.Second)), via("second", slow(2*time.Second)), via("slow", hanging), via("no", answering(400)))
		began := time.Now()
		results, err := d.Dispatch(t.Context(), "hello", fanout.Quorum(2))
		require.NoError(t, err)
		assert.Equal(t, 2*time.Second, time.Since(began))
		outcomes := map[string]fanout.Outcome{}
		for name, r := range results {
			outcomes[name] = r.Outcome
		}
		assert.Equal(t, map[string]fanout.Outcome{"quick": fanout.Delivered, "second": fanout.Delivered, "slow": fanout.Unknown, "no": fanout.Failed}, outcomes)
		require.ErrorIs(t, results["slow"].Err(), fanout.ErrNotNeeded)
		state, _ := d.BreakerState("slow")
		assert.Equal(t, fanout.BreakerClosed, state)
	})
}

func TestQuorum_ThatCannotBeReachedWaitsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, via("a", answering(200)), via("b", answering(400)), optional(via("c", delayed(time.Second, answering(403)))))
		results, err := d.Dispatch(t.Context(), "hello", fanout.Quorum(2))
		require.EqualError(t, err, "fanout: 2 of 3 targets not delivered: b: not retried after 1 attempt: 400 Bad Request; c: not retried after 1 attempt: 403 Forbidden")
		assert.Len(t, results, 3)
	})
}

func TestQuorum_OfOneIsReachedByAnyTarget(t *testing.T) {
	d := newDispatcher(t, via("a", answering(500)), via("b", answering(200)))
	_, err := d.Dispatch(t.Context(), "hello", fanout.Quorum(1))
	require.NoError(t, err)
}

func TestQuorum_WaitEndsOnTheCallersCancel(t *testing.T) {
	for name, option := range map[string]fanout.DispatchOption{"cut": fanout.Quorum(1), "leave": fanout.QuorumLeaveRest(1)} {
		synctest.Test(t, func(t *testing.T) {
			d := newDispatcher(t, via("a", hanging), via("b", hanging))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			began := time.Now()
			_, err := d.Dispatch(ctx, "hello", option)
			require.ErrorIs(t, err, context.DeadlineExceeded, name)
			assert.Equal(t, time.Second, time.Since(began), name)
		})
	}
}

func TestQuorum_ThatCannotBeIsRefused(t *testing.T) {
	d := newDispatcher(t, via("a", answering(200)), via("b", answering(200)))
	for want, options := range map[string][]fanout.DispatchOption{
		"Quorum: 3 of 2 targets":  {fanout.Quorum(3)},
		"Quorum: -1 of 2 targets": {fanout.Quorum(-1)},
		"Quorum: 2 of 1 targets":  {fanout.To("a"), fanout.Quorum(2)},
		"Quorum: given twice":     {fanout.Quorum(1), fanout.QuorumLeaveRest(1)},
		"depend on each other":    {fanout.ToTargets(via("x", answering(200)), after(via("y", answering(200)), "x")), fanout.Quorum(1)},
	} {
		_, err := d.Dispatch(t.Context(), "hello", options...)
		require.ErrorContains(t, err, want)
	}
}

func TestQuorumLeaveRest_LetsTheRestFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var later fanouttest.Results
		var dead []string
		d, err := fanout.New(fanout.Config{
			Targets:      []fanout.Target{via("quick", slow(time.Second)), via("slow", slow(5*time.Second)), via("bad", delayed(2*time.Second, answering(400)))},
			OnResult:     later.OnResult,
			OnDeadLetter: func(_ context.Context, r fanout.Result) { dead = append(dead, r.Target) },
		})
		require.NoError(t, err)
		began := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		results, err := d.Dispatch(ctx, "hello", fanout.QuorumLeaveRest(1))
		cancel()
		require.NoError(t, err)
		assert.Equal(t, time.Second, time.Since(began))
		require.Len(t, results, 3)
		assert.Equal(t, fanout.Unknown, results["slow"].Outcome)
		require.ErrorIs(t, results["slow"].Err(), fanout.ErrUnderWay)
		assert.NotEmpty(t, results["slow"].Key)

		require.NoError(t, d.Close(t.Context()), "which waits for it")
		assert.Equal(t, 5*time.Second, time.Since(began))
		over, stop := context.WithCancel(t.Context())
		stop()
		got, _ := later.Wait(over, results["slow"].Payload.ID)
		assert.Equal(t, fanout.Delivered, got["slow"].Outcome)
		assert.NotContains(t, got, "quick", "that was told already")
		assert.Equal(t, []string{"bad"}, dead)
	})
}

func TestQuorumLeaveRest_IsCutShortByClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dead []string
		d, err := fanout.New(fanout.Config{
			Targets:      []fanout.Target{via("quick", answering(200)), via("hangs", hanging)},
			OnDeadLetter: func(_ context.Context, r fanout.Result) { dead = append(dead, r.Err().Error()) },
		})
		require.NoError(t, err)
		_, err = d.Dispatch(t.Context(), "hello", fanout.QuorumLeaveRest(1))
		require.NoError(t, err)
		over, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.NoError(t, d.Close(over), "it was told")
		assert.Equal(t, []string{"hangs: context canceled: dispatcher closed after 1 attempt: context canceled; it may have taken effect"}, dead)
	})
}

func TestQuorum_OfNoneIsRefused(t *testing.T) {
	d := newDispatcher(t, via("a", answering(200)))
	for _, options := range [][]fanout.DispatchOption{{fanout.Quorum(0)}, {fanout.QuorumLeaveRest(0)}, {fanout.Quorum(1), fanout.Quorum(0), fanout.Quorum(1)}} {
		_, err := d.Dispatch(t.Context(), "hello", options...)
		require.ErrorIs(t, err, fanout.ErrInvalid)
	}
}

func TestOption_ThatIsNilSaysNothing(t *testing.T) {
	d := newDispatcher(t, via("a", answering(200)))
	results, err := d.Dispatch(t.Context(), "hello", nil)
	require.NoError(t, err)
	assert.Len(t, results, 1)
	_, err = d.Submit(t.Context(), "hello", nil)
	require.NoError(t, err)
}

func TestQuorum_ThatIsMissedNamesTheDispatch(t *testing.T) {
	d := newDispatcher(t, via("a", answering(200)), via("b", answering(400)))
	_, err := d.Dispatch(t.Context(), fanout.Payload{ID: "order-7", Value: "hello"}, fanout.Quorum(2))
	var failed *fanout.DispatchError
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, "order-7", failed.DispatchID)
	assert.Equal(t, 2, failed.Targets)
}
