package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

var event = fanout.Payload{Body: []byte(`{"id":"o-1"}`), ContentType: "application/json"}

func sender(name string, send func(context.Context) error) fanout.Target {
	return fanout.Target{Name: name, Sender: fanout.SenderFunc(func(ctx context.Context, _ *fanout.Request) (*fanout.Response, error) {
		return nil, send(ctx)
	})}
}

func at(once error) func(context.Context) error { return func(context.Context) error { return once } }

func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// BenchmarkSubmit compares the cost of Submit for its caller with that of starting a
// goroutine.
func BenchmarkSubmit(b *testing.B) {
	b.Run("fanout", func(b *testing.B) {
		const full = 1000
		proceed := make(chan struct{})
		d, err := fanout.New(fanout.Config{
			Targets: []fanout.Target{sender("ledger", func(context.Context) error { <-proceed; return nil })},
			Queue:   fanout.NewMemoryQueue(fanout.MemoryLimits{MaxDispatches: full + 1, MaxPerTarget: full + 1, Workers: 1}),
		})
		require.NoError(b, err)
		b.ReportAllocs()
		for i := range b.N {
			if _, err := d.Submit(context.Background(), &event); err != nil {
				b.Fatal(err)
			}
			if i%full == full-1 {
				b.StopTimer()
				for range full {
					proceed <- struct{}{}
				}
				b.StartTimer()
			}
		}
		b.StopTimer()
		close(proceed)
		require.NoError(b, d.Close(context.Background()))
	})
	b.Run("go func", func(b *testing.B) {
		done := make(chan struct{}, b.N)
		b.ReportAllocs()
		for range b.N {
			go func() { done <- struct{}{} }()
		}
		b.StopTimer()
		for range b.N {
			<-done
		}
	})
}

// BenchmarkNeighbours measures the time from Submit to the result, once when one of ten
// targets hangs, and once when none does. The two take turns, so that whatever else the
// machine does affects both.
func BenchmarkNeighbours(b *testing.B) {
	fine, hangs := newNeighbourhood(b, at(nil)), newNeighbourhood(b, hang)
	for b.Loop() {
		for _, n := range []*neighbourhood{fine, hangs} {
			n.submit(b)
			time.Sleep(4 * time.Millisecond)
		}
	}
	without, with := fine.p99(b), hangs.p99(b)
	b.ReportMetric(float64(without), "p99-ns/without")
	b.ReportMetric(float64(with), "p99-ns/with")
	b.ReportMetric(float64(with)/float64(without), "p99-ratio")
}

type neighbourhood struct {
	dispatcher *fanout.Dispatcher
	mu         sync.Mutex
	latencies  []time.Duration
}

func newNeighbourhood(b *testing.B, tenth func(context.Context) error) *neighbourhood {
	b.Helper()
	n := &neighbourhood{}
	last := sender("tenth", tenth)
	last.Optional = true
	targets := []fanout.Target{last}
	for i := range 9 {
		targets = append(targets, sender(fmt.Sprint("neighbour-", i), func(context.Context) error {
			time.Sleep(time.Millisecond)
			return nil
		}))
	}
	d, err := fanout.New(fanout.Config{Targets: targets, OnResult: n.onResult})
	require.NoError(b, err)
	n.dispatcher = d
	return n
}

func (n *neighbourhood) submit(b *testing.B) {
	b.Helper()
	submitted := event
	submitted.ID = strconv.FormatInt(time.Now().UnixNano(), 10)
	if _, err := n.dispatcher.Submit(context.Background(), &submitted); err != nil {
		b.Fatal(err)
	}
}

func (n *neighbourhood) onResult(_ context.Context, r fanout.Result) {
	if r.Target == "tenth" {
		return
	}
	submitted, _ := strconv.ParseInt(r.Payload.ID, 10, 64)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.latencies = append(n.latencies, time.Since(time.Unix(0, submitted)))
}

func (n *neighbourhood) p99(b *testing.B) time.Duration {
	b.Helper()
	over, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = n.dispatcher.Close(over) // the deliveries that hang are left
	n.mu.Lock()
	defer n.mu.Unlock()
	slices.Sort(n.latencies)
	return n.latencies[len(n.latencies)*99/100]
}

// heapOf measures how many bytes of heap each item of some work occupies.
func heapOf(t *testing.T, n int, work func()) int {
	t.Helper()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	work()
	runtime.GC()
	runtime.ReadMemStats(&after)
	assert.Less(t, runtime.NumGoroutine()-goroutines, 5)
	return int(after.HeapAlloc-before.HeapAlloc) / n
}

func TestWhatWaitsCostsWhatTheDocsSay(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	const n = 20_000
	d, err := fanout.New(fanout.Config{
		Targets: []fanout.Target{sender("hangs", hang)},
		Queue:   fanout.NewMemoryQueue(fanout.MemoryLimits{MaxDispatches: n, MaxPerTarget: n, Workers: 1}),
	})
	require.NoError(t, err)
	each := heapOf(t, n, func() {
		for range n {
			_, err := d.Submit(context.Background(), &event)
			require.NoError(t, err)
		}
	})
	t.Logf("%d bytes for a submission that waits", each)
	assert.LessOrEqual(t, each, 350)
	over, cancel := context.WithCancel(context.Background())
	cancel()
	require.Error(t, d.Close(over))
}

func TestAnIdleTargetCostsWhatTheDocsSay(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	const n = 100_000
	d, err := fanout.New(fanout.Config{})
	require.NoError(t, err)
	targets := make([]fanout.Target, n)
	for i := range targets {
		targets[i] = fanout.Target{Name: fmt.Sprint("customer-", i), URL: fmt.Sprintf("https://customer-%d.example/hooks", i)}
	}
	each := heapOf(t, n, func() { require.NoError(t, d.SetTargets(targets...)) })
	t.Logf("%d bytes for an idle target", each)
	assert.LessOrEqual(t, each, 2944)
	runtime.KeepAlive(targets)
	require.NoError(t, d.Close(context.Background()))
}

func TestSubmitMakesAtMostTwoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	d, err := fanout.New(fanout.Config{
		Targets: []fanout.Target{sender("hangs", hang)},
		Queue:   fanout.NewMemoryQueue(fanout.MemoryLimits{MaxDispatches: 2000, MaxPerTarget: 2000, Workers: 1}),
	})
	require.NoError(t, err)
	each := testing.AllocsPerRun(1000, func() {
		if _, err := d.Submit(context.Background(), &event); err != nil {
			t.Fatal(err)
		}
	})
	assert.LessOrEqual(t, each, 2.0)
	over, cancel := context.WithCancel(context.Background())
	cancel()
	require.Error(t, d.Close(over))
}
