package durable_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/fanouttest"
	"github.com/fanout-go/fanout/internal/pgtest"
)

func TestASecondProcessMayLookIntoAFileButNotDeliverFromIt(t *testing.T) {
	q, again := inFile(t, durable.Config{})
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{sending("crm", func(*fanout.Request) error { return fanout.Permanent(errDown) })}})
	submit(t, d, "entry")
	eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 1 }, "a dead letter")

	second := again(t, durable.Config{})
	assert.Len(t, deadLetters(t, second, durable.Filter{}), 1)
	_, err := fanout.New(fanout.Config{Queue: second})
	require.ErrorContains(t, err, "another queue, of this process or another, delivers from it")
	require.NoError(t, second.Close(t.Context()))
	closeNow(t, d)
	dispatcher(t, again(t, durable.Config{}), fanout.Config{})
}

func TestAFullDiskRefusesWhatComesAndLosesNothing(t *testing.T) {
	q, _ := inFile(t, durable.Config{})
	sender := fanouttest.NewSender()
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{sender.Target("ledger")}})
	var pages int
	require.NoError(t, q.DB().QueryRow("PRAGMA page_count").Scan(&pages))
	_, err := q.DB().Exec("PRAGMA max_page_count = " + strconv.Itoa(pages+20)) // SQLite's own way to be full
	require.NoError(t, err)
	large := fanout.Payload{Body: []byte(strings.Repeat("x", 30_000)), ContentType: "text/plain"}
	accepted := 0
	for range 10 {
		if _, err = d.Submit(t.Context(), large); err != nil {
			break
		}
		accepted++
	}
	require.ErrorContains(t, err, "durable: not accepted: ")
	require.ErrorContains(t, err, "full")
	_, err = q.DB().Exec("PRAGMA max_page_count = 1000000")
	require.NoError(t, err)
	submit(t, d, large)
	eventually(t, func() bool { return sender.Count() >= accepted+1 }, "all that was accepted")
}

func TestADamagedFileIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	q, err := durable.Open(path, durable.Config{})
	require.NoError(t, err)
	require.NoError(t, q.Close(t.Context()))
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	for name, damage := range map[string][]byte{
		"no database":     []byte(strings.Repeat("not a database ", 1000)),
		"a page of noise": append(append(append([]byte{}, content[:4096]...), []byte(strings.Repeat("\xa5", 8192))...), content[12288:]...),
		"half a file":     content[:len(content)/2/4096*4096],
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "q.db")
			require.NoError(t, os.WriteFile(path, damage, 0o600))
			_, err := durable.Open(path, durable.Config{})
			require.Error(t, err)
			require.ErrorContains(t, err, path)
			t.Log(err)
		})
	}
}

func TestAFileIsForItsOwnerAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	q, err := durable.Open(path, durable.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, q.Close(context.Background())) })
	files, err := filepath.Glob(path + "*")
	require.NoError(t, err)
	for _, file := range files {
		info, err := os.Stat(file)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), file)
	}
}

func TestASubmitInsideATransactionWithoutInTxSaysWhatIsWrong(t *testing.T) {
	q, _ := inFile(t, durable.Config{})
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{fanouttest.NewSender().Target("ledger")}})
	tx, err := q.DB().Begin()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = d.Submit(ctx, "entry")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "which needs InTx")
	require.NoError(t, tx.Rollback())
}

func TestADatabaseThatIsNotMigratedIsRefused(t *testing.T) {
	pool, _ := database(t)
	q, err := durable.OpenPostgres(pool, durable.Config{})
	require.NoError(t, err)
	_, err = fanout.New(fanout.Config{Queue: q})
	require.ErrorContains(t, err, "not migrated, see Queue.Migrate")
	require.NoError(t, q.Close(t.Context()))
}

func TestTheMigrationsShownAreThoseThatAreRun(t *testing.T) {
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

func TestManyProcessesMayMigrateAtOnce(t *testing.T) {
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

func TestADatabaseThatIsAwayAcceptsNothing(t *testing.T) {
	server := pgtest.New(t)
	pool := connect(t, server.URL)
	q, err := durable.OpenPostgres(pool, durable.Config{})
	require.NoError(t, err)
	require.NoError(t, q.Migrate(t.Context()))
	sender := fanouttest.NewSender()
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{sender.Target("ledger")}})
	submit(t, d, "before")
	eventually(t, func() bool { return sender.Count() == 1 }, "what was submitted before")
	server.Kill()
	_, err = d.Submit(t.Context(), "meanwhile")
	require.ErrorContains(t, err, "durable: not accepted: ")
	require.NoError(t, server.Start())
	eventually(t, func() bool { _, err := d.Submit(t.Context(), "after"); return err == nil }, "the pool to notice")
	eventually(t, func() bool { return sender.Count() >= 2 }, "what was submitted after")
}

func TestAQueueIsForOneDispatcher(t *testing.T) {
	q, _ := inFile(t, durable.Config{})
	dispatcher(t, q, fanout.Config{})
	_, err := fanout.New(fanout.Config{Queue: q})
	require.ErrorContains(t, err, "a queue is for one dispatcher, and has one")
}

func TestAnotherProcessTakesOverFromOneThatWasKilled(t *testing.T) {
	for name, database := range map[string]func(*testing.T) string{
		"SQLite, the same file by the next process": func(t *testing.T) string { return filepath.Join(t.TempDir(), "q.db") },
		"Postgres, within TakeOver":                 func(t *testing.T) string { _, url := database(t); return url },
	} {
		t.Run(name, func(t *testing.T) {
			a := newAudit(t, database(t))
			a.hang()
			first := a.start(true)
			a.until(func() bool { return a.hanging() >= 10 })
			first.kill()
			killed := time.Now()
			a.recover()
			second := a.start(false)
			a.until(func() bool { return a.hanging() == 0 })
			t.Logf("%v from the kill until what was under way then had arrived by the next process", time.Since(killed).Round(time.Millisecond))
			second.kill()
		})
	}
}
