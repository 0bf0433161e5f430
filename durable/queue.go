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
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable/internal/river"
)

// Queue is a [fanout.Queue] that lasts. Make one with [Open], [OpenSQLite] or
// [OpenPostgres] and give it to one dispatcher. [fanout.Dispatcher.Close] closes it. If
// [fanout.New] fails, the queue is still yours: call [Queue.Close].
//
// A queue that no dispatcher was made with delivers nothing. It can list and replay dead
// letters, and hold and resume targets, also for a service that runs in another process.
// Close such a queue yourself.
type Queue struct {
	config Config
	db     *sql.DB
	owned  bool // db is closed with the queue
	engine *river.Engine
	sealer sealer

	mu      sync.Mutex
	started bool
	closed  bool
	ended   chan struct{} // closed when Close is done, err written before
	err     error
}

// Open opens the SQLite file at path. It makes the file and the tables if need be. One
// process at a time delivers from a file. If there is an error, nothing is left open.
//
// The file has one connection. To use it for tables of your own, in transactions
// given to [InTx], take [Queue.DB]. While a transaction of yours is open,
// nothing else happens in the file, and a Submit without InTx waits for its end.
func Open(path string, config Config) (*Queue, error) {
	db, err := openFile(path)
	if err != nil {
		return nil, fmt.Errorf("durable: %s: %w", path, err)
	}
	q, err := OpenSQLite(db, config)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	q.owned = true
	if err := q.Migrate(context.Background()); err != nil {
		return nil, fmt.Errorf("%w (%s)", errors.Join(err, db.Close()), path)
	}
	return q, nil
}

// OpenSQLite keeps deliveries in an SQLite database that you have opened, by the driver
// modernc.org/sqlite. [Queue.Migrate] makes the tables. The database is yours to close,
// after the dispatcher, and also if there is an error.
//
// Open it as [Open] does, or accept what is lost otherwise: journal_mode(WAL),
// synchronous(FULL), without which a power cut can take back what was accepted,
// busy_timeout(10000), _txlock=immediate, and SetMaxOpenConns(1), as SQLite has one
// writer.
func OpenSQLite(db *sql.DB, config Config) (*Queue, error) {
	if db == nil {
		return nil, errors.New("durable: the database is nil")
	}
	config, err := config.withDefaults(true)
	if err != nil {
		return nil, err
	}
	e, err := river.OpenSQLite(db, config.engine())
	if err != nil {
		return nil, named(err)
	}
	return newQueue(db, config, e), nil
}

// OpenPostgres keeps deliveries in the database of the pool, in the schema that
// [Config.Schema] names. [Queue.Migrate] makes it. Any number of processes may deliver
// from it. The pool is yours to close, after the dispatcher, and also if there is an error.
//
// The schema may be that of a River you have. Then every client of that River must keep
// discarded and cancelled jobs for ever, as they are dead letters: set
// DiscardedJobRetentionPeriod and CancelledJobRetentionPeriod to -1 in River's Config.
func OpenPostgres(pool *pgxpool.Pool, config Config) (*Queue, error) {
	if pool == nil {
		return nil, errors.New("durable: the pool is nil")
	}
	config, err := config.withDefaults(false)
	if err != nil {
		return nil, err
	}
	db := stdlib.OpenDBFromPool(pool)
	e, err := river.OpenPostgres(pool, db, config.Schema, config.engine())
	if err != nil {
		return nil, errors.Join(named(err), db.Close())
	}
	q := newQueue(db, config, e)
	q.owned = true
	return q, nil
}

func newQueue(db *sql.DB, config Config, e *river.Engine) *Queue {
	return &Queue{config: config, db: db, engine: e, sealer: sealer{config.Encryption, config.AcceptPlaintext}, ended: make(chan struct{})}
}

// Migrate makes the tables, or brings them up to date. [Open] does it by itself. Several
// processes may do it at the same time.
func (q *Queue) Migrate(ctx context.Context) error { return named(q.engine.Schema.Migrate(ctx)) }

