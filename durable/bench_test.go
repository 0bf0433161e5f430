package durable_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/fanouttest"
)

const benchTargets, benchWorkers = 3, 500

// side is one of the two that are compared. insert puts a dispatch to three targets into
// the queue, and work runs until n jobs are done.
type side struct {
	insert func(context.Context) error
	work   func(n int)
}

// BenchmarkBesideRiver compares this queue with River alone, whose jobs do nothing, in one
// run. An operation is one dispatch to three targets, which is inserted or worked. Both
// take turns in several rounds, and the ratios are medians.
func BenchmarkBesideRiver(b *testing.B) {
	for name, sides := range map[string]func(*testing.B) (ours, rivers side){"SQLite": sqliteSides, "Postgres": postgresSides} {
		b.Run(name, func(b *testing.B) {
			const rounds, dispatches = 7, 2000
			var inserts, works []float64
			for range b.N {
				for range rounds {
					ours, rivers := sides(b)
					mine, theirs := insertRate(b, ours, dispatches), insertRate(b, rivers, dispatches)
					inserts = append(inserts, mine/theirs)
					mine, theirs = workRate(ours, dispatches*benchTargets), workRate(rivers, dispatches*benchTargets)
					works = append(works, mine/theirs)
					b.Logf("insert %.2f, work %.2f of River's (which works %.0f jobs a second)", inserts[len(inserts)-1], works[len(works)-1], theirs)
				}
			}
			b.ReportMetric(median(inserts), "insert/river")
			b.ReportMetric(median(works), "work/river")
		})
	}
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

func insertRate(b *testing.B, s side, dispatches int) float64 {
	b.Helper()
	began := time.Now()
	for range dispatches {
		require.NoError(b, s.insert(b.Context()))
	}
	return float64(dispatches) / time.Since(began).Seconds()
}

func workRate(s side, jobs int) float64 {
	began := time.Now()
	s.work(jobs)
	return float64(jobs) / time.Since(began).Seconds()
}

var benchPayload = map[string]string{"name": "Ada", "email": "ada@example.com", "note": strings.Repeat("x", 200)}

// oursOver holds all targets while it submits, so that no delivery is made yet.
func oursOver(b *testing.B, q *durable.Queue) side {
	b.Helper()
	var done atomic.Int64
	config := fanout.Config{Queue: q}
	for i := range benchTargets {
		target := fanout.Target{Name: fmt.Sprint("target-", i), Policy: fanout.Policy{Bulkhead: fanout.Bulkhead{MaxConcurrent: -1}}, Sender: fanout.SenderFunc(func(context.Context, *fanout.Request) (*fanout.Response, error) {
			done.Add(1)
			return nil, nil
		})}
		config.Targets = append(config.Targets, target)
		require.NoError(b, q.Hold(b.Context(), target.Name))
	}
	d, err := fanout.New(config)
	require.NoError(b, err)
	b.Cleanup(func() { _ = d.Close(context.Background()) })
	return side{
		insert: func(ctx context.Context) error {
			_, err := d.Submit(ctx, benchPayload)
			return err
		},
		work: func(n int) {
			for _, t := range config.Targets {
				require.NoError(b, q.Resume(b.Context(), t.Name))
			}
			waitFor(&done, n)
		},
	}
}

func waitFor(done *atomic.Int64, n int) {
	for done.Load() < int64(n) {
		time.Sleep(time.Millisecond)
	}
}

type nothing struct {
	Payload map[string]string `json:"payload"`
}

func (nothing) Kind() string { return "nothing" }

// riversOver is River alone, with the same number of queues and workers.
func riversOver[Tx any](b *testing.B, driver riverdriver.Driver[Tx]) side {
	b.Helper()
	logger := slog.New(slog.DiscardHandler)
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: logger})
	require.NoError(b, err)
	_, err = migrator.Migrate(b.Context(), rivermigrate.DirectionUp, nil)
	require.NoError(b, err)
	var done atomic.Int64
	workers := river.NewWorkers()
	river.AddWorker(workers, river.WorkFunc(func(context.Context, *river.Job[nothing]) error {
		done.Add(1)
		return nil
	}))
	queues := map[string]river.QueueConfig{}
	var jobs []river.InsertManyParams
	for i := range benchTargets {
		name := fmt.Sprint("queue", i)
		queues[name] = river.QueueConfig{MaxWorkers: benchWorkers}
		jobs = append(jobs, river.InsertManyParams{Args: nothing{benchPayload}, InsertOpts: &river.InsertOpts{Queue: name}})
	}
	client, err := river.NewClient(driver, &river.Config{Logger: logger, Workers: workers, Queues: queues, FetchCooldown: 2 * time.Millisecond})
	require.NoError(b, err)
	return side{
		insert: func(ctx context.Context) error {
			_, err := client.InsertMany(ctx, jobs)
			return err
		},
		work: func(n int) {
			require.NoError(b, client.Start(context.Background()))
			b.Cleanup(func() { _ = client.StopAndCancel(context.Background()) })
			waitFor(&done, n)
		},
	}
}

