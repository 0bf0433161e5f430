package durable_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/internal/pgtest"
)

// safeBuffer is a log that several goroutines write.
type safeBuffer struct {
	mu  sync.Mutex
	all strings.Builder
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

func (b *safeBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// jobs is River's table.
func jobs(q *durable.Queue) string {
	if strings.Contains(fmt.Sprintf("%T", q.DB().Driver()), "sqlite") {
		return "river_job"
	}
	return "fanout.river_job"
}

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	if os.Getenv("FANOUT_AUDIT_DATABASE") != "" {
		runAuditedProcess()
	}
	os.Exit(pgtest.Main(m, func() error { return goleak.Find() }))
}

// database returns a pool on a Postgres database of the test's own, and its URL.
func database(tb testing.TB) (*pgxpool.Pool, string) {
	tb.Helper()
	url := pgtest.Database(tb)
	return connect(tb, url), url
}

// connect opens a pool, which is closed after the test.
func connect(tb testing.TB, url string) *pgxpool.Pool {
	tb.Helper()
	pool, err := pgxpool.New(context.Background(), url)
	require.NoError(tb, err)
	tb.Cleanup(pool.Close)
	return pool
}
