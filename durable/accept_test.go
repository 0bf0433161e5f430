package durable_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestACommittedSubmissionIsDeliveredAndARolledBackOneNeverWas(t *testing.T) {
	t.Run("SQLite", func(t *testing.T) {
		q, _ := inFile(t, durable.Config{})
		_, err := q.DB().Exec("CREATE TABLE orders (id text)")
		require.NoError(t, err)
		sender := fanouttest.NewSender()
		var results fanouttest.Results
		d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{sender.Target("ledger")}, OnResult: results.OnResult})
		order := func(id string) (string, func() error, func() error) {
			tx, err := q.DB().BeginTx(t.Context(), nil)
			require.NoError(t, err)
			_, err = tx.Exec("INSERT INTO orders VALUES (?)", id)
			require.NoError(t, err)
			return submit(t, d, id, fanout.InTx(tx)), tx.Commit, tx.Rollback
		}
		_, _, rollback := order("rolled back")
		require.NoError(t, rollback())
		id, commit, _ := order("committed")
		require.NoError(t, commit())
		assert.Equal(t, fanout.Delivered, wait(t, &results, id)["ledger"].Outcome)
		time.Sleep(1200 * time.Millisecond) // longer than a lane looks by itself
		require.Equal(t, 1, sender.Count())
		assert.Equal(t, `"committed"`, string(sender.Requests()[0].Body))
	})
	t.Run("Postgres", func(t *testing.T) {
		pool, _ := database(t)
		q, err := durable.OpenPostgres(pool, durable.Config{})
		require.NoError(t, err)
		require.NoError(t, q.Migrate(t.Context()))
		sender := fanouttest.NewSender()
		var results fanouttest.Results
		d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{sender.Target("ledger")}, OnResult: results.OnResult})
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		submit(t, d, "rolled back", fanout.InTx(tx))
		require.NoError(t, tx.Rollback(t.Context()))
		tx, err = pool.Begin(t.Context())
		require.NoError(t, err)
		id := submit(t, d, "committed", fanout.InTx(tx))
		require.NoError(t, tx.Commit(t.Context()))
		assert.Equal(t, fanout.Delivered, wait(t, &results, id)["ledger"].Outcome)
		time.Sleep(1200 * time.Millisecond)
		require.Equal(t, 1, sender.Count())
		assert.Equal(t, `"committed"`, string(sender.Requests()[0].Body))
	})
}

func TestATransactionOfAnotherKindIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{})
		d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{fanouttest.NewSender().Target("ledger")}})
		_, err := d.Submit(t.Context(), "entry", fanout.InTx("no transaction"))
		require.ErrorIs(t, err, fanout.ErrInvalid)
		require.ErrorContains(t, err, "InTx: is a string, and this queue knows ")
	})
}

func TestAnIDIsAcceptedOnceForEachTarget(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, again := open(t, durable.Config{})
		first, second := fanouttest.NewSender(), fanouttest.NewSender()
		var results fanouttest.Results
		config := fanout.Config{Targets: []fanout.Target{first.Target("first"), second.Target("second")}, OnResult: results.OnResult}
		d := dispatcher(t, q, config)
		for range 3 {
			assert.Equal(t, "order-7", submit(t, d, "entry", fanout.ID("order-7"), fanout.To("first")))
		}
		_ = wait(t, &results, submit(t, d, "entry", fanout.To("first")))
		closeNow(t, d)
		d = dispatcher(t, again(t, durable.Config{}), config)
		submit(t, d, "entry", fanout.ID("order-7"))
		eventually(t, func() bool { return second.Count() == 1 }, "the target that did not have it")
		_ = wait(t, &results, submit(t, d, "entry", fanout.To("first")))
		assert.Equal(t, 3, first.Count(), "order-7 once, and two others")
	})
}

func TestAnIDIsAcceptedOnceForEachSetOfTargetsThatDependOnEachOther(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{})
		var targets []fanout.Target
		senders := map[string]*fanouttest.Sender{}
		for _, pair := range [][2]string{{"a", "b"}, {"c", "d"}} {
			for i, name := range pair {
				senders[name] = fanouttest.NewSender()
				target := senders[name].Target(name)
				target.After = pair[:i]
				targets = append(targets, target)
			}
		}
		d := dispatcher(t, q, fanout.Config{Targets: targets})
		for range 2 {
			submit(t, d, "order", fanout.ID("order-1"), fanout.To("a", "b"))
			submit(t, d, "order", fanout.ID("order-1"), fanout.To("d", "c"))
			submit(t, d, "order", fanout.ID("order-1"), fanout.To("c", "d"))
		}
		eventually(t, func() bool { return senders["b"].Count() > 0 && senders["d"].Count() > 0 }, "both sets")
		closeNow(t, d)
		for name, sender := range senders {
			assert.Equal(t, 1, sender.Count(), name)
		}
	})
}

