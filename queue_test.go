package fanout_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestQueue_ThatDoesNotKnowAnOptionRefusesIt(t *testing.T) {
	sender := fanouttest.NewSender()
	d := newWith(t, fanout.Config{Targets: []fanout.Target{sender.Target("ledger")}})
	_, err := d.Submit(t.Context(), "entry", fanout.ForQueue(fanout.QueueOption{Name: "InOrder", Value: "k"}))
	require.ErrorIs(t, err, fanout.ErrInvalid)
	require.EqualError(t, err, "fanout: InOrder: this queue does not know the option")
	assert.Zero(t, sender.Count())
}

func TestQueue_GivenADeliveryThatIsNotWholeSaysSo(t *testing.T) {
	q := fanout.NewMemoryQueue(fanout.MemoryLimits{})
	newWith(t, fanout.Config{Queue: q, Targets: []fanout.Target{via("crm", answering(200))}})
	for name, deliveries := range map[string][]fanout.Delivery{
		"no payload": {{Targets: []string{"crm"}}},
		"no target":  {{Payload: &fanout.Payload{ID: "o-1"}}},
		"the zero":   {{}},
	} {
		require.ErrorIs(t, q.Submit(t.Context(), deliveries), fanout.ErrInvalid, name)
	}
	require.NoError(t, q.Submit(t.Context(), nil))
}

func TestWorker_GivenADeliveryThatIsNotWholeDoesNotPanic(t *testing.T) {
	q := &manualQueue{}
	var told []string
	newWith(t, fanout.Config{Queue: q, Targets: []fanout.Target{via("crm", answering(200))},
		OnDeadLetter: func(_ context.Context, r fanout.Result) { told = append(told, r.Target) }})
	results, err := q.worker.Deliver(t.Context(), &fanout.Delivery{Targets: []string{"crm"}}, fanout.Round{})
	require.NoError(t, err)
	require.Len(t, results, 1)
	assert.Equal(t, fanout.Rejected, results[0].Outcome)
	q.worker.Done(t.Context(), results[0])
	assert.Equal(t, []string{"crm"}, told)
	results, err = q.worker.Deliver(t.Context(), &fanout.Delivery{}, fanout.Round{})
	require.NoError(t, err)
	assert.Empty(t, results)
}

func TestWorker_MakesAPayloadWholeThatAQueueHasMadeAgain(t *testing.T) {
	q := &manualQueue{}
	sender := fanouttest.NewSender()
	newWith(t, fanout.Config{Queue: q, Targets: []fanout.Target{sender.Target("ledger")}})
	_, err := q.worker.Deliver(t.Context(), &fanout.Delivery{Payload: &fanout.Payload{ID: "o-1"}, Targets: []string{"ledger"}}, fanout.Round{})
	require.NoError(t, err)
	require.Len(t, sender.Requests(), 1)
	assert.Equal(t, "o-1:ledger", sender.Requests()[0].Key)
	assert.Equal(t, "o-1", sender.Requests()[0].Payload.CorrelationID)
}

func TestDelivery_GivenNamesATargetThatNobodyFindsByName(t *testing.T) {
	q := &manualQueue{}
	d := newWith(t, fanout.Config{Queue: q, Targets: []fanout.Target{via("crm", answering(200))},
		Lookup: func(_ context.Context, name string) (fanout.Target, error) { return via(name, answering(200)), nil }})
	for _, test := range []struct {
		option fanout.Option
		want   string
	}{
		{fanout.ToTargets(via("hook", answering(200))), "hook"},
		{fanout.To("crm"), ""},
		{fanout.To("found"), ""},
	} {
		submit(t, d, test.option)
		assert.Equal(t, test.want, q.delivery.Given())
	}
}

