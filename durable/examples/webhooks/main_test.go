package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/durable/internal/pgtest"
)

func TestTheExampleRunsOnBothEngines(t *testing.T) {
	t.Run("SQLite", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "webhooks.db")
		require.NoError(t, run(t.Context(), func() (*durable.Queue, error) { return durable.Open(path, durable.Config{}) }))
	})
	t.Run("Postgres", func(t *testing.T) {
		pool, _ := pgtest.Pool(t)
		require.NoError(t, run(t.Context(), func() (*durable.Queue, error) {
			queue, err := durable.OpenPostgres(pool, durable.Config{})
			if err != nil {
				return nil, err
			}
			return queue, queue.Migrate(t.Context())
		}))
	})
}

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
