package durable_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/internal/pgtest"
)

// The full audit runs with -dispatches 10000 -kills 20.
var (
	auditDispatches = flag.Int("dispatches", 600, "dispatches of three targets in each crash audit")
	auditKills      = flag.Int("kills", 4, "processes killed in each")
)

func TestAudit_NothingAcceptedIsLostThoughTheProcessIsKilled(t *testing.T) {
	t.Run("SQLite", func(t *testing.T) {
		a := newAudit(t, filepath.Join(t.TempDir(), "deliveries.db"))
		a.killingTheSender()
	})
	t.Run("Postgres", func(t *testing.T) {
		_, url := database(t)
		a := newAudit(t, url)
		a.killingTheSender()
	})
}

func TestAudit_NothingAcceptedIsLostThoughOneOfTwoProcessesIsKilled(t *testing.T) {
	_, url := database(t)
	a := newAudit(t, url)
	survivor := a.start(false)
	a.killingTheSender()
	survivor.kill()
}

func TestAudit_NothingAcceptedIsLostThoughPostgresIsKilled(t *testing.T) {
	server := pgtest.New(t)
	a := newAudit(t, server.URL)
	sender := a.start(true)
	a.until(a.accepting) // a process that cannot open its queue exits
	for range *auditKills {
		time.Sleep(a.pause())
		server.Kill()
		require.NoError(t, server.Start())
	}
	a.until(a.enough)
	sender.kill()
	sender = a.start(false)
	a.until(a.arrived)
	sender.kill()
	a.report()
}

// audit collects what the targets received, and what the killed processes reported.
type audit struct {
	*testing.T
	database string
	targets  []string
	began    time.Time

	hangs atomic.Bool
	hung  map[string]bool // requests that were never answered

	mu       sync.Mutex
	tried    map[string]bool
	accepted map[string]bool
	undone   map[string]bool       // rolled back
	ledgers  []map[string][]string // by target, for each payload: the keys with which it arrived
	kills    int
}

func newAudit(t *testing.T, database string) *audit {
	a := &audit{T: t, database: database, began: time.Now(), tried: map[string]bool{}, accepted: map[string]bool{}, hung: map[string]bool{}, undone: map[string]bool{}}
	for i := range 3 {
		a.ledgers = append(a.ledgers, map[string][]string{})
		server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			var payload string
			err := json.NewDecoder(r.Body).Decode(&payload)
			if a.hangs.Load() {
				a.mu.Lock()
				a.hung[payload+r.Host] = true
				a.mu.Unlock()
				_, _ = io.Copy(io.Discard, r.Body) // otherwise the server does not notice that the client is gone
				<-r.Context().Done()
				return
			}
			if assert.NoError(t, err) {
				a.mu.Lock()
				delete(a.hung, payload+r.Host)
				a.ledgers[i][payload] = append(a.ledgers[i][payload], r.Header.Get("Idempotency-Key"))
				a.mu.Unlock()
			}
		}))
		t.Cleanup(server.Close)
		a.targets = append(a.targets, server.URL)
	}
	return a
}

func (a *audit) hang() { a.hangs.Store(true) }

func (a *audit) recover() { a.hangs.Store(false) }

func (a *audit) hanging() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.hung)
}

func (a *audit) killingTheSender() {
	for range *auditKills {
		sender := a.start(true)
		time.Sleep(a.pause())
		sender.kill()
		a.kills++
	}
	sender := a.start(true)
	a.until(a.enough)
	sender.kill()
	sender = a.start(false)
	a.until(a.arrived)
	sender.kill()
	a.report()
}

// pause distributes the kills over the time of the submissions.
func (a *audit) pause() time.Duration {
	return 300*time.Millisecond + rand.N(time.Duration(*auditDispatches)*time.Second/8000)
}

func (a *audit) until(done func() bool) {
	a.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	for !done() {
		if time.Now().After(deadline) {
			a.report()
			require.FailNow(a, "not all arrived in time")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (a *audit) enough() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.accepted) >= *auditDispatches
}

func (a *audit) accepting() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.accepted) > 0
}

func (a *audit) arrived() bool { return a.missing() == 0 }

func (a *audit) missing() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	missing := 0
	for payload := range a.accepted {
		for _, ledger := range a.ledgers {
			if len(ledger[payload]) == 0 {
				missing++
			}
		}
	}
	return missing
}

