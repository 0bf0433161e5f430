package durable_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

func TestReady_MissesEachTable(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{})
		require.NoError(t, q.Ready(t.Context()))
		for _, name := range []string{"fanout_journal", "fanout_holds", "fanout_members", "river_migration"} {
			table := strings.TrimSuffix(jobs(q), "river_job") + name
			_, err := q.DB().Exec("ALTER TABLE " + table + " RENAME TO away")
			require.NoError(t, err)
			require.ErrorIs(t, q.Ready(t.Context()), durable.ErrNotMigrated, name)
			require.ErrorIs(t, q.Start(&fanout.Worker{}), durable.ErrNotMigrated, name)
			_, err = q.DB().Exec("ALTER TABLE " + strings.TrimSuffix(table, name) + "away RENAME TO " + name)
			require.NoError(t, err)
		}
		require.NoError(t, q.Ready(t.Context()))
		require.NoError(t, q.Close(t.Context()))
	})
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
