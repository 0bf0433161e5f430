// Package river stores and schedules deliveries with River, in an SQLite file or in
// Postgres. Everything that knows River, its tables, and the tables beside them, is in
// this package. Only package durable knows what a delivery is, and what its results mean.
package river

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
)

// Engine stores deliveries as River's jobs, and calls a [Work] function for them.
type Engine struct {
	Schema      *Schema
	Holds       *Holds
	Journal     *Journal
	DeadLetters *DeadLetters

	tables      *tables
	lease       lease
	client      client
	lanes       *lanes
	order       *order
	worker      *worker
	logger      *slog.Logger
	maintenance *maintenance

	started     bool
	stopWorking context.CancelFunc
	working     sync.WaitGroup
	stopAlive   context.CancelFunc
	alive       sync.WaitGroup
}

// OpenSQLite stores deliveries in the file of db. The caller closes db after Stop.
func OpenSQLite(db *sql.DB, c Config) (*Engine, error) {
	t := newTables(db, sqlite, "")
	lock, err := newFileLock(t)
	if err != nil {
		return nil, err
	}
	driver := newWakingDriver(riversqlite.New(db))
	e := newEngine(t, lock, c)
	e.lanes.wakeOpen = driver.listener.wake
	return connect(e, driver, c)
}

// OpenPostgres stores deliveries in a schema of the pool's database. db is a handle to
// the same database. The caller closes both after Stop.
func OpenPostgres(pool *pgxpool.Pool, db *sql.DB, schema string, c Config) (*Engine, error) {
	t := newTables(db, postgres, schema)
	e := newEngine(t, newMembership(t, c.TakeOver), c)
	e.lanes.announce = t.notify
	return connect(e, riverpgxv5.New(pool), c)
}

func newEngine(t *tables, l lease, c Config) *Engine {
	e := &Engine{tables: t, lease: l, logger: c.Logger}
	e.Journal = &Journal{t}
	e.Holds = &Holds{tables: t}
	e.lanes = &lanes{tables: t, holds: e.Holds, concurrency: c.Concurrency, complain: e.complain, idleFor: time.Minute, byName: map[string]*lane{}}
	e.Holds.released = e.openLanes
	e.order = &order{tables: t, lanes: e.lanes, self: l.id(), complain: e.complain, looks: make(chan struct{}, 1), due: map[sequence]bool{}}
	e.DeadLetters = &DeadLetters{t, e.lanes, e.order}
	r := &running{tables: t, self: l.id(), ends: map[int64]time.Time{}}
	e.worker = &worker{lanes: e.lanes, holds: e.Holds, running: r, order: e.order}
	e.maintenance = &maintenance{e.Holds, e.lanes, e.order, r, e.Journal, e.complain}
	return e
}

func connect[Tx any](e *Engine, driver riverdriver.Driver[Tx], c Config) (*Engine, error) {
	schema, err := newSchema(e.tables, driver, c.Logger)
	if err != nil {
		return nil, err
	}
	client, err := newClient(driver, e.lease.id(), e.tables.schema, c, e.worker)
	if err != nil {
		return nil, err
	}
	e.Schema, e.client, e.lanes.client = schema, client, client
	return e, nil
}

// complain logs the failure of something that is tried again.
func (e *Engine) complain(what string, err error) {
	e.logger.Error("durable: "+what+" failed, and is tried again", "error", err)
}

// openLanes is called when a target was resumed.
func (e *Engine) openLanes(ctx context.Context) error {
	if !e.lanes.delivering.Load() {
		return nil
	}
	return e.lanes.openWithWork(ctx)
}

// Backlog counts the deliveries that are not finished, by target.
func (e *Engine) Backlog(ctx context.Context) (map[string]Waiting, error) {
	return e.tables.backlog(ctx)
}

// Start begins to call work, from several goroutines, once for each round of each job. It
// does so until Stop. The end of ctx ends only Start itself. Start is called once.
func (e *Engine) Start(ctx context.Context, work Work) error {
	if err := e.lease.take(ctx); err != nil {
		return err
	}
	e.worker.work = work
	if err := e.client.start(); err != nil {
		return errors.Join(err, e.lease.giveBack(ctx))
	}
	e.lanes.delivering.Store(true)
	e.started = true
	var working, alive context.Context
	working, e.stopWorking = context.WithCancel(context.WithoutCancel(ctx))
	alive, e.stopAlive = context.WithCancel(context.WithoutCancel(ctx))
	e.alive.Go(func() { e.stayAlive(alive) })
	e.working.Go(func() { e.maintenance.run(working) })
	e.working.Go(func() { e.order.follow(working, e.client) })
	return nil
}

// stayAlive renews the lease. It continues during Stop until the last delivery has ended.
// Otherwise other processes would take over deliveries that are still running.
func (e *Engine) stayAlive(ctx context.Context) {
	everySecond(ctx, func(int) {
		if err := e.lease.renew(ctx); err != nil && ctx.Err() == nil {
			e.complain("saying that this process is alive", err)
		}
	})
}

// Stop waits until deliveries have ended. If ctx ends before, it cuts them short.
//
// If some do not end even then, the lease is not given back, so that nobody takes over at
// once what is still running. An SQLite file stays locked until the process exits. On
// Postgres the lease expires after TakeOver, as nobody renews it any more.
func (e *Engine) Stop(ctx context.Context) error {
	if !e.started {
		return nil
	}
	e.stopWorking()
	e.working.Wait()
	err := e.client.stop(ctx)
	e.stopAlive()
	e.alive.Wait()
	if err != nil {
		return fmt.Errorf("some deliveries did not end; they will be made again: %w", err)
	}
	return e.lease.giveBack(context.WithoutCancel(ctx))
}

// Insert accepts all jobs or none. If tx is not nil, it inserts them in that transaction
// of the caller.
func (e *Engine) Insert(ctx context.Context, tx any, all []Insert) error {
	ctx, cancel := context.WithTimeout(ctx, insertTimeout)
	defer cancel()
	if err := e.usable(ctx, tx); err != nil {
		return err
	}
	params := make([]river.InsertManyParams, len(all))
	for i, one := range all {
		params[i] = one.params()
	}
	if err := e.client.insert(ctx, tx, params); err != nil {
		return err
	}
	if !e.lanes.delivering.Load() {
		return nil
	}
	for i, one := range all {
		lane := params[i].InsertOpts.Queue
		e.lanes.wake(lane, one.Job.Names())
		if one.OrderKey != "" {
			e.order.look(sequence{lane, one.OrderKey})
		}
	}
	return nil
}

// usable refuses a transaction that is a nil pointer, which would panic later. On SQLite
// it also refuses a transaction of another file.
func (e *Engine) usable(ctx context.Context, tx any) error {
	if tx == nil {
		return nil
	}
	if v := reflect.ValueOf(tx); v.Kind() == reflect.Pointer && v.IsNil() {
		return &TxError{errors.New("is nil")}
	}
	if file, ok := e.lease.(*fileLock); ok {
		return file.owns(ctx, tx)
	}
	return nil
}
