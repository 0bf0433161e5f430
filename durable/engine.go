package durable

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"

	"github.com/fanout-go/fanout"
)

// engine is River, whatever its transactions are.
type engine interface {
	migrate(context.Context) error
	migrations() []string
	validate(context.Context) error
	start() error
	stop(context.Context) error
	insert(ctx context.Context, tx any, jobs []river.InsertManyParams) ([]*rivertype.JobInsertResult, error)
	open(lane string, config river.QueueConfig) error
	shut(ctx context.Context, lane string) error
	failed() (<-chan *river.Event, func())
}

type riverEngine[Tx any] struct {
	driver   riverdriver.Driver[Tx]
	client   *river.Client[Tx]
	migrator *rivermigrate.Migrator[Tx]
	schema   string
}

// idleLane is there because River wants a queue to begin with. Nothing is put in it.
const idleLane = "fanout"

func newEngine[Tx any](driver riverdriver.Driver[Tx], q *Queue) (engine, error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, &worker{queue: q})
	logger := slog.New(atLeast{q.logger.Handler(), slog.LevelWarn})
	client, err := river.NewClient(driver, &river.Config{
		ID:                          q.guard.id(),
		Logger:                      logger,
		Workers:                     workers,
		Queues:                      map[string]river.QueueConfig{idleLane: {MaxWorkers: 1, FetchPollInterval: time.Hour}},
		FetchCooldown:               fetchCooldown,
		FetchPollInterval:           pollInterval,
		JobTimeout:                  -1, // a target's Timeout rules
		CompletedJobRetentionPeriod: max(q.config.Retention, -1),
		DiscardedJobRetentionPeriod: -1,
		CancelledJobRetentionPeriod: -1,
		Schema:                      q.store.schema,
	})
	if err != nil {
		return nil, fmt.Errorf("durable: %w", err)
	}
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: logger, Schema: q.store.schema})
	if err != nil {
		return nil, fmt.Errorf("durable: %w", err)
	}
	return &riverEngine[Tx]{driver, client, migrator, q.store.schema}, nil
}

// A lane fetches at once when woken, at most this often; and looks by itself this
// often.
const fetchCooldown, pollInterval = 2 * time.Millisecond, time.Second

func (e *riverEngine[Tx]) migrate(ctx context.Context) error {
	_, err := e.migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

func (e *riverEngine[Tx]) migrations() []string {
	var all, done []string
	for _, m := range e.migrator.AllVersions() {
		prefix := ""
		if e.schema != "" {
			prefix = e.schema + "."
		}
		all = append(all, strings.ReplaceAll(m.SQLUp, "/* TEMPLATE: schema */", prefix))
		done = append(done, fmt.Sprintf("INSERT INTO %sriver_migration (line, version) VALUES ('main', %d);", prefix, m.Version))
	}
	return append(all, done...)
}

func (e *riverEngine[Tx]) validate(ctx context.Context) error {
	result, err := e.migrator.Validate(ctx, nil)
	switch {
	case err != nil:
		return err
	case !result.OK:
		return fmt.Errorf("%w: %s", ErrNotMigrated, strings.Join(result.Messages, "; "))
	}
	return nil
}

func (e *riverEngine[Tx]) start() error { return e.client.Start(context.Background()) }

// stop lets what runs end until ctx does, and then cuts it short.
func (e *riverEngine[Tx]) stop(ctx context.Context) error {
	if err := e.client.Stop(ctx); err == nil {
		return nil
	}
	cut, cancel := context.WithTimeout(context.WithoutCancel(ctx), cutGrace)
	defer cancel()
	return e.client.StopAndCancel(cut)
}

func (e *riverEngine[Tx]) insert(ctx context.Context, tx any, jobs []river.InsertManyParams) ([]*rivertype.JobInsertResult, error) {
	if tx == nil {
		return e.insertOwn(ctx, jobs)
	}
	own, ok := tx.(Tx)
	if !ok {
		var want *Tx
		return nil, &fanout.InvalidError{Field: "InTx", Err: fmt.Errorf("is a %T, and this queue knows %s", tx, strings.TrimPrefix(fmt.Sprintf("%T", want), "*"))}
	}
	return e.client.InsertManyTx(ctx, own, jobs)
}

// insertOwn is in a transaction of its own. Once it is being committed to a server it
// does not end with ctx, after which nobody would know whether it took place.
func (e *riverEngine[Tx]) insertOwn(ctx context.Context, jobs []river.InsertManyParams) ([]*rivertype.JobInsertResult, error) {
	if e.schema == "" {
		return e.client.InsertMany(ctx, jobs)
	}
	tx, err := e.driver.GetExecutor().Begin(ctx)
	if err != nil {
		return nil, err
	}
	committing, cancel := context.WithTimeout(context.WithoutCancel(ctx), insertTimeout)
	defer cancel()
	inserted, err := e.client.InsertManyTx(ctx, e.driver.UnwrapTx(tx), jobs)
	if err != nil {
		return nil, errors.Join(err, tx.Rollback(committing))
	}
	return inserted, tx.Commit(committing)
}

// open leaves nothing behind if it fails: River keeps a queue that it could not start, and
// would take it for one that works.
func (e *riverEngine[Tx]) open(lane string, config river.QueueConfig) error {
	err := e.client.Queues().Add(lane, config)
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), shutTimeout)
	defer cancel()
	return errors.Join(err, e.shut(ctx, lane))
}

func (e *riverEngine[Tx]) shut(ctx context.Context, lane string) error {
	err := e.client.Queues().Remove(ctx, lane)
	if _, shut := errors.AsType[*river.QueueNotFoundError](err); shut {
		return nil
	}
	return err
}

// failed tells of rounds that did, and of dead letters.
func (e *riverEngine[Tx]) failed() (<-chan *river.Event, func()) {
	return e.client.Subscribe(river.EventKindJobCancelled, river.EventKindJobFailed)
}

// atLeast passes on what is as grave as that.
type atLeast struct {
	slog.Handler
	level slog.Level
}

func (h atLeast) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= h.level && h.Handler.Enabled(ctx, l)
}
func (h atLeast) WithAttrs(a []slog.Attr) slog.Handler {
	return atLeast{h.Handler.WithAttrs(a), h.level}
}
func (h atLeast) WithGroup(name string) slog.Handler {
	return atLeast{h.Handler.WithGroup(name), h.level}
}

// hostname is for people who look into the database.
func hostname() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "unknown"
	}
	return name[:min(len(name), 40)]
}