func TestATransactionOfAnotherFileIsRefused(t *testing.T) {
	q, _ := inFile(t, durable.Config{})
	other, _ := inFile(t, durable.Config{})
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{fanouttest.NewSender().Target("ledger")}})
	tx, err := other.DB().Begin()
	require.NoError(t, err)
	_, err = d.Submit(t.Context(), "entry", fanout.InTx(tx))
	require.ErrorIs(t, err, fanout.ErrInvalid)
	require.ErrorContains(t, err, "fanout: InTx: is a transaction of ")
	_, err = d.Submit(t.Context(), "entry", fanout.InTx((*sql.Tx)(nil)))
	require.EqualError(t, err, "fanout: InTx: is nil")
	require.NoError(t, tx.Rollback())
	require.NoError(t, other.Close(t.Context()))
}

func TestASubmissionWhoseCallerGoesAwayIsAcceptedOrNot(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{})
		require.NoError(t, q.Hold(t.Context(), "ledger"))
		d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{fanouttest.NewSender().Target("ledger")}})
		accepted := 0
		for i := range 400 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*10*time.Microsecond)
			if _, err := d.Submit(ctx, "entry"); err == nil {
				accepted++
			}
			cancel()
		}
		var kept int
		require.NoError(t, q.DB().QueryRow("SELECT count(*) FROM "+jobs(q)).Scan(&kept))
		assert.Equal(t, accepted, kept)
		assert.Less(t, accepted, 400)
	})
}

func TestAProcessMaySubmitAndLeaveTheDeliveriesToOthers(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, again := open(t, durable.Config{SubmitOnly: true})
		never, ledger := fanouttest.NewSender(), fanouttest.NewSender()
		front := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{never.Target("ledger")}})
		submit(t, front, "entry")
		submit(t, front, "ordered", fanout.InOrder("k"))
		dispatcher(t, again(t, durable.Config{}), fanout.Config{Targets: []fanout.Target{ledger.Target("ledger")}})
		eventually(t, func() bool { return ledger.Count() == 2 }, "both, at the other process")
		submit(t, front, "later")
		eventually(t, func() bool { return ledger.Count() == 3 }, "what is submitted while it runs")
		assert.Zero(t, never.Count())
	})
}

func TestWhatCannotBeKeptIsRefused(t *testing.T) {
	q, _ := inFile(t, durable.Config{MaxPayloadBytes: 100})
	sender := fanouttest.NewSender()
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{sender.Target("ledger"), {Name: "after", After: []string{"ledger"}, Sender: fanout.SenderFunc(nil)}}})
	for name, c := range map[string]struct {
		payload any
		options []fanout.Option
		want    string
	}{
		"a body too large":              {fanout.Payload{Body: make([]byte, 101), ContentType: "text/plain"}, nil, "fanout: Payload.Body: too large: 101 bytes with its header, and the queue takes 100"},
		"a header too large":            {fanout.Payload{Header: http.Header{"X": {string(bytes.Repeat([]byte("x"), 101))}}}, nil, "fanout: Payload.Body: too large: 102 bytes"},
		"a header in Latin-1":           {fanout.Payload{Header: http.Header{"X": {"caf\xe9"}}}, nil, "fanout: Payload.Header: X: not UTF-8"},
		"a target given in the call":    {"entry", []fanout.Option{fanout.ToTargets(sender.Target("stranger"))}, `fanout: target "stranger": ToTargets: a durable queue finds targets by name`},
		"order among dependent targets": {"entry", []fanout.Option{fanout.InOrder("k")}, "fanout: InOrder: is not for targets that depend on each other"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.Submit(t.Context(), c.payload, c.options...)
			require.ErrorIs(t, err, fanout.ErrInvalid)
			require.ErrorContains(t, err, c.want)
		})
	}
	assert.Zero(t, sender.Count())
}

func TestConfigsThatCannotWorkAreRefused(t *testing.T) {
	for want, config := range map[string]durable.Config{
		"Schedule[1]: -1ns is negative":                           {Schedule: []time.Duration{0, -1}},
		"Concurrency: -1 is not in 1 to 10,000":                   {Concurrency: -1},
		`Targets["a"].Concurrency: 10001 is not in 1 to 10,000`:   {Targets: map[string]durable.TargetConfig{"a": {Concurrency: 10001}}},
		`Targets["a"].Schedule[0]: -1s is negative`:               {Targets: map[string]durable.TargetConfig{"a": {Schedule: []time.Duration{-time.Second}}}},
		"TakeOver: 1s is less than 2s":                            {TakeOver: time.Second},
		"Retention: 1ns is less than 1s":                          {Retention: 1},
		"Schedule[0]: 5ns is less than 1ms: is its unit missing?": {Schedule: []time.Duration{5, 300}},
		"Schema: is for Postgres":                                 {Schema: "fanout"},
		`Schema: "x; y" is not letters, digits and underscores`:   {Schema: "x; y"},
	} {
		_, err := durable.Open(filepath.Join(t.TempDir(), "q.db"), config)
		require.ErrorIs(t, err, fanout.ErrInvalid)
		require.ErrorContains(t, err, want)
	}
}

