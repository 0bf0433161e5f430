package durable_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/fanouttest"
)

// calls records the requests to the steps of a saga, with their keys.
type calls struct {
	mu  sync.Mutex
	all []string
}

func (c *calls) step(name string, answer func() (*fanout.Response, error)) fanout.Sender {
	return fanout.SenderFunc(func(_ context.Context, r *fanout.Request) (*fanout.Response, error) {
		c.mu.Lock()
		c.all = append(c.all, name+" "+r.Key)
		c.mu.Unlock()
		return answer()
	})
}

func (c *calls) seen() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string{}, c.all...)
}

func ok() (*fanout.Response, error) {
	return &fanout.Response{StatusCode: 200, Body: []byte(`{"id":7}`)}, nil
}

func refuse() (*fanout.Response, error) { return nil, fanout.Permanent(errors.New("no")) }

// order is a saga: stock, then payment, which is the pivot, then shipping.
func order(c *calls, pay, ship func() (*fanout.Response, error)) []fanout.Target {
	return []fanout.Target{
		{Name: "stock", Policy: once, Sender: c.step("stock", ok), Compensate: &fanout.Target{Sender: c.step("unstock", ok)}},
		{Name: "payment", Policy: once, After: []string{"stock"}, Pivot: true, Sender: c.step("payment", pay)},
		{Name: "shipping", Policy: once, After: []string{"payment"}, Sender: c.step("shipping", ship)},
	}
}

func outcomes(results fanout.Results) map[string]string {
	all := map[string]string{}
	for name, r := range results {
		all[name] = r.Outcome.String()
	}
	return all
}

func TestSaga_GoesOnWhereItWasAfterARestart(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, again := open(t, durable.Config{})
		var c calls
		begun := make(chan struct{})
		targets := order(&c, ok, ok)
		targets[1].Sender = fanout.SenderFunc(func(ctx context.Context, _ *fanout.Request) (*fanout.Response, error) {
			close(begun)
			<-ctx.Done()
			return nil, ctx.Err()
		})
		d := dispatcher(t, q, fanout.Config{Targets: targets})
		id := submit(t, d, "order")
		<-begun
		now, cancel := context.WithCancel(context.Background())
		cancel()
		require.NoError(t, d.Close(now))
		assert.Equal(t, []string{"stock " + id + ":stock"}, c.seen())

		var results fanouttest.Results
		targets = order(&c, ok, ok)
		targets[1].Prepare = func(_ context.Context, r *fanout.Request) error {
			assert.JSONEq(t, `{"id":7}`, string(r.Earlier["stock"].Response.Body), "its answer is from before")
			return nil
		}
		dispatcher(t, again(t, durable.Config{}), fanout.Config{Targets: targets, OnResult: results.OnResult})
		assert.Equal(t, map[string]string{"stock": "delivered", "payment": "delivered", "shipping": "delivered"}, outcomes(wait(t, &results, id, "stock", "payment", "shipping")))
		assert.Equal(t, []string{"stock " + id + ":stock", "payment " + id + ":payment", "shipping " + id + ":shipping"}, c.seen())
	})
}

func TestSaga_ThatFailsBeforeItsPivotIsUndoneAndDone(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{})
		var c calls
		var results fanouttest.Results
		d := dispatcher(t, q, fanout.Config{Targets: order(&c, refuse, ok), OnResult: results.OnResult})
		got := wait(t, &results, submit(t, d, "order"), "stock", "payment", "shipping")
		assert.Equal(t, map[string]string{"stock": "compensated", "payment": "failed", "shipping": "skipped"}, outcomes(got))
		assert.Empty(t, deadLetters(t, q, durable.Filter{}), "nothing is left to be done")
	})
}

func TestSaga_PastItsPivotIsTriedAgainThenDeadAndGoesOnWhenReplayed(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{Schedule: []time.Duration{0}})
		var c calls
		shipping := func() (*fanout.Response, error) { return nil, errDown }
		var mu sync.Mutex
		var results fanouttest.Results
		d := dispatcher(t, q, fanout.Config{Targets: order(&c, ok, func() (*fanout.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			return shipping()
		}), OnResult: results.OnResult})
		id := submit(t, d, "order")
		assert.Equal(t, map[string]string{"stock": "delivered", "payment": "delivered", "shipping": "unknown"}, outcomes(wait(t, &results, id, "stock", "payment", "shipping")))
		eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{Target: "shipping"})) == 1 }, "a dead letter")
		dead := deadLetters(t, q, durable.Filter{})[0]
		assert.Equal(t, []any{"shipping", 2}, []any{dead.Target, dead.Rounds})
		assert.Equal(t, []string{"stock", "payment", "shipping"}, dead.Targets)

		mu.Lock()
		shipping = ok
		mu.Unlock()
		require.NoError(t, q.Replay(t.Context(), dead.ID))
		ship := "shipping " + id + ":shipping"
		eventually(t, func() bool { return len(c.seen()) == 5 }, "shipping to be called again")
		assert.Equal(t, []string{"stock " + id + ":stock", "payment " + id + ":payment", ship, ship, ship}, c.seen())
	})
}

func TestSaga_ACompensationThatFailsIsTriedAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{Schedule: fast(3)})
		var c calls
		var results fanouttest.Results
		tries := 0
		targets := order(&c, refuse, ok)
		targets[0].Compensate = &fanout.Target{Policy: once, Sender: c.step("unstock", func() (*fanout.Response, error) {
			if tries++; tries < 3 {
				return nil, errDown
			}
			return ok()
		})}
		d := dispatcher(t, q, fanout.Config{Targets: targets, OnResult: results.OnResult})
		id := submit(t, d, "order")
		assert.Equal(t, map[string]string{"stock": "compensated", "payment": "failed", "shipping": "skipped"}, outcomes(wait(t, &results, id, "stock", "payment", "shipping")))
		undo := "unstock " + id + ":stock-compensation"
		assert.Equal(t, []string{"stock " + id + ":stock", "payment " + id + ":payment", undo, undo, undo}, c.seen())
	})
}

func TestSaga_GoesOnOnlyWhenItsJournalIsWritten(t *testing.T) {
	q, _ := inFile(t, durable.Config{Schedule: fast(1000)})
	refuseWrites(t, q)
	var c calls
	var results fanouttest.Results
	d := dispatcher(t, q, fanout.Config{Targets: order(&c, ok, ok), OnResult: results.OnResult})
	id := submit(t, d, "order")
	stock := "stock " + id + ":stock"
	eventually(t, func() bool { return len(c.seen()) >= 2 }, "the first step to be made again")
	for _, call := range c.seen() {
		assert.Equal(t, stock, call)
	}
	_, err := q.DB().Exec("DROP TRIGGER refuse")
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"stock": "delivered", "payment": "delivered", "shipping": "delivered"}, outcomes(wait(t, &results, id, "stock", "payment", "shipping")))
}

func TestSaga_IsUndoneWhateverTheErrorSays(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{})
		var c calls
		var results fanouttest.Results
		refuse := func() (*fanout.Response, error) {
			return nil, fanout.Permanent(errors.New("x\x00" + strings.Repeat("\u00fc", 600)))
		}
		d := dispatcher(t, q, fanout.Config{Targets: order(&c, refuse, ok), OnResult: results.OnResult})
		got := wait(t, &results, submit(t, d, "order"), "stock", "payment", "shipping")
		assert.Equal(t, map[string]string{"stock": "compensated", "payment": "failed", "shipping": "skipped"}, outcomes(got))
	})
}
