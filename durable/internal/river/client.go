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

// Config is how an [Engine] works. All fields are needed.
type Config struct {
	Concurrency func(target string) int
	Retention   time.Duration // of jobs that are done; negative means for ever
	TakeOver    time.Duration // after which a process is taken for dead, on Postgres
	Logger      *slog.Logger
}

// client is River's client, whatever the type of its transactions is.
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

// A lane fetches at once when it is woken, but at most once every fetchCooldown. It also
// looks by itself every pollInterval.
const (
	fetchCooldown = 2 * time.Millisecond
	pollInterval  = time.Second
)

// cutGrace is how long deliveries that are cut short may take to end.
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
		JobTimeout:                  -1, // a target's own Timeout rules
		CompletedJobRetentionPeriod: max(c.Retention, -1),
		DiscardedJobRetentionPeriod: -1,
		CancelledJobRetentionPeriod: -1,
		Schema:                      schema,
	})
	return &clientOf[Tx]{made, driver, schema}, err
}

func (c *clientOf[Tx]) start() error { return c.Start(context.Background()) }

// stop lets deliveries end until ctx does, and then cuts them short.
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
		return &TxError{fmt.Errorf("is a %T, and this queue knows %s", tx, strings.TrimPrefix(fmt.Sprintf("%T", want), "*"))}
	}
	_, err := c.InsertManyTx(ctx, own, jobs)
	return err
}

// insertAlone is for jobs without a caller's transaction. Once a transaction is being
// committed to a server, the commit does not end with ctx: nobody would know then whether
// it took place.
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

// insertTimeout bounds the wait for a database that is busy, or that the caller keeps busy.
const insertTimeout = 10 * time.Second

// open leaves nothing behind if it fails. River keeps a queue that it could not start, and
// would take it for one that works.
func (c *clientOf[Tx]) open(lane string, workers int) error {
	err := c.Queues().Add(lane, river.QueueConfig{MaxWorkers: workers})
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), shutTimeout)
	defer cancel()
	return errors.Join(err, c.shut(ctx, lane))
}

// shutTimeout bounds the wait for a delivery that a lane fetched just when it was to be
// shut. No other lane can be opened during that wait.
const shutTimeout = 200 * time.Millisecond

func (c *clientOf[Tx]) shut(ctx context.Context, lane string) error {
	err := c.Queues().Remove(ctx, lane)
	if _, shut := errors.AsType[*river.QueueNotFoundError](err); shut {
		return nil
	}
	return err
}

// failed tells of rounds that failed, and of dead letters.
func (c *clientOf[Tx]) failed() (<-chan *river.Event, func()) {
	return c.Subscribe(river.EventKindJobCancelled, river.EventKindJobFailed)
}

// TxError says that a transaction cannot be used with this queue.
type TxError struct{ Err error }

// Error is that of Err.
func (e *TxError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *TxError) Unwrap() error { return e.Err }

// atLeast passes on records of that level and above.
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
