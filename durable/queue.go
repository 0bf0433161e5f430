// Package durable stores what is submitted to a [fanout.Dispatcher] in a database until
// it is delivered. The database is an SQLite file beside the service, or Postgres for
// several machines. The package is built on River.
//
//	queue, err := durable.Open("deliveries.db", durable.Config{})
//	dispatcher, err := fanout.New(fanout.Config{Targets: targets, Queue: queue})
//	id, err := dispatcher.Submit(ctx, signup) // survives a crash from here on
//
// Every delivery is made at least once. For example, a process may die after a target has
// acted and before the database says so. The delivery is then made a second time, with
// the same idempotency key, by which the target can recognize it.
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

// Queue is a [fanout.Queue] that stores deliveries in a database. Make one with [Open],
// [OpenSQLite] or [OpenPostgres], and give it to one dispatcher.
// [fanout.Dispatcher.Close] closes it. If [fanout.New] fails, call [Queue.Close]
// yourself.
//
// A queue without a dispatcher delivers nothing. It can list and replay dead letters, and
// hold and resume targets, also for a service that runs in another process. Close such a
// queue yourself, too.
type Queue struct {
	config Config
	db     *sql.DB
	owned  bool // the queue closes db
	engine *river.Engine
	sealer sealer

	mu      sync.Mutex
	started bool
	closed  bool
	ended   chan struct{} // closed when Close is done; err is written before that
	err     error
}

// Open opens the SQLite file at path. It creates the file and the tables if they do not
// exist. Only one process at a time can deliver from a file. If there is an error,
// nothing is left open.
//
// The file has a single connection, [Queue.DB], which you can use for your own tables,
// also in transactions for [InTx]. While one of your transactions is open, nothing else
// can use the file: a Submit without InTx waits until the transaction ends, and gives up
// after 10 s.
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

// OpenSQLite uses an SQLite database that you have opened with the driver
// modernc.org/sqlite. [Queue.Migrate] creates the tables. You close the database: after
// the dispatcher, or if there is an error.
//
// Open it with the settings that [Open] uses: journal_mode(WAL), synchronous(FULL),
// busy_timeout(10000), _txlock=immediate, and SetMaxOpenConns(1), because SQLite has one
// writer. Without synchronous(FULL), for example, a power failure can undo a Submit that
// has returned.
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

// OpenPostgres uses the database of the pool, in the schema that [Config.Schema] names.
// [Queue.Migrate] creates the schema and its tables. Any number of processes can deliver
// from it. You close the pool: after the dispatcher, or if there is an error.
//
// The schema may be one that your own River uses. In that case every client of that River
// must keep discarded and cancelled jobs forever, because dead letters are such jobs: set
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

// Migrate creates the tables, or brings them up to date. [Open] does this by itself.
// Several processes can call it at the same time.
func (q *Queue) Migrate(ctx context.Context) error { return named(q.engine.Schema.Migrate(ctx)) }

// Migrations returns the SQL that [Queue.Migrate] runs on an empty database, for people
// who run migrations themselves: first River's, then that of this package.
func (q *Queue) Migrations() string { return q.engine.Schema.SQL() }

// ErrNotMigrated says that tables are missing, or belong to an older version of this
// package.
var ErrNotMigrated = river.ErrNotMigrated

// Ready reports whether the database can be reached and has its tables. If tables are
// missing or old, the error is [ErrNotMigrated].
func (q *Queue) Ready(ctx context.Context) error { return named(q.engine.Schema.Ready(ctx)) }

// DB returns the database, which you can use for your own tables. For a queue of [Open],
// it is closed with the queue. For one of [OpenSQLite], it is the database that you gave,
// which you close. For one of [OpenPostgres], it is a handle to your pool: the handle is
// closed with the queue, the pool is not.
func (q *Queue) DB() *sql.DB { return q.db }

// named puts the name of the package before an error.
func named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("durable: %w", err)
}

// startTimeout limits how long Start waits for the database.
const startTimeout = 30 * time.Second

// Start implements [fanout.Queue]. Deliveries begin, unless [Config.SubmitOnly] is set.
// It fails if the tables are missing, or if another process delivers from the same file.
// If it fails, the queue is not closed.
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

// Submit implements [fanout.Queue]. When it returns nil, the deliveries are on disk. If
// they were submitted with [InTx], they are on disk when the transaction is committed.
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

// inserts returns the deliveries as jobs, and the transaction of the caller, which is nil
// if there is none.
func (q *Queue) inserts(ctx context.Context, deliveries []fanout.Delivery) (inserts []river.Insert, tx any, err error) {
	var asked asked
	for i := range deliveries {
		d := &deliveries[i]
		if asked, err = askedOf(d); err != nil { // all deliveries of a dispatch have the same options
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

// notAccepted says that nothing was accepted. If the only connection was busy, it names
// the usual cause: the caller holds a transaction and forgot InTx.
func (q *Queue) notAccepted(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded) && q.db.Stats().MaxOpenConnections == 1:
		return fmt.Errorf("durable: not accepted: the database's only connection was busy; if your own transaction waits for this Submit, give it InTx: %w", err)
	}
	return fmt.Errorf("durable: not accepted: %w", err)
}

// cutGrace is how long Close still waits, after its context has ended, for the deliveries
// that it cut short.
const cutGrace = 6 * time.Second

// Close implements [fanout.Queue]. It waits for the deliveries that are running. If ctx
// ends before, they are cut short, and the round that they were in does not count.
// Everything that is not delivered stays in the database. Close may be called more than
// once. It returns an error if deliveries still run six seconds after ctx has ended.
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
