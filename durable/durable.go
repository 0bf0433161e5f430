// Package durable keeps what is submitted to a [fanout.Dispatcher] in a database until
// it is delivered: in an SQLite file beside the service, or in Postgres for several
// machines. It is built on River.
//
//	queue, err := durable.Open("deliveries.db", durable.Config{})
//	dispatcher, err := fanout.New(fanout.Config{Targets: targets, Queue: queue})
//	id, err := dispatcher.Submit(ctx, signup) // survives a crash from here on
//
// Every delivery is made at least once. One whose process died, or whose answer was
// lost, is made again with the same idempotency key.
package durable

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"

	"github.com/fanout-go/fanout"
)

// Queue is a [fanout.Queue] that lasts. Make one with [Open], [OpenPostgres] or [New],
// give it to one dispatcher, and have that close it.
//
// A queue that no dispatcher was made with delivers nothing, but can be asked for its
// dead letters, have them replayed, and hold and resume targets: so can a second
// process.
type Queue struct {
	config Config
	engine engine
	store  *store
	guard  guard
	owned  *sql.DB // closed with the queue
	logger *slog.Logger
	lanes  lanes
	order  order
	holds  sync.Mutex // while they are read

	worker atomic.Pointer[fanout.Worker] // nil until Start, and if it only submits

	mu      sync.Mutex
	started bool
	closed  bool
	stop    context.CancelFunc // of what runs in the background
	running sync.WaitGroup
	retire  context.CancelFunc // of stayAlive
	alive   sync.WaitGroup
	ended   chan struct{} // closed when Close is done, closeErr written before
	err     error
}

// Open opens the SQLite file at path, made and migrated if need be. One process at a
// time delivers from a file.
//
// The file has one connection. To use it for tables of your own, in transactions
// given to [fanout.InTx], take [Queue.DB]; while a transaction of yours is open,
// nothing else happens in the file, and a Submit without InTx waits for its end.
func Open(path string, config Config) (*Queue, error) {
	db, err := openFile(path)
	if err != nil {
		return nil, fmt.Errorf("durable: %s: %w", path, err)
	}
	q, err := New(riversqlite.New(db), db, config)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if err := q.Migrate(context.Background()); err != nil {
		return nil, fmt.Errorf("%w (%s)", errors.Join(err, db.Close()), path)
	}
	q.owned = db
	return q, nil
}

// OpenPostgres keeps deliveries in the database of the pool, in the schema that
// [Config.Schema] names, which [Queue.Migrate] makes. Any number of processes may
// deliver from it. The caller closes the pool, after the dispatcher.
func OpenPostgres(pool *pgxpool.Pool, config Config) (*Queue, error) {
	if pool == nil {
		return nil, errors.New("durable: the pool is nil")
	}
	db := stdlib.OpenDBFromPool(pool)
	q, err := New(riverpgxv5.New(pool), db, config)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	q.owned = db
	return q, nil
}

// New keeps deliveries in the tables of a River that exists, by its own driver. db is
// the same database, for tables beside River's; the caller closes it, after the
// dispatcher. In a schema that is shared with other jobs, every client must keep
// discarded and cancelled jobs for ever, as they are dead letters: see
// DiscardedJobRetentionPeriod and CancelledJobRetentionPeriod in River's Config.
func New[Tx any](driver riverdriver.Driver[Tx], db *sql.DB, config Config) (*Queue, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	q := &Queue{config: config, logger: config.Logger, ended: make(chan struct{})}
	q.lanes.init(q)
	q.order.init()
	switch name := driver.DatabaseName(); name {
	case riverdriver.DatabaseNameSQLite:
		if config.Schema != "" {
			return nil, invalid("Schema", "is for Postgres")
		}
		q.store = newStore(db, sqlite, "")
		if q.guard, err = newFileGuard(db); err != nil {
			return nil, fmt.Errorf("durable: %w", err)
		}
		waking := newWaking(driver)
		driver, q.lanes.wakeLane = waking, waking.listener.wake
	case riverdriver.DatabaseNamePostgres:
		q.store = newStore(db, postgres, cmp.Or(config.Schema, "fanout"))
		q.guard = newNodes(q.store, config.TakeOver)
		q.lanes.announce = q.store.notify
	default:
		return nil, fmt.Errorf("durable: a River driver for %q is not known", name)
	}
	q.engine, err = newEngine(driver, q)
	return q, err
}

// Ready reports whether the database can be reached and is migrated; if it is not, the
// error is [ErrNotMigrated].
func (q *Queue) Ready(ctx context.Context) error {
	if err := q.engine.validate(ctx); err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	return nil
}

// DB is the database, for tables of your own beside the queue's.
func (q *Queue) DB() *sql.DB { return q.store.db }

// Start implements [fanout.Queue]: deliveries begin.
func (q *Queue) Start(worker fanout.Worker) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return fmt.Errorf("durable: %w", fanout.ErrClosed)
	case q.started:
		return errors.New("durable: a queue is for one dispatcher, and has one")
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := q.Ready(ctx); err != nil {
		return err
	}
	if q.config.SubmitOnly {
		return nil
	}
	if err := q.guard.enter(ctx, q.store); err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	q.worker.Store(&worker)
	if err := q.engine.start(); err != nil {
		return errors.Join(fmt.Errorf("durable: %w", err), q.guard.leave(ctx))
	}
	q.started = true
	var background, life context.Context
	background, q.stop = context.WithCancel(context.Background())
	life, q.retire = context.WithCancel(context.Background())
	q.alive.Go(func() { q.stayAlive(life) })
	q.running.Go(func() { q.keepHouse(background) })
	q.running.Go(func() { q.followOrder(background) })
	return nil
}

func (q *Queue) dispatcher() fanout.Worker { return *q.worker.Load() }

// delivers reports whether this process does, and not only submits or looks.
func (q *Queue) delivers() bool { return q.worker.Load() != nil }

const (
	startTimeout = 30 * time.Second
	cutGrace     = 5 * time.Second
)

// Close implements [fanout.Queue]: what is being delivered is finished, or, when ctx
// ends, cut short and handed back, without using up a round. All that is not
// delivered stays in the database.
func (q *Queue) Close(ctx context.Context) error {
	q.mu.Lock()
	first := !q.closed
	q.closed = true
	q.mu.Unlock()
	if first {
		go func() {
			q.err = q.shutDown(ctx)
			close(q.ended)
		}()
	}
	select {
	case <-q.ended:
		return q.err
	case <-ctx.Done():
	}
	select {
	case <-q.ended:
		return q.err
	case <-time.After(cutGrace + time.Second):
		return fmt.Errorf("durable: still closing: %w", ctx.Err())
	}
}

func (q *Queue) shutDown(ctx context.Context) error {
	var errs []error
	if q.started {
		q.stop()
		q.running.Wait()
		err := q.engine.stop(ctx)
		q.retire()
		q.alive.Wait()
		if err == nil {
			errs = append(errs, q.guard.leave(context.WithoutCancel(ctx)))
		} else {
			// Its place is kept: what still runs must not be taken over.
			errs = append(errs, fmt.Errorf("durable: deliveries that do not end are kept, and made again: %w", err))
		}
	}
	if q.owned != nil {
		errs = append(errs, q.owned.Close())
	}
	return errors.Join(errs...)
}
