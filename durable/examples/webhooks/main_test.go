package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/internal/pgtest"
)

func TestTheExampleRunsOnBothEngines(t *testing.T) {
	t.Run("SQLite", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "webhooks.db")
		require.NoError(t, run(t.Context(), func() (*durable.Queue, error) { return durable.Open(path, durable.Config{}) }))
	})
	t.Run("Postgres", func(t *testing.T) {
		pool, err := pgxpool.New(t.Context(), pgtest.Database(t))
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		require.NoError(t, run(t.Context(), func() (*durable.Queue, error) {
			queue, err := durable.OpenPostgres(pool, durable.Config{})
			if err != nil {
				return nil, err
			}
			return queue, queue.Migrate(t.Context())
		}))
	})
}

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m, func() error { return goleak.Find() })) }