func TestUndeliveredError_NamesTheFirstFewInOneLine(t *testing.T) {
	left := func(n int) *fanout.UndeliveredError {
		e := &fanout.UndeliveredError{Err: context.DeadlineExceeded}
		for range n {
			e.Left = append(e.Left, fanout.Result{Target: "crm", Payload: &fanout.Payload{ID: "o-1"}})
		}
		return e
	}
	require.EqualError(t, left(2), "fanout: not delivered: 2 (context deadline exceeded): o-1 to crm, o-1 to crm")
	require.EqualError(t, left(7), "fanout: not delivered: 7 (context deadline exceeded): "+strings.Repeat("o-1 to crm, ", 4)+"o-1 to crm and 2 more")
	require.ErrorIs(t, left(1), context.DeadlineExceeded)
}

func TestDelivery_ResultsAreWholeWhateverTheyAreAskedFor(t *testing.T) {
	d := &fanout.Delivery{Payload: &fanout.Payload{ID: "o-1"}, Targets: []string{"crm"}}
	require.NoError(t, d.Results(fanout.Delivered, nil)[0].Err())
	require.EqualError(t, d.Results(fanout.Rejected, nil)[0].Err(), "crm: not made")
}

func TestMemoryQueue_IsForOneDispatcher(t *testing.T) {
	q := fanout.NewMemoryQueue(fanout.MemoryLimits{})
	newWith(t, fanout.Config{Queue: q})
	_, err := fanout.New(fanout.Config{Queue: q})
	require.EqualError(t, err, "fanout: a queue is for one dispatcher, and has one")
}

func TestWorker_DeliverContainsWhatCodeOfItsContextDoes(t *testing.T) {
	q := &manualQueue{}
	newWith(t, fanout.Config{Queue: q, Targets: []fanout.Target{via("crm", answering(200))}})
	results, err := q.worker.Deliver(panickingContext{t.Context()}, &fanout.Delivery{Payload: &fanout.Payload{ID: "o-1"}, Targets: []string{"crm"}}, fanout.Round{})
	require.NoError(t, err)
	require.Len(t, results, 1)
	assert.Equal(t, fanout.ClassPanic, fanout.ClassOf(results[0].Err()))
	_, err = q.worker.Deliver(t.Context(), nil, fanout.Round{})
	require.EqualError(t, err, "fanout: the queue gave no delivery")
}

func TestQuorum_OverAContextThatPanicsLeavesNothingUnderWay(t *testing.T) {
	d, err := fanout.New(fanout.Config{Targets: []fanout.Target{via("crm", answering(200))}})
	require.NoError(t, err)
	panics := 0
	for n := range int32(20) {
		func() {
			defer func() {
				if recover() != nil {
					panics++
				}
			}()
			var left atomic.Int32
			left.Store(n)
			_, _ = d.Dispatch(panicsAt{t.Context(), &left}, "hello", fanout.QuorumLeaveRest(1))
		}()
	}
	assert.Greater(t, panics, 2, "at several places")
	require.NoError(t, d.Close(t.Context()))
}

// panickingContext is one that was given back to its pool.
type panickingContext struct{ context.Context }

func (panickingContext) Value(any) any { panic("reused") }

func TestPostponed_IsNotSaidOfTheBreakerOfADispatchWithin(t *testing.T) {
	inner := newDispatcher(t, with(via("dep", answering(500)), fanout.Policy{Retry: fanout.Retry{MaxAttempts: 1}}))
	for range 50 {
		dispatch(t.Context(), inner)
	}
	_, err := inner.Dispatch(t.Context(), "x")
	require.ErrorIs(t, err, fanout.ErrBreakerOpen)
	target := via("crm", answering(200))
	target.Prepare = func(ctx context.Context, _ *fanout.Request) error { _, err := inner.Dispatch(ctx, "x"); return err }
	d := newDispatcher(t, target)
	r := dispatch(t.Context(), d)["crm"]
	assert.False(t, fanout.Postponed(r.Err()), "its own breaker is closed: %v", r.Err())
	assert.Equal(t, fanout.ClassPrepare, fanout.ClassOf(r.Err()))
}
