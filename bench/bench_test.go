package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == serveArgument {
		serve()
		return
	}
	os.Exit(m.Run())
}

func BenchmarkMemory(b *testing.B) { benchmark(b, memory) }

func BenchmarkLoopback(b *testing.B) {
	servers, err := startServers(counts[len(counts)-1])
	require.NoError(b, err)
	defer servers.stop()
	benchmark(b, servers.wire())
}

func benchmark(b *testing.B, w wire) {
	b.Helper()
	for _, n := range counts {
		for _, c := range contenders {
			b.Run(fmt.Sprintf("%d/%s", n, c.name), func(b *testing.B) {
				send, done := connect(c, w, n)
				defer done()
				for range 10 { // opens the connections
					require.NoError(b, send(b.Context(), payload))
				}
				b.ReportAllocs()
				cpu, allocs := cpuTime(), mallocs()
				for b.Loop() {
					if err := send(b.Context(), payload); err != nil {
						b.Fatal(err)
					}
				}
				used, made := cpuTime()-cpu, mallocs()-allocs
				b.ReportMetric(float64(made)/float64(b.N*n), "allocs/target")
				if w.transport == nil {
					b.ReportMetric(float64(used)/float64(b.N), "cpu-ns/op")
				}
			})
		}
	}
}

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

func TestThePayloadIsAKiB(t *testing.T) {
	body, err := json.Marshal(payload)
	require.NoError(t, err)
	assert.InDelta(t, 1024, len(body), 8)
}

func TestAtMostEightAllocationsPerTarget(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	const targets = 10
	send, done := withFanout(memory.urls(targets), memory.transport())
	defer done()
	perTarget := testing.AllocsPerRun(1000, func() { require.NoError(t, send(context.Background(), payload)) }) / targets
	assert.LessOrEqual(t, perTarget, 8.0)
	t.Logf("%.1f allocations per target", perTarget)
}

func TestFewerAllocationsAndBytesThanTheFloorOverLoopback(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	servers, err := startServers(counts[len(counts)-1])
	require.NoError(t, err)
	defer servers.stop()
	spent := func(c contender) cost {
		send, done := connect(c, servers.wire(), 10)
		defer done()
		for range 100 { // opens the connections
			require.NoError(t, send(t.Context(), payload))
		}
		c1, err := measureCalls(send, 500)
		require.NoError(t, err)
		return c1
	}
	least, ours := spent(contenders[0]), spent(contenders[2])
	assert.Less(t, ours.allocs, least.allocs)
	assert.Less(t, ours.bytes, least.bytes)
	t.Logf("allocations %.2f, bytes %.2f of the floor's", ours.allocs/least.allocs, ours.bytes/least.bytes)
}