func sqliteSides(b *testing.B) (ours, rivers side) {
	b.Helper()
	q, err := durable.Open(filepath.Join(b.TempDir(), "ours.db"), durable.Config{Concurrency: benchWorkers})
	require.NoError(b, err)
	address := url.URL{Scheme: "file", Path: filepath.Join(b.TempDir(), "rivers.db"), RawQuery: "_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate"}
	db, err := sql.Open("sqlite", address.String())
	require.NoError(b, err)
	db.SetMaxOpenConns(1)
	b.Cleanup(func() { _ = db.Close() })
	return oursOver(b, q), riversOver(b, riversqlite.New(db))
}

func postgresSides(b *testing.B) (ours, rivers side) {
	b.Helper()
	pool, _ := database(b)
	q, err := durable.OpenPostgres(pool, durable.Config{Concurrency: benchWorkers})
	require.NoError(b, err)
	require.NoError(b, q.Migrate(b.Context()))
	other, _ := database(b)
	return oursOver(b, q), riversOver[pgx.Tx](b, riverpgxv5.New(other))
}

// BenchmarkLatency measures the time from a commit to the first attempt, for one delivery
// after the other.
func BenchmarkLatency(b *testing.B) {
	open := map[string]func(*testing.B) *durable.Queue{
		"SQLite": func(b *testing.B) *durable.Queue {
			b.Helper()
			q, err := durable.Open(filepath.Join(b.TempDir(), "q.db"), durable.Config{})
			require.NoError(b, err)
			return q
		},
		"Postgres": func(b *testing.B) *durable.Queue {
			b.Helper()
			var pool *pgxpool.Pool
			pool, _ = database(b)
			q, err := durable.OpenPostgres(pool, durable.Config{})
			require.NoError(b, err)
			require.NoError(b, q.Migrate(b.Context()))
			return q
		},
	}
	for name, open := range open {
		b.Run(name, func(b *testing.B) {
			var results fanouttest.Results
			var mu sync.Mutex
			var arrived time.Time
			d, err := fanout.New(fanout.Config{Queue: open(b), OnResult: results.OnResult, Targets: []fanout.Target{sending("ledger", func(*fanout.Request) error {
				mu.Lock()
				defer mu.Unlock()
				arrived = time.Now()
				return nil
			})}})
			require.NoError(b, err)
			defer d.Close(context.Background())
			var took []float64
			for b.Loop() {
				id, err := d.Submit(b.Context(), "entry")
				require.NoError(b, err)
				committed := time.Now()
				_, err = results.Wait(b.Context(), id)
				require.NoError(b, err)
				mu.Lock()
				took = append(took, arrived.Sub(committed).Seconds()*1000)
				mu.Unlock()
				time.Sleep(5 * time.Millisecond)
			}
			slices.Sort(took)
			b.ReportMetric(took[len(took)/2], "p50-ms")
			b.ReportMetric(took[len(took)*95/100], "p95-ms")
		})
	}
}
