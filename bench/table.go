package main

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

var counts = []int{1, 2, 10, 100}

// cost is what one dispatch took.
type cost struct{ elapsed, cpu, allocs, bytes float64 }

// table is the costs of all contenders in one setting, in their order.
type table struct {
	wire  string
	n     int
	costs []cost
}

func connect(c contender, w wire, n int) (send, func()) {
	var transport http.RoundTripper
	if w.transport != nil {
		transport = w.transport()
	}
	return c.make(w.urls(n), transport)
}

// compare lets all contenders run in turn, so that what else the machine does
// hits all alike.
func compare(w wire, n, rounds int, slice time.Duration) (table, error) {
	samples := make([][]cost, len(contenders))
	var sends []send
	for _, c := range contenders {
		send, done := connect(c, w, n)
		defer done()
		sends = append(sends, send)
		if _, err := measure(send, slice/4); err != nil {
			return table{}, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	for round := range rounds {
		for i := range sends {
			i = (i + round) % len(sends)
			c, err := measure(sends[i], slice)
			if err != nil {
				return table{}, fmt.Errorf("%s: %w", contenders[i].name, err)
			}
			samples[i] = append(samples[i], c)
		}
	}
	t := table{wire: w.name, n: n}
	for _, s := range samples {
		t.costs = append(t.costs, cost{
			elapsed: median(s, func(c cost) float64 { return c.elapsed }),
			cpu:     median(s, func(c cost) float64 { return c.cpu }),
			allocs:  median(s, func(c cost) float64 { return c.allocs }),
			bytes:   median(s, func(c cost) float64 { return c.bytes }),
		})
	}
	return t, nil
}

// measure calls send for a while.
func measure(send send, slice time.Duration) (cost, error) {
	end := time.Now().Add(slice)
	return measureWhile(send, func(int) bool { return time.Now().Before(end) })
}

func measureCalls(send send, n int) (cost, error) {
	return measureWhile(send, func(calls int) bool { return calls < n })
}

func measureWhile(send send, goOn func(calls int) bool) (cost, error) {
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu, began, made := cpuTime(), time.Now(), 0
	for goOn(made) {
		for range 10 {
			if err := send(context.Background(), payload); err != nil {
				return cost{}, err
			}
			made++
		}
	}
	elapsed, used, calls := time.Since(began), cpuTime()-cpu, float64(made)
	runtime.ReadMemStats(&after)
	return cost{
		elapsed: float64(elapsed) / calls,
		cpu:     float64(used) / calls,
		allocs:  float64(after.Mallocs-before.Mallocs) / calls,
		bytes:   float64(after.TotalAlloc-before.TotalAlloc) / calls,
	}, nil
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func median(samples []cost, of func(cost) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// page is the whole README, so that no part of it is ever stale.
func page(tables []table) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# What it costs

Made by `+"`go run -C bench .`"+` with %s on %d cores, %s/%s. Do not edit it: run that again.

A payload of 1 KiB goes to 1 to 100 targets. **Floor** is a WaitGroup and
`+"`http.Client`"+` that reads each answer into memory, no resilience at all. **Hand-rolled** is errgroup, backoff, gobreaker,
semaphore and timeouts, written with care ([contenders.go](contenders.go)). **fanout** has
every policy on. The two others are used as their documentation shows; go-retryablehttp
has neither breaker nor bulkhead.

Contenders ran in turn; figures are medians, as ratios to the floor in the same
run, because machines are noisy. Allocations are per target; bytes, in brackets, are
a ratio. A thousand goroutines wait meanwhile, as they do in a service.
`, runtime.Version(), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
	writeSection(&b, tables, "memory", "In memory: time",
		"The transport answers at once, so this is the library's own time.", func(c cost) float64 { return c.elapsed })
	writeSection(&b, tables, "loopback", "Over loopback: CPU time of the client process",
		"The targets are real servers in another process.", func(c cost) float64 { return c.cpu })
	return b.String()
}

func writeSection(b *strings.Builder, tables []table, wire, title, about string, spent func(cost) float64) {
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n| targets |", title, about)
	for _, c := range contenders {
		fmt.Fprintf(b, " %s |", c.name)
	}
	b.WriteString("\n|" + strings.Repeat(" --- |", len(contenders)+1) + "\n")
	for _, t := range tables {
		if t.wire != wire {
			continue
		}
		fmt.Fprintf(b, "| %d, time |", t.n)
		for i, c := range t.costs {
			fmt.Fprintf(b, " %.2f", spent(c)/spent(t.costs[0]))
			if i == 0 {
				fmt.Fprintf(b, " (%v)", time.Duration(spent(c)).Round(100*time.Nanosecond))
			}
			b.WriteString(" |")
		}
		fmt.Fprintf(b, "\n| %d, allocations (bytes) |", t.n)
		for _, c := range t.costs {
			fmt.Fprintf(b, " %.1f (%.2f) |", c.allocs/float64(t.n), c.bytes/t.costs[0].bytes)
		}
		b.WriteString("\n")
	}
}