func (a *audit) report() {
	a.Helper()
	missing := a.missing()
	a.mu.Lock()
	defer a.mu.Unlock()
	arrivals, duplicates := 0, 0
	for _, ledger := range a.ledgers {
		for payload, keys := range ledger {
			arrivals++
			duplicates += len(keys) - 1
			assert.True(a, a.tried[payload], "%s was never submitted", payload)
			assert.False(a, a.undone[payload], "%s was rolled back", payload)
			for _, key := range keys {
				assert.Equal(a, keys[0], key, "%s came with another key", payload)
			}
		}
	}
	a.Logf("%d dispatches accepted and %d rolled back in %v, %d processes killed: %d deliveries arrived, %d missing, %d duplicates",
		len(a.accepted), len(a.undone), time.Since(a.began).Round(time.Second), a.kills, arrivals, missing, duplicates)
	assert.Zero(a, missing)
}

// process submits and delivers until it is killed.
type process struct {
	cmd  *exec.Cmd
	read chan struct{} // closed when all of its output was read
}

func (a *audit) start(submits bool) *process {
	a.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "FANOUT_AUDIT_DATABASE="+a.database, "FANOUT_AUDIT_TARGETS="+strings.Join(a.targets, " "), fmt.Sprintf("FANOUT_AUDIT_SUBMITS=%v", submits))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(a, err)
	require.NoError(a, cmd.Start())
	p := &process{cmd, make(chan struct{})}
	go func() {
		defer close(p.read)
		a.listen(out)
	}()
	a.Cleanup(p.kill)
	return p
}

func (a *audit) listen(out io.Reader) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		verb, payload, _ := strings.Cut(lines.Text(), " ")
		a.mu.Lock()
		switch verb {
		case "try":
			a.tried[payload] = true
		case "accepted":
			a.accepted[payload] = true
		case "undo":
			a.undone[payload] = true
		}
		a.mu.Unlock()
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.read
	_ = p.cmd.Wait()
}

// runAuditedProcess is the main function of the processes.
func runAuditedProcess() {
	q, undo := openAudited(os.Getenv("FANOUT_AUDIT_DATABASE"))
	config := fanout.Config{Queue: q}
	for i, url := range strings.Fields(os.Getenv("FANOUT_AUDIT_TARGETS")) {
		config.Targets = append(config.Targets, fanout.Target{Name: fmt.Sprintf("target-%d", i), URL: url})
	}
	d, err := fanout.New(config)
	must(err)
	if os.Getenv("FANOUT_AUDIT_SUBMITS") == "true" {
		for range 8 {
			go submitForEver(d, undo)
		}
	}
	select {}
}

func submitForEver(d *fanout.Dispatcher, undo func(submit func(tx any) error) error) {
	for i := 0; ; i++ {
		payload := fmt.Sprintf("%d-%d-%d", os.Getpid(), rand.Uint64(), i)
		ctx := context.Background()
		if i%10 == 9 {
			fmt.Println("undo " + payload)
			_ = undo(func(tx any) error {
				_, err := d.Submit(ctx, payload, durable.InTx(tx))
				return err
			})
			continue
		}
		fmt.Println("try " + payload)
		if _, err := d.Submit(ctx, payload); err == nil {
			fmt.Println("accepted " + payload)
		} else {
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// openAudited opens the queue. It also returns a function that calls submit in a
// transaction, and rolls it back.
func openAudited(database string) (*durable.Queue, func(func(tx any) error) error) {
	config := durable.Config{TakeOver: 2 * time.Second, Schedule: []time.Duration{0, time.Second, time.Second, time.Second, time.Second}}
	if !strings.HasPrefix(database, "postgres://") {
		q, err := durable.Open(database, config)
		must(err)
		return q, func(submit func(tx any) error) error {
			tx, err := q.DB().Begin()
			if err != nil {
				return err
			}
			_ = submit(tx)
			return tx.Rollback()
		}
	}
	pool, err := pgxpool.New(context.Background(), database)
	must(err)
	q, err := durable.OpenPostgres(pool, config)
	must(err)
	must(q.Migrate(context.Background()))
	return q, func(submit func(tx any) error) error {
		tx, err := pool.Begin(context.Background())
		if err != nil {
			return err
		}
		_ = submit(tx)
		return tx.Rollback(context.Background())
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "audited process:", err)
		os.Exit(1)
	}
}
