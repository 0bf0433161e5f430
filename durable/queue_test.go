package durable_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/fanouttest"
	"github.com/fanout-go/fanout/internal/pgtest"
)

func TestSubmit_ToADatabaseThatIsAwayIsRefused(t *testing.T) {
	server := pgtest.New(t)
	pool := connect(t, server.URL)
	q, err := durable.OpenPostgres(pool, durable.Config{})
	require.NoError(t, err)
	require.NoError(t, q.Migrate(t.Context()))
	sender := fanouttest.NewSender()
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{sender.Target("ledger")}})
	submit(t, d, "before")
	eventually(t, func() bool { return sender.Count() == 1 }, "what was submitted before")
	server.Kill()
	_, err = d.Submit(t.Context(), "meanwhile")
	require.ErrorContains(t, err, "durable: not accepted: ")
	require.NoError(t, server.Start())
	eventually(t, func() bool { _, err := d.Submit(t.Context(), "after"); return err == nil }, "the pool to notice")
	eventually(t, func() bool { return sender.Count() >= 2 }, "what was submitted after")
}

func TestStart_IsForOneDispatcher(t *testing.T) {
	q, _ := inFile(t, durable.Config{})
	dispatcher(t, q, fanout.Config{})
	_, err := fanout.New(fanout.Config{Queue: q})
	require.ErrorContains(t, err, "a queue is for one dispatcher, and has one")
}

func TestQueue_KeepsTheContract(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		fanouttest.TestQueue(t, func(t *testing.T) fanout.Queue {
			q, _ := open(t, durable.Config{})
			return q
		})
	})
}

func TestClose_WhatItCutShortIsMadeByTheNextProcess(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, again := open(t, durable.Config{Schedule: []time.Duration{}})
		begun := make(chan string, 1)
		d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{{Name: "ledger", Sender: fanout.SenderFunc(func(ctx context.Context, r *fanout.Request) (*fanout.Response, error) {
			begun <- r.Key
			<-ctx.Done()
			return nil, ctx.Err()
		})}}})
		id := submit(t, d, "entry")
		key := <-begun
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		require.NoError(t, d.Close(ctx))

		var results fanouttest.Results
		ledger := fanouttest.NewSender()
		dispatcher(t, again(t, durable.Config{}), fanout.Config{Targets: []fanout.Target{ledger.Target("ledger")}, OnResult: results.OnResult})
		assert.Equal(t, fanout.Delivered, wait(t, &results, id)["ledger"].Outcome)
		assert.Equal(t, key, ledger.Requests()[0].Key)
	})
}

func TestInTx_CommittedIsDeliveredAndRolledBackNeverWas(t *testing.T) {
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
			return submit(t, d, id, durable.InTx(tx)), tx.Commit, tx.Rollback
		}
		_, _, rollback := order("rolled back")
		require.NoError(t, rollback())
		id, commit, _ := order("committed")
		require.NoError(t, commit())
		assert.Equal(t, fanout.Delivered, wait(t, &results, id)["ledger"].Outcome)
		time.Sleep(1200 * time.Millisecond) // longer than the time after which a lane looks by itself
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
		submit(t, d, "rolled back", durable.InTx(tx))
		require.NoError(t, tx.Rollback(t.Context()))
		tx, err = pool.Begin(t.Context())
		require.NoError(t, err)
		id := submit(t, d, "committed", durable.InTx(tx))
		require.NoError(t, tx.Commit(t.Context()))
		assert.Equal(t, fanout.Delivered, wait(t, &results, id)["ledger"].Outcome)
		time.Sleep(1200 * time.Millisecond)
		require.Equal(t, 1, sender.Count())
		assert.Equal(t, `"committed"`, string(sender.Requests()[0].Body))
	})
}

func TestInTx_OfAnotherKindIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{})
		d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{fanouttest.NewSender().Target("ledger")}})
		_, err := d.Submit(t.Context(), "entry", durable.InTx("no transaction"))
		require.ErrorIs(t, err, fanout.ErrInvalid)
		require.ErrorContains(t, err, "InTx: is a string, but this queue needs a ")
	})
}

func TestID_IsAcceptedOnceForEachTarget(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, again := open(t, durable.Config{})
		first, second := fanouttest.NewSender(), fanouttest.NewSender()
		var results fanouttest.Results
		config := fanout.Config{Targets: []fanout.Target{first.Target("first"), second.Target("second")}, OnResult: results.OnResult}
		d := dispatcher(t, q, config)
		for range 3 {
			assert.Equal(t, "order-7", submit(t, d, fanout.Payload{ID: "order-7", Value: "entry"}, fanout.To("first")))
		}
		_ = wait(t, &results, submit(t, d, "entry", fanout.To("first")))
		closeNow(t, d)
		d = dispatcher(t, again(t, durable.Config{}), config)
		submit(t, d, fanout.Payload{ID: "order-7", Value: "entry"})
		eventually(t, func() bool { return second.Count() == 1 }, "the target that did not have it")
		_ = wait(t, &results, submit(t, d, "entry", fanout.To("first")))
		assert.Equal(t, 3, first.Count(), "order-7 once, and two others")
	})
}

