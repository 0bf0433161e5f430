package durable_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/fanouttest"
)

// opener makes a queue in a database of the test's own, and opens that again.
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

func TestTheQueueKeepsTheContract(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		fanouttest.TestQueue(t, func(t *testing.T) fanout.Queue {
			q, _ := open(t, durable.Config{})
			return q
		})
	})
}
