package durable_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/fanouttest"
)

func Example() {
	dir, err := os.MkdirTemp("", "fanout")
	if err != nil {
		log.Fatal(err)
	}
	file := filepath.Join(dir, "deliveries.db")
	email, crm := fanouttest.NewSender(), fanouttest.NewSender()
	targets := []fanout.Target{email.Target("email"), crm.Target("crm")}
	var results fanouttest.Results
	ctx := context.Background()
	signup := map[string]string{"email": "ada@example.com"}

	queue, err := durable.Open(file, durable.Config{})
	if err != nil {
		log.Fatal(err)
	}
	d, err := fanout.New(fanout.Config{Targets: targets, Queue: queue, OnResult: results.OnResult})
	if err != nil {
		log.Fatal(err)
	}
	id, err := d.Submit(ctx, signup) // on disk when it returns

	if err != nil {
		log.Fatal(err)
	}
	got, err := results.Wait(ctx, id, "email", "crm")
	fmt.Println(got["email"].Outcome, got["crm"].Outcome, err)
	if err := d.Close(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: delivered delivered <nil>
}

func Example_outbox() {
	dir, err := os.MkdirTemp("", "fanout")
	if err != nil {
		log.Fatal(err)
	}
	queue, err := durable.Open(filepath.Join(dir, "deliveries.db"), durable.Config{})
	if err != nil {
		log.Fatal(err)
	}
	var results fanouttest.Results
	d, err := fanout.New(fanout.Config{Queue: queue, OnResult: results.OnResult, Targets: []fanout.Target{fanouttest.NewSender().Target("stock")}})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	order := map[string]int{"number": 42}
	if _, err := queue.DB().ExecContext(ctx, "CREATE TABLE orders (id text)"); err != nil {
		log.Fatal(err)
	}
	buy := func() error {
		tx, err := queue.DB().BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if _, err := tx.ExecContext(ctx, "INSERT INTO orders (id) VALUES (?)", "42"); err != nil {
			return err
		}
		if _, err := d.Submit(ctx, fanout.Payload{ID: "order-42", Value: order}, durable.InTx(tx)); err != nil {
			return err
		}
		return tx.Commit()
	}
	fmt.Println(buy())
	got, err := results.Wait(ctx, "order-42")
	fmt.Println(got["stock"].Outcome, got["stock"].Key, err, d.Close(ctx))
	// Output:
	// <nil>
	// delivered order-42:stock <nil> <nil>
}

func TestExamples_ForPostgresRun(t *testing.T) {
	_, url := database(t)
	ctx := t.Context()
	targets := []fanout.Target{fanouttest.NewSender().Target("crm")}
	open := func() (*durable.Queue, error) {
		pool, err := pgxpool.New(ctx, url)
		if err != nil {
			return nil, err
		}
		t.Cleanup(pool.Close)
		queue, err := durable.OpenPostgres(pool, durable.Config{})
		if err != nil {
			return nil, err
		}
		err = queue.Migrate(ctx) // or see queue.Migrations()
		return queue, err
	}
	queue, err := open()
	require.NoError(t, err)
	d, err := fanout.New(fanout.Config{Targets: targets, Queue: queue})
	require.NoError(t, err)
	closeNow(t, d)

	pool := connect(t, url)
	_, err = pool.Exec(ctx, "CREATE SCHEMA yours")
	require.NoError(t, err)
	queue, err = durable.OpenPostgres(pool, durable.Config{Schema: "yours"}) // where River's tables are
	require.NoError(t, err)
	require.NoError(t, queue.Migrate(ctx))
	require.NoError(t, queue.Close(ctx))
}

func TestExamples_ForDeadLettersRun(t *testing.T) {
	config := durable.Config{
		Schedule: []time.Duration{time.Minute, time.Hour, 12 * time.Hour}, // then it is a dead letter
		Targets:  map[string]durable.TargetConfig{"crm": {Concurrency: 8}},
		Final:    func(r fanout.Result) bool { return durable.Final(r) || fanout.ClassOf(r.Err()) == "422" },
	}
	q, _ := inFile(t, config)
	require.NoError(t, q.Close(t.Context()))

	queue, _ := inFile(t, durable.Config{})
	ctx := t.Context()
	d := dispatcher(t, queue, fanout.Config{Targets: []fanout.Target{sending("crm", func(*fanout.Request) error { return fanout.Permanent(errDown) })}})
	submit(t, d, "entry")
	eventually(t, func() bool { return len(deadLetters(t, queue, durable.Filter{})) == 1 }, "a dead letter")
	replay := func() error {
		for dead, err := range queue.DeadLetters(ctx, durable.Filter{Target: "crm", Since: time.Now().Add(-time.Hour)}) {
			if err != nil {
				return err
			}
			fmt.Println(dead.DispatchID, dead.Rounds, dead.Error)
		}
		n, err := queue.ReplayAll(ctx, durable.Filter{Target: "crm"}, durable.Bulk{PerSecond: 20})
		require.Equal(t, 1, n)
		return err
	}
	require.NoError(t, replay())
}

func TestExamples_ForEncryptionRun(t *testing.T) {
	keys, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "deliveries.db")
	open := func() (*durable.Queue, error) {
		cipher, err := aead.New(keys) // a keyset of Tink, from your key manager
		if err != nil {
			return nil, err
		}
		return durable.Open(file, durable.Config{Encryption: cipher})
	}
	queue, err := open()
	require.NoError(t, err)
	require.NoError(t, queue.Close(t.Context()))
}