// Migrations is the SQL that [Queue.Migrate] runs on an empty database, River's and
// then that of this package, for those who run it themselves.
func (q *Queue) Migrations() string { return q.engine.Schema.SQL() }

// ErrNotMigrated says that tables are missing, or older than this package.
var ErrNotMigrated = river.ErrNotMigrated

// Ready reports whether the database can be reached and is migrated. If it is not
// migrated, the error is [ErrNotMigrated].
func (q *Queue) Ready(ctx context.Context) error { return named(q.engine.Schema.Ready(ctx)) }

// DB is the database, for tables of your own beside the queue's. It is closed as [Open],
// [OpenSQLite] or [OpenPostgres] says: the handle to a pool with the queue, though not
// the pool.
func (q *Queue) DB() *sql.DB { return q.db }

// named says which package an error comes from.
func named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("durable: %w", err)
}

const startTimeout = 30 * time.Second

// Start implements [fanout.Queue]: deliveries begin. If it fails, the queue is not closed.
func (q *Queue) Start(worker *fanout.Worker) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case worker == nil:
		return errors.New("durable: no worker is given to Start")
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
	if !q.config.SubmitOnly {
		rounds := &rounds{config: &q.config, worker: worker, sealer: q.sealer, journal: q.engine.Journal}
		if err := q.engine.Start(ctx, rounds.work); err != nil {
			return named(err)
		}
	}
	q.started = true
	return nil
}

// Submit implements [fanout.Queue]. When it returns nil, the deliveries are on disk, or will be
// when the caller's transaction is committed.
func (q *Queue) Submit(ctx context.Context, deliveries []fanout.Delivery) error {
	q.mu.Lock()
	closed := q.closed
	q.mu.Unlock()
	if closed {
		return fanout.ErrClosed
	}
	if len(deliveries) == 0 {
		return nil
	}
	inserts, tx, err := q.inserts(ctx, deliveries)
	if err != nil {
		return err
	}
	err = q.engine.Insert(ctx, tx, inserts)
	if wrongTx, ok := errors.AsType[*river.TxError](err); ok {
		return &fanout.InvalidError{Field: optionInTx, Err: wrongTx}
	}
	return q.notAccepted(err)
}

// inserts are the deliveries as jobs, and the transaction to insert them in, if there is one.
func (q *Queue) inserts(ctx context.Context, deliveries []fanout.Delivery) (inserts []river.Insert, tx any, err error) {
	var asked asked
	for i := range deliveries {
		d := &deliveries[i]
		if asked, err = askedOf(d); err != nil { // all of a dispatch ask for the same
			return nil, nil, err
		}
		if err = storable(d, q.config.MaxPayloadBytes); err != nil {
			return nil, nil, err
		}
	}
	jobs, err := q.sealer.jobs(ctx, deliveries)
	if err != nil {
		return nil, nil, named(err)
	}
	inserts = make([]river.Insert, len(jobs))
	for i, job := range jobs {
		inserts[i] = river.Insert{Job: job, Rounds: len(q.config.schedule(job.Names()[0])) + 1, Once: deliveries[i].Named, OrderKey: string(asked.order)}
	}
	return inserts, asked.tx, nil
}

func (q *Queue) notAccepted(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded) && q.db.Stats().MaxOpenConnections == 1:
		return fmt.Errorf("durable: not accepted, as the database's one connection was busy: does a transaction of yours wait for this Submit, which needs InTx then? %w", err)
	}
	return fmt.Errorf("durable: not accepted: %w", err)
}

// cutGrace is how long Close waits, after its context has ended, for what was cut short.
const cutGrace = 6 * time.Second

// Close implements [fanout.Queue]: what is being delivered is finished, or, when ctx
// ends, cut short and handed back, without using up a round. All that is not
// delivered stays in the database. It may be called more than once.
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
	case <-time.After(cutGrace):
		return fmt.Errorf("durable: still closing: %w", ctx.Err())
	}
}

func (q *Queue) shutDown(ctx context.Context) error {
	err := named(q.engine.Stop(ctx))
	if q.owned {
		err = errors.Join(err, q.db.Close())
	}
	return err
}
