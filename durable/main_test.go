package durable_test

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/durable/internal/pgtest"
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
	os.Exit(pgtest.Main(m))
}
