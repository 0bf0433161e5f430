package river

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
)

// Config configures an [Engine]. All fields are required.
type Config struct {
	Concurrency func(target string) int
	Retention   time.Duration // how long finished jobs are kept; negative means forever
	TakeOver    time.Duration // how long a process must be silent to be taken for dead, on Postgres
	Logger      *slog.Logger
}

// client is River's client, without the type of its transactions.
type client interface {
	start() error
	stop(context.Context) error
	insert(ctx context.Context, tx any, jobs []river.InsertManyParams) error
	open(lane string, workers int) error
	shut(ctx context.Context, lane string) error
	failed() (<-chan *river.Event, func())
}

type clientOf[Tx any] struct {
	*river.Client[Tx]
	driver riverdriver.Driver[Tx]
	schema string
}

// When a lane is woken, it fetches jobs at once, but at most once every fetchCooldown. It
// also looks for jobs every pollInterval without being woken.
const (
	fetchCooldown = 2 * time.Millisecond
	pollInterval  = time.Second
)

// cutGrace is how long deliveries may take to end after they were cut short.
const cutGrace = 5 * time.Second

func newClient[Tx any](driver riverdriver.Driver[Tx], id, schema string, c Config, w river.Worker[Job]) (client, error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, w)
	made, err := river.NewClient(driver, &river.Config{
		ID:                          id,
		Logger:                      slog.New(atLeast{c.Logger.Handler(), slog.LevelWarn}),
		Workers:                     workers,
		Queues:                      map[string]river.QueueConfig{idleLane: {MaxWorkers: 1, FetchPollInterval: time.Hour}},
		FetchCooldown:               fetchCooldown,
		FetchPollInterval:           pollInterval,
		JobTimeout:                  -1, // the target's own Timeout applies
		CompletedJobRetentionPeriod: max(c.Retention, -1),
		DiscardedJobRetentionPeriod: -1,
		CancelledJobRetentionPeriod: -1,
		Schema:                      schema,
	})
	return &clientOf[Tx]{made, driver, schema}, err
}

func (c *clientOf[Tx]) start() error { return c.Start(context.Background()) }

// stop waits until deliveries have ended. If ctx ends before, it cuts them short.
func (c *clientOf[Tx]) stop(ctx context.Context) error {
	if err := c.Stop(ctx); err == nil {
		return nil
	}
	cut, cancel := context.WithTimeout(context.WithoutCancel(ctx), cutGrace)
	defer cancel()
	return c.StopAndCancel(cut)
}

func (c *clientOf[Tx]) insert(ctx context.Context, tx any, jobs []river.InsertManyParams) error {
	if tx == nil {
		return c.insertAlone(ctx, jobs)
	}
	own, ok := tx.(Tx)
	if !ok {
		var want *Tx
		return &TxError{fmt.Errorf("is a %T, but this queue needs a %s", tx, strings.TrimPrefix(fmt.Sprintf("%T", want), "*"))}
	}
	_, err := c.InsertManyTx(ctx, own, jobs)
	return err
}

// insertAlone inserts jobs without a transaction of the caller.
//
// On Postgres the commit does not end with ctx. Otherwise ctx could end after the server
// has got the commit and before it has answered: nobody would know whether the jobs were
// inserted.
func (c *clientOf[Tx]) insertAlone(ctx context.Context, jobs []river.InsertManyParams) error {
	if c.schema == "" {
		_, err := c.InsertMany(ctx, jobs)
		return err
	}
	tx, err := c.driver.GetExecutor().Begin(ctx)
	if err != nil {
		return err
	}
	committing, cancel := context.WithTimeout(context.WithoutCancel(ctx), insertTimeout)
	defer cancel()
	if _, err := c.InsertManyTx(ctx, c.driver.UnwrapTx(tx), jobs); err != nil {
		return errors.Join(err, tx.Rollback(committing))
	}
	return tx.Commit(committing)
}

// insertTimeout limits the wait for a database that is busy, for example with a
// transaction of the caller.
const insertTimeout = 10 * time.Second

// open starts a lane. If that fails, it removes the lane again: River keeps a queue that
// it could not start, and would then take it for one that works.
func (c *clientOf[Tx]) open(lane string, workers int) error {
	err := c.Queues().Add(lane, river.QueueConfig{MaxWorkers: workers})
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), shutTimeout)
	defer cancel()
	return errors.Join(err, c.shut(ctx, lane))
}

// shutTimeout limits the wait for a lane that fetched a delivery just when it was to be
// shut. No other lane can be opened during that wait.
const shutTimeout = 200 * time.Millisecond

// shut stops a lane. It is no error if the lane is not open.
func (c *clientOf[Tx]) shut(ctx context.Context, lane string) error {
	err := c.Queues().Remove(ctx, lane)
	if _, shut := errors.AsType[*river.QueueNotFoundError](err); shut {
		return nil
	}
	return err
}

// failed returns a channel of events, one for each round that failed and each dead
// letter, and a function that ends it.
func (c *clientOf[Tx]) failed() (<-chan *river.Event, func()) {
	return c.Subscribe(river.EventKindJobCancelled, river.EventKindJobFailed)
}

// TxError says that this queue cannot use a transaction.
type TxError struct{ Err error }

// Error returns the text of Err.
func (e *TxError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *TxError) Unwrap() error { return e.Err }

// atLeast passes on log records of its level and above.
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