func TestID_IsAcceptedOnceForEachSetOfTargetsThatDependOnEachOther(t *testing.T) {
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
			submit(t, d, fanout.Payload{ID: "order-1", Value: "order"}, fanout.To("a", "b"))
			submit(t, d, fanout.Payload{ID: "order-1", Value: "order"}, fanout.To("d", "c"))
			submit(t, d, fanout.Payload{ID: "order-1", Value: "order"}, fanout.To("c", "d"))
		}
		eventually(t, func() bool { return senders["b"].Count() > 0 && senders["d"].Count() > 0 }, "both sets")
		closeNow(t, d)
		for name, sender := range senders {
			assert.Equal(t, 1, sender.Count(), name)
		}
	})
}

func TestSubmit_WhoseCallerGoesAwayIsAcceptedOrNot(t *testing.T) {
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

func TestSubmitOnly_LeavesTheDeliveriesToOthers(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, again := open(t, durable.Config{SubmitOnly: true})
		never, ledger := fanouttest.NewSender(), fanouttest.NewSender()
		front := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{never.Target("ledger")}})
		submit(t, front, "entry")
		submit(t, front, "ordered", durable.InOrder("k"))
		dispatcher(t, again(t, durable.Config{}), fanout.Config{Targets: []fanout.Target{ledger.Target("ledger")}})
		eventually(t, func() bool { return ledger.Count() == 2 }, "both, at the other process")
		submit(t, front, "later")
		eventually(t, func() bool { return ledger.Count() == 3 }, "what is submitted while it runs")
		assert.Zero(t, never.Count())
	})
}

func TestSubmit_ThatWaitsForPostgresEndsWithItsContext(t *testing.T) {
	q, _ := inPostgres(t, durable.Config{})
	ledger := fanouttest.NewSender()
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{ledger.Target("ledger")}})
	tx, err := q.DB().Begin()
	require.NoError(t, err)
	_, err = tx.Exec("LOCK TABLE fanout.river_job IN ACCESS EXCLUSIVE MODE")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = d.Submit(ctx, "entry")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Less(t, time.Since(began), 5*time.Second, "less than a Submit without an end would take")
	require.NoError(t, tx.Rollback())
	submit(t, d, "later")
	eventually(t, func() bool { return ledger.Count() == 1 }, "what was accepted, and nothing else")
}

func TestSubmit_OfSomethingUnexpectedDoesNotPanic(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{})
		for _, d := range []fanout.Delivery{{}, {Payload: &fanout.Payload{ID: "a"}}, {Targets: []string{"ledger"}}} {
			require.ErrorIs(t, q.Submit(t.Context(), []fanout.Delivery{d}), fanout.ErrInvalid)
		}
		require.NoError(t, q.Submit(t.Context(), nil))
		require.EqualError(t, q.Start(nil), "durable: no worker is given to Start")
		d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{fanouttest.NewSender().Target("ledger")}})
		for _, tx := range []any{(*sql.Tx)(nil), (*pgxpool.Tx)(nil)} {
			_, err := d.Submit(t.Context(), "entry", durable.InTx(tx))
			require.EqualError(t, err, "fanout: InTx: is nil")
		}
	})
}

func TestOpenSQLite_LeavesTheDatabaseToItsOwner(t *testing.T) {
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "service.db")+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate")
	require.NoError(t, err)
	db.SetMaxOpenConns(1)
	q, err := durable.OpenSQLite(db, durable.Config{})
	require.NoError(t, err)
	_, err = fanout.New(fanout.Config{Queue: q})
	require.ErrorIs(t, err, durable.ErrNotMigrated)
	require.NoError(t, q.Migrate(t.Context()), "a queue that New refused is still open")
	var results fanouttest.Results
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{fanouttest.NewSender().Target("ledger")}, OnResult: results.OnResult})
	assert.Equal(t, fanout.Delivered, wait(t, &results, submit(t, d, "entry"))["ledger"].Outcome)
	closeNow(t, d)
	require.NoError(t, db.Ping(), "the queue is closed, the database is not")
	require.NoError(t, db.Close())
	_, err = durable.OpenSQLite(nil, durable.Config{})
	require.EqualError(t, err, "durable: the database is nil")
	_, err = durable.OpenPostgres(nil, durable.Config{})
	require.EqualError(t, err, "durable: the pool is nil")
}
