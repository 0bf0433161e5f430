package durable_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/fanouttest"
	"github.com/fanout-go/fanout/internal/pgtest"
)

// safeBuffer is a log to which several goroutines write.
type safeBuffer struct {
	mu  sync.Mutex
	all strings.Builder
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

func (b *safeBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// jobs returns the name of River's table of jobs.
func jobs(q *durable.Queue) string {
	if strings.Contains(fmt.Sprintf("%T", q.DB().Driver()), "sqlite") {
		return "river_job"
	}
	return "fanout.river_job"
}

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	if os.Getenv("FANOUT_AUDIT_DATABASE") != "" {
		runAuditedProcess()
	}
	os.Exit(pgtest.Main(m, func() error { return goleak.Find() }))
}

// database makes a Postgres database for one test, and returns a pool and its URL.
func database(tb testing.TB) (*pgxpool.Pool, string) {
	tb.Helper()
	url := pgtest.Database(tb)
	return connect(tb, url), url
}

// connect opens a pool, which is closed after the test.
func connect(tb testing.TB, url string) *pgxpool.Pool {
	tb.Helper()
	pool, err := pgxpool.New(context.Background(), url)
	require.NoError(tb, err)
	tb.Cleanup(pool.Close)
	return pool
}

// opener makes a queue in a database for one test, and returns a function that opens it
// again.
type opener func(*testing.T, durable.Config) (q *durable.Queue, again func(*testing.T, durable.Config) *durable.Queue)

func inFile(t *testing.T, config durable.Config) (*durable.Queue, func(*testing.T, durable.Config) *durable.Queue) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "deliveries.db")
	open := func(t *testing.T, config durable.Config) *durable.Queue {
		t.Helper()
		q, err := durable.Open(path, config)
		require.NoError(t, err)
		return q
	}
	return open(t, config), open
}

func inPostgres(t *testing.T, config durable.Config) (*durable.Queue, func(*testing.T, durable.Config) *durable.Queue) {
	t.Helper()
	pool, _ := database(t)
	open := func(t *testing.T, config durable.Config) *durable.Queue {
		t.Helper()
		q, err := durable.OpenPostgres(pool, config)
		require.NoError(t, err)
		return q
	}
	q := open(t, config)
	require.NoError(t, q.Migrate(t.Context()))
	return q, open
}

// onBoth runs a test on SQLite and on Postgres.
func onBoth(t *testing.T, test func(*testing.T, opener)) {
	t.Helper()
	for name, open := range map[string]opener{"SQLite": inFile, "Postgres": inPostgres} {
		t.Run(name, func(t *testing.T) { test(t, open) })
	}
}

const patience = 30 * time.Second

// dispatcher makes a dispatcher, which is closed after the test.
func dispatcher(t *testing.T, q *durable.Queue, config fanout.Config) *fanout.Dispatcher {
	t.Helper()
	config.Queue = q
	d, err := fanout.New(config)
	require.NoError(t, err)
	t.Cleanup(func() { closeNow(t, d) })
	return d
}

func closeNow(t *testing.T, d *fanout.Dispatcher) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	assert.NoError(t, d.Close(ctx))
}

func submit(t *testing.T, d *fanout.Dispatcher, payload any, options ...fanout.SubmitOption) string {
	t.Helper()
	id, err := d.Submit(t.Context(), payload, options...)
	require.NoError(t, err)
	return id
}

// wait waits for the results of a dispatch.
func wait(t *testing.T, results *fanouttest.Results, id string, targets ...string) fanout.Results {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got, err := results.Wait(ctx, id, targets...)
	require.NoError(t, err)
	return got
}

func eventually(t *testing.T, condition func() bool, what string) {
	t.Helper()
	require.Eventually(t, condition, patience, 5*time.Millisecond, what)
}

// once is a policy with one attempt in each round.
var once = fanout.Policy{Retry: fanout.Retry{MaxAttempts: 1}}

// sending is a target that calls a function.
func sending(name string, send func(*fanout.Request) error) fanout.Target {
	return fanout.Target{Name: name, Policy: once, Sender: fanout.SenderFunc(func(_ context.Context, r *fanout.Request) (*fanout.Response, error) {
		return nil, send(r)
	})}
}

var errDown = errors.New("down")

func fast(waits int) []time.Duration { return make([]time.Duration, waits) }

func deadLetters(t *testing.T, q *durable.Queue, f durable.Filter) []durable.DeadLetter {
	t.Helper()
	var all []durable.DeadLetter
	for dead, err := range q.DeadLetters(t.Context(), f) {
		require.NoError(t, err)
		all = append(all, dead)
	}
	return all
}