func TestALookedUpTargetIsFoundAgainAfterARestart(t *testing.T) {
	q, again := inFile(t, durable.Config{})
	hook := fanouttest.NewSender()
	begun := make(chan struct{})
	d := dispatcher(t, q, fanout.Config{Lookup: func(context.Context, string) (fanout.Target, error) {
		return fanout.Target{Sender: fanout.SenderFunc(func(ctx context.Context, _ *fanout.Request) (*fanout.Response, error) {
			close(begun)
			<-ctx.Done()
			return nil, ctx.Err()
		})}, nil
	}})
	id := submit(t, d, "event", fanout.To("customer 7"))
	<-begun
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, d.Close(ctx))
	var results fanouttest.Results
	dispatcher(t, again(t, durable.Config{}), fanout.Config{OnResult: results.OnResult, Lookup: func(_ context.Context, name string) (fanout.Target, error) {
		if name != "customer 7" {
			return fanout.Target{}, errors.New("no such customer")
		}
		return hook.Target(""), nil
	}})
	assert.Equal(t, fanout.Delivered, wait(t, &results, id)["customer 7"].Outcome)
}

func TestDeliveriesOfOneOrderingKeyArriveInOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{Schedule: fast(5)})
		var mu sync.Mutex
		got, failed := map[string][]string{}, false
		freely := make(chan struct{}, 10)
		target := sending("crm", func(r *fanout.Request) error {
			mu.Lock()
			defer mu.Unlock()
			var key, n string
			_, _ = fmt.Sscanf(string(r.Body), "%1s%s", &key, &n)
			if key == "a" && n == "1" && !failed {
				failed = true
				return errDown
			}
			got[key] = append(got[key], n)
			if key == "b" && !slices.Contains(got["a"], "1") {
				freely <- struct{}{}
			}
			return nil
		})
		target.Prepare = nil
		d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{target}})
		for i := range 5 {
			for _, key := range []string{"a", "b"} {
				body := fanout.Payload{Body: fmt.Appendf(nil, "%s%d", key, i), ContentType: "text/plain"}
				submit(t, d, body, fanout.InOrder(key))
			}
		}
		all := []string{"0", "1", "2", "3", "4"}
		eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(got["a"]) == 5 && len(got["b"]) == 5
		}, "all to arrive")
		assert.Equal(t, map[string][]string{"a": all, "b": all}, got)
		assert.NotEmpty(t, freely, "the other key waits for none")
	})
}

func TestEncryptedPayloadsAndAnswersCannotBeReadInTheFileAndKeysRotate(t *testing.T) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	require.NoError(t, err)
	cipher, err := aead.New(handle)
	require.NoError(t, err)
	const secret = "4111-1111-1111-1111"
	path := filepath.Join(t.TempDir(), "q.db")
	q, err := durable.Open(path, durable.Config{Encryption: cipher})
	require.NoError(t, err)
	api := fanouttest.NewTarget(t, fanouttest.Reply(422, "no card "+secret))
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{{Name: "pay", URL: api.URL()}}})
	submit(t, d, fanout.Payload{Value: map[string]string{"card": secret}, Header: http.Header{"X-Card": {secret}}})
	eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 1 }, "a dead letter")
	closeNow(t, d)
	files, err := filepath.Glob(path + "*")
	require.NoError(t, err)
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.NotContains(t, string(content), secret)
	}

	manager := keyset.NewManagerFromHandle(handle)
	id, err := manager.Add(aead.XChaCha20Poly1305KeyTemplate())
	require.NoError(t, err)
	require.NoError(t, manager.SetPrimary(id))
	handle, err = manager.Handle()
	require.NoError(t, err)
	rotated, err := aead.New(handle)
	require.NoError(t, err)
	q, err = durable.Open(path, durable.Config{Encryption: rotated})
	require.NoError(t, err)
	dead := deadLetters(t, q, durable.Filter{})
	require.Len(t, dead, 1)
	one, err := q.Inspect(t.Context(), dead[0].ID)
	require.NoError(t, err)
	assert.JSONEq(t, `{"card":"`+secret+`"}`, string(one.Payload.Body))
	assert.Contains(t, string(one.History[0].Response.Body), secret)
	require.NoError(t, q.Close(t.Context()))

	q, err = durable.Open(path, durable.Config{})
	require.NoError(t, err)
	_, err = q.Inspect(t.Context(), dead[0].ID)
	require.ErrorContains(t, err, "encrypted, and no Config.Encryption is given")
	require.NoError(t, q.Close(t.Context()))
}
