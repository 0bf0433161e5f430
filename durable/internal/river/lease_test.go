package river_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/durable/internal/river"
)

func TestLease_TakesOverFromProcessesThatAreSilent(t *testing.T) {
	onBoth(t, func(t *testing.T, e *river.Engine) {
		want := map[string]string{"silent": "available", "alive": "available", "mine": "available"} // one process at a time uses a file
		if e.OnPostgres() {
			want = map[string]string{"silent": "available", "alive": "running", "mine": "running"}
			for process, ago := range map[string]time.Duration{"silent": config.TakeOver + time.Second, "alive": config.TakeOver - time.Second} {
				require.NoError(t, e.Exec(t.Context(), "INSERT INTO @members (id, seen_at) VALUES ($1, $2)", process, time.Now().Add(-ago).UnixMilli()))
			}
		}
		for target, process := range map[string]string{"silent": "silent", "alive": "alive", "mine": e.Self()} {
			insert(t, e, target)
			require.NoError(t, e.PretendRunning(t.Context(), target, process, time.Second))
		}
		require.NoError(t, e.TakeLease(t.Context()))
		assert.Equal(t, want, states(t, e))
		rounds, err := e.Strings(t.Context(), "SELECT attempt FROM @job WHERE args->>'target' = 'silent'")
		require.NoError(t, err)
		assert.Equal(t, []string{"0"}, rounds, "the round does not count")
		if e.OnPostgres() {
			assert.ElementsMatch(t, []string{"alive", e.Self()}, members(t, e))
		}
		require.NoError(t, e.GiveLeaseBack(t.Context()))
		if e.OnPostgres() {
			assert.Equal(t, []string{"alive"}, members(t, e))
		}
	})
}

func members(t *testing.T, e *river.Engine) []string {
	t.Helper()
	all, err := e.Strings(t.Context(), "SELECT id FROM @members")
	require.NoError(t, err)
	return all
}

func TestLease_ThatCannotBeTakenIsAnError(t *testing.T) {
	onBoth(t, func(t *testing.T, e *river.Engine) {
		table := "@job"
		if e.OnPostgres() {
			table = "@members"
		}
		require.NoError(t, e.Exec(t.Context(), "ALTER TABLE "+table+" RENAME TO away"))
		work := func(context.Context, river.Round) river.Verdict { return river.Done() }
		for range 2 { // the first one keeps no lock on a file
			err := e.Start(t.Context(), work)
			require.Error(t, err)
			assert.NotContains(t, err.Error(), "already delivers from it")
		}
	})
}

func TestLease_NamesAProcessForPeople(t *testing.T) {
	host, err := os.Hostname()
	require.NoError(t, err)
	open := func() string {
		pool, err := pgxpool.New(t.Context(), "postgres://nowhere.invalid/nothing") // it is not used
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		db := stdlib.OpenDBFromPool(pool)
		t.Cleanup(func() { assert.NoError(t, db.Close()) })
		e, err := river.OpenPostgres(pool, db, "fanout", config)
		require.NoError(t, err)
		return e.Self()
	}
	first, second := open(), open()
	assert.Contains(t, first, strings.ReplaceAll(host[:min(len(host), 40)], ".", "_")+"_")
	assert.NotEqual(t, first, second)
}

func TestStop_GivesTheLeaseBack(t *testing.T) {
	onBoth(t, func(t *testing.T, e *river.Engine) {
		require.NoError(t, e.Start(t.Context(), func(context.Context, river.Round) river.Verdict { return river.Done() }))
		if e.OnPostgres() {
			assert.Equal(t, []string{e.Self()}, members(t, e))
		}
		require.NoError(t, e.Stop(t.Context()))
		if e.OnPostgres() {
			assert.Empty(t, members(t, e))
			return
		}
		require.NoError(t, e.TakeLease(t.Context()), "the file is free for the next process")
		require.NoError(t, e.GiveLeaseBack(t.Context()))
	})
}
