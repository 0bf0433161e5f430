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

func TestAnIDOfTheCallersNamesTheDispatchAndItsKeys(t *testing.T) {
	sender := fanouttest.NewSender()
	d := newWith(t, fanout.Config{Targets: []fanout.Target{sender.Target("ledger")}})
	for range 2 {
		results, err := d.Dispatch(t.Context(), "entry", fanout.ID("order-42"))
		require.NoError(t, err)
		assert.Equal(t, "order-42", results["ledger"].DispatchID)
	}
	for _, r := range sender.Requests() {
		assert.Equal(t, "order-42:ledger", r.IdempotencyKey)
		assert.Equal(t, "order-42", r.CorrelationID)
	}
}

func TestTermsThatCannotBeKeptAreRefused(t *testing.T) {
	long := string(make([]byte, 257))
	for name, c := range map[string]struct {
		options []fanout.Option
		want    string
	}{
		"an empty ID":             {[]fanout.Option{fanout.ID("")}, "fanout: ID: without a value"},
		"an ID no header takes":   {[]fanout.Option{fanout.ID("a b")}, "fanout: ID: must be 1 to 100 letters, digits and characters of -._~:/+=@"},
		"two IDs":                 {[]fanout.Option{fanout.ID("a"), fanout.ID("b")}, "fanout: ID: given twice"},
		"no transaction":          {[]fanout.Option{fanout.InTx(nil)}, "fanout: InTx: without a value"},
		"a transaction in memory": {[]fanout.Option{fanout.InTx(1)}, "fanout: InTx: the queue in memory has no transactions"},
		"two transactions":        {[]fanout.Option{fanout.InTx(1), fanout.InTx(2)}, "fanout: InTx: given twice"},
		"order in memory":         {[]fanout.Option{fanout.InOrder("k")}, "fanout: InOrder: the queue in memory keeps no order"},
		"two orders":              {[]fanout.Option{fanout.InOrder("k"), fanout.InOrder("l")}, "fanout: InOrder: given twice"},
		"a long order key":        {[]fanout.Option{fanout.InOrder(long)}, "fanout: InOrder: longer than 256 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			sender := fanouttest.NewSender()
			d := newWith(t, fanout.Config{Targets: []fanout.Target{sender.Target("ledger")}})
			_, err := d.Submit(t.Context(), "entry", c.options...)
			require.ErrorIs(t, err, fanout.ErrInvalid)
			require.ErrorContains(t, err, c.want)
			assert.Zero(t, sender.Count())
		})
	}
}

func TestWhatIsForSubmitIsRefusedByDispatch(t *testing.T) {
	d := newWith(t, fanout.Config{Targets: []fanout.Target{fanouttest.NewSender().Target("ledger")}})
	for _, o := range []fanout.Option{fanout.InTx(1), fanout.InOrder("k")} {
		results, err := d.Dispatch(t.Context(), "entry", o)
		require.ErrorIs(t, err, fanout.ErrInvalid)
		require.ErrorContains(t, err, "is for Submit")
		assert.Equal(t, fanout.Rejected, results["ledger"].Outcome)
	}
}

func TestLookupFindsTargetsThatAreNotConfigured(t *testing.T) {
	hook := fanouttest.NewSender()
	d := newWith(t, fanout.Config{Lookup: func(_ context.Context, name string) (fanout.Target, error) {
		switch name {
		case "customer 7":
			return hook.Target(""), nil
		case "imposter":
			return hook.Target("other"), nil
		case "crash":
			panic("no database")
		}
		return fanout.Target{}, errors.New("no such customer")
	}})
	for range 2 {
		results, err := d.Dispatch(t.Context(), "entry", fanout.To("customer 7"))
		require.NoError(t, err)
		assert.Equal(t, fanout.Delivered, results["customer 7"].Outcome)
	}
	for name, want := range map[string]string{
		"customer 8": `fanout: target "customer 8": Name: no such customer`,
		"imposter":   `fanout: target "imposter": Name: found a target named "other"`,
		"crash":      `fanout: target "crash": Name: panic: no database`,
	} {
		_, err := d.Dispatch(t.Context(), "entry", fanout.To(name))
		require.ErrorIs(t, err, fanout.ErrInvalid)
		require.ErrorContains(t, err, want)
	}
	assert.Equal(t, 2, hook.Count())
}

func TestALookUpSeesTheTransactionAndDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen any
		d := newWith(t, fanout.Config{Queue: &notingQueue{}, Lookup: func(ctx context.Context, name string) (fanout.Target, error) {
			if seen = fanout.TxFromContext(ctx); seen == nil {
				<-ctx.Done()
				return fanout.Target{}, ctx.Err()
			}
			return via(name, answering(200)), nil
		}})
		_, err := d.Submit(t.Context(), "entry", fanout.To("hook"), fanout.InTx("a transaction"))
		require.NoError(t, err)
		assert.Equal(t, "a transaction", seen)
		began := time.Now()
		_, err = d.Submit(t.Context(), "entry", fanout.To("hook"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 10*time.Second, time.Since(began))
	})
}
