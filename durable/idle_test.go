package durable_test

import (
	"fmt"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
)

// BenchmarkIdle measures the CPU time of a process that has nothing to do, for a number of
// targets: just after a delivery to each, and when their lanes have been shut.
func BenchmarkIdle(b *testing.B) {
	for _, engine := range []string{"SQLite", "Postgres"} {
		for _, n := range []int{10, 100, 1000} {
			b.Run(fmt.Sprintf("%s/%d", engine, n), func(b *testing.B) {
				q, err := durable.Open(filepath.Join(b.TempDir(), "q.db"), durable.Config{})
				if engine == "Postgres" {
					pool, _ := database(b)
					q, err = durable.OpenPostgres(pool, durable.Config{})
					require.NoError(b, err)
					require.NoError(b, q.Migrate(b.Context()))
				}
				require.NoError(b, err)
				config := fanout.Config{Queue: q}
				arrived := make(chan struct{}, n)
				for i := range n {
					config.Targets = append(config.Targets, sending(fmt.Sprint("target-", i), func(*fanout.Request) error { arrived <- struct{}{}; return nil }))
				}
				d, err := fanout.New(config)
				require.NoError(b, err)
				defer d.Close(b.Context())
				_, err = d.Submit(b.Context(), "entry")
				require.NoError(b, err)
				for range n {
					<-arrived
				}
				time.Sleep(2 * time.Second)
				goroutines := runtime.NumGoroutine()
				fresh := cpuShare(10 * time.Second)
				time.Sleep(70 * time.Second)
				b.ReportMetric(fresh*100, "%core-fresh")
				b.ReportMetric(cpuShare(10*time.Second)*100, "%core-idle")
				b.ReportMetric(float64(goroutines), "goroutines")
			})
		}
	}
}

// cpuShare returns which share of a core this process used.
func cpuShare(over time.Duration) float64 {
	before := cpuTime()
	time.Sleep(over)
	return (cpuTime() - before).Seconds() / over.Seconds()
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
