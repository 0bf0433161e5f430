package river_test

import (
	"context"
	"database/sql"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/fanout-go/fanout/durable/internal/river"
	"github.com/fanout-go/fanout/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m, func() error { return goleak.Find() })) }

// patience limits the wait for what should happen soon.
const patience = 30 * time.Second

var config = river.Config{
	Concurrency: func(string) int { return 4 },
	Retention:   time.Hour,
	TakeOver:    2 * time.Second,
	Logger:      slog.New(slog.DiscardHandler),
}

// onBoth runs a test with an engine on SQLite and with one on Postgres.
func onBoth(t *testing.T, test func(*testing.T, *river.Engine)) {
	t.Helper()
	t.Run("SQLite", func(t *testing.T) {
		db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "jobs.db")+"?_pragma=journal_mode(WAL)&_txlock=immediate")
		require.NoError(t, err)
		db.SetMaxOpenConns(1)
		t.Cleanup(func() { assert.NoError(t, db.Close()) })
		e, err := river.OpenSQLite(db, config)
		require.NoError(t, err)
		test(t, migrated(t, e))
	})
	t.Run("Postgres", func(t *testing.T) {
		pool, err := pgxpool.New(t.Context(), pgtest.Database(t))
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		db := stdlib.OpenDBFromPool(pool)
		t.Cleanup(func() { assert.NoError(t, db.Close()) })
		e, err := river.OpenPostgres(pool, db, "fanout", config)
		require.NoError(t, err)
		test(t, migrated(t, e))
	})
}

func migrated(t *testing.T, e *river.Engine) *river.Engine {
	t.Helper()
	require.NoError(t, e.Schema.Migrate(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		assert.NoError(t, e.Stop(ctx))
	})
	return e
}

func insert(t *testing.T, e *river.Engine, target string) {
	t.Helper()
	job := river.Job{Dispatch: target, Target: target, Targets: []string{target}, Submitted: time.Now().UnixMilli(), Payload: &river.Content{}}
	require.NoError(t, e.Insert(t.Context(), nil, []river.Insert{{Job: job, Rounds: 1}}))
}

func eventually(t *testing.T, condition func() bool, what string) {
	t.Helper()
	require.Eventually(t, condition, patience, 5*time.Millisecond, what)
}

// states returns the state of the job of each target.
func states(t *testing.T, e *river.Engine) map[string]string {
	t.Helper()
	targets, err := e.Strings(t.Context(), "SELECT args->>'target' FROM @job ORDER BY id")
	require.NoError(t, err)
	all, err := e.Strings(t.Context(), "SELECT state FROM @job ORDER BY id")
	require.NoError(t, err)
	require.Len(t, all, len(targets))
	byTarget := map[string]string{}
	for i, target := range targets {
		byTarget[target] = all[i]
	}
	return byTarget
}
