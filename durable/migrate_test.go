package durable_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/fanouttest"
	"github.com/fanout-go/fanout/internal/pgtest"
)

func TestStart_RefusesADatabaseThatIsNotMigrated(t *testing.T) {
	pool, _ := database(t)
	q, err := durable.OpenPostgres(pool, durable.Config{})
	require.NoError(t, err)
	_, err = fanout.New(fanout.Config{Queue: q})
	require.ErrorContains(t, err, "not migrated, see Queue.Migrate")
	require.NoError(t, q.Close(t.Context()))
}

func TestMigrations_AreThoseThatMigrateRuns(t *testing.T) {
	pool, url := database(t)
	q, err := durable.OpenPostgres(pool, durable.Config{Schema: "elsewhere"})
	require.NoError(t, err)
	psql, err := exec.LookPath("psql")
	if err != nil {
		pgtest.Missing(t, err)
	}
	file := filepath.Join(t.TempDir(), "migrations.sql")
	require.NoError(t, os.WriteFile(file, []byte(q.Migrations()), 0o600))
	out, err := exec.Command(psql, url, "-v", "ON_ERROR_STOP=1", "-q", "-f", file).CombinedOutput()
	require.NoError(t, err, string(out))
	require.NoError(t, q.Migrate(t.Context()), "there is nothing left to do")
	var results fanouttest.Results
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{fanouttest.NewSender().Target("ledger")}, OnResult: results.OnResult})
	assert.Equal(t, fanout.Delivered, wait(t, &results, submit(t, d, "entry"))["ledger"].Outcome)
}

func TestMigrate_ManyProcessesAtOnce(t *testing.T) {
	_, url := database(t)
	var all sync.WaitGroup
	for range 5 {
		pool := connect(t, url)
		all.Go(func() {
			q, err := durable.OpenPostgres(pool, durable.Config{})
			if assert.NoError(t, err) {
				assert.NoError(t, q.Migrate(t.Context()))
				assert.NoError(t, q.Ready(t.Context()))
				assert.NoError(t, q.Close(t.Context()))
			}
		})
	}
	all.Wait()
}
