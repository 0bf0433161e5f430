package fanout_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestLookup_FindsTargetsThatAreNotConfigured(t *testing.T) {
	hook := fanouttest.NewSender()
	d := newWith(t, fanout.Config{Lookup: func(_ context.Context, name string) (fanout.Target, error) {
		if name == "customer 7" {
			return hook.Target(""), nil
		}
		return fanout.Target{}, fanout.ErrTargetGone
	}})
	for range 2 {
		results, err := d.Dispatch(t.Context(), "entry", fanout.To("customer 7"))
		require.NoError(t, err)
		assert.Equal(t, fanout.Delivered, results["customer 7"].Outcome)
	}
	_, err := d.Dispatch(t.Context(), "entry", fanout.To("customer 8"))
	require.ErrorIs(t, err, fanout.ErrInvalid)
	require.ErrorIs(t, err, fanout.ErrTargetGone)
	require.EqualError(t, err, `fanout: target "customer 8": Name: there is no target of this name`)
	assert.Equal(t, 2, hook.Count())
}

func TestLookup_ThatFailsIsNoFaultOfTheInput(t *testing.T) {
	down := errors.New("connection refused")
	d := newWith(t, fanout.Config{Lookup: func(_ context.Context, name string) (fanout.Target, error) {
		switch name {
		case "imposter":
			return fanouttest.NewSender().Target("other"), nil
		case "crash":
			panic("no database")
		case "unusable":
			return fanout.Target{URL: "ftp://example.com"}, nil
		}
		return fanout.Target{}, down
	}})
	for name, want := range map[string]string{
		"customer 8": `fanout: target "customer 8": look-up failed: connection refused`,
		"imposter":   `fanout: target "imposter": look-up failed: found a target named "other"`,
		"crash":      `fanout: target "crash": look-up failed: panic: no database`,
		"unusable":   `fanout: target "unusable": look-up failed: what it found cannot be used: URL: scheme is neither http nor https`,
	} {
		_, err := d.Dispatch(t.Context(), "entry", fanout.To(name))
		require.ErrorIs(t, err, fanout.ErrLookup)
		require.NotErrorIs(t, err, fanout.ErrInvalid)
		require.ErrorContains(t, err, want)
		var refused *fanout.RefusedError
		require.ErrorAs(t, err, &refused)
	}
}

func TestLookup_SeesTheQueuesOptionsAndDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []fanout.QueueOption
		d := newWith(t, fanout.Config{Queue: &notingQueue{}, Lookup: func(ctx context.Context, name string) (fanout.Target, error) {
			if seen = fanout.QueueOptions(ctx); seen == nil {
				<-ctx.Done()
				return fanout.Target{}, ctx.Err()
			}
			return via(name, answering(200)), nil
		}})
		tx := fanout.QueueOption{Name: "InTx", Value: "a transaction"}
		_, err := d.Submit(t.Context(), "entry", fanout.To("hook"), fanout.ForQueue(tx))
		require.NoError(t, err)
		assert.Equal(t, []fanout.QueueOption{tx}, seen)
		began := time.Now()
		_, err = d.Submit(t.Context(), "entry", fanout.To("hook"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 10*time.Second, time.Since(began))
	})
}

func TestLookup_ThatFailsInARoundPostponesTheDelivery(t *testing.T) {
	for name, c := range map[string]struct {
		lookup    error
		postponed bool
		class     fanout.Class
	}{
		"its database is down":     {errors.New("connection refused"), true, fanout.ClassLookup},
		"there is no such target":  {fanout.ErrTargetGone, false, fanout.ClassUnknownTarget},
		"wrapped, no such target ": {errors.Join(errors.New("customer 7 left"), fanout.ErrTargetGone), false, fanout.ClassUnknownTarget},
	} {
		t.Run(name, func(t *testing.T) {
			q := &notingQueue{}
			newWith(t, fanout.Config{Queue: q, Lookup: func(context.Context, string) (fanout.Target, error) { return fanout.Target{}, c.lookup }})
			results, err := q.worker.Deliver(t.Context(), &fanout.Delivery{Payload: &fanout.Payload{ID: "o-1"}, Targets: []string{"hook"}}, fanout.Round{})
			require.NoError(t, err)
			require.Len(t, results, 1)
			assert.Equal(t, fanout.Rejected, results[0].Outcome)
			assert.Equal(t, c.postponed, fanout.Postponed(results[0].Err()))
			assert.Equal(t, c.class, fanout.ClassOf(results[0].Err()))
			assert.NotErrorIs(t, results[0].Err(), fanout.ErrInvalid)
		})
	}
}

func TestQueue_ThatDoesNotKnowAnOptionRefusesIt(t *testing.T) {
	sender := fanouttest.NewSender()
	d := newWith(t, fanout.Config{Targets: []fanout.Target{sender.Target("ledger")}})
	_, err := d.Submit(t.Context(), "entry", fanout.ForQueue(fanout.QueueOption{Name: "InOrder", Value: "k"}))
	require.ErrorIs(t, err, fanout.ErrInvalid)
	require.EqualError(t, err, "fanout: InOrder: this queue does not know the option")
	assert.Zero(t, sender.Count())
}

func TestPayload_IDNamesTheDispatchAndItsKeys(t *testing.T) {
	sender := fanouttest.NewSender()
	d := newWith(t, fanout.Config{Targets: []fanout.Target{sender.Target("ledger")}})
	for range 2 {
		results, err := d.Dispatch(t.Context(), fanout.Payload{ID: "order-42", Value: "entry"})
		require.NoError(t, err)
		assert.Equal(t, "order-42", results["ledger"].Payload.ID)
	}
	for _, r := range sender.Requests() {
		assert.Equal(t, "order-42:ledger", r.Key)
		assert.Equal(t, "order-42", r.Payload.CorrelationID)
	}
}

func TestPayload_IDThatCannotBeKeptIsRefused(t *testing.T) {
	d := newWith(t, fanout.Config{Targets: []fanout.Target{fanouttest.NewSender().Target("ledger")}})
	_, err := d.Submit(t.Context(), fanout.Payload{ID: "a b", Value: "entry"})
	require.ErrorIs(t, err, fanout.ErrInvalid)
	require.EqualError(t, err, "fanout: Payload.ID: must be 1 to 100 letters, digits and characters of -._~:/+=@")
}
