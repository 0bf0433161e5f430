package fanout_test

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

// servingFor is a target that takes a while, and knows how many it served at once.
func servingFor(d time.Duration, most *atomic.Int64) wire {
	var now atomic.Int64
	var mu sync.Mutex
	return func(*http.Request) (*http.Response, error) {
		n := now.Add(1)
		mu.Lock()
		most.Store(max(n, most.Load()))
		mu.Unlock()
		defer now.Add(-1)
		time.Sleep(d)
		return answer(200, ""), nil
	}
}

// dispatchAtOnce makes n dispatches at once and counts their ends.
func dispatchAtOnce(t *testing.T, d *fanout.Dispatcher, n int) (delivered int, rejected []error) {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			r := dispatch(t.Context(), d)["crm"]
			mu.Lock()
			defer mu.Unlock()
			if r.Outcome == fanout.Delivered {
				delivered++
			} else {
				rejected = append(rejected, r.Err())
			}
		})
	}
	all.Wait()
	return delivered, rejected
}

func TestBulkhead_BoundsWhatIsUnderWayAndWhatWaits(t *testing.T) {
	for _, test := range []struct {
		name               string
		bulkhead           fanout.Bulkhead
		takes              time.Duration
		calls              int
		atOnce, delivering int
	}{
		{"default", fanout.Bulkhead{}, 100 * time.Millisecond, 400, 64, 64 + 256},
		{"small", fanout.Bulkhead{MaxConcurrent: 2, MaxQueue: 3}, 100 * time.Millisecond, 10, 2, 5},
		{"no queue", fanout.Bulkhead{MaxConcurrent: 2, MaxQueue: -1}, time.Second, 10, 2, 2},
		{"no wait", fanout.Bulkhead{MaxConcurrent: 2, MaxWait: -1}, time.Second, 10, 2, 2},
		{"short wait", fanout.Bulkhead{MaxConcurrent: 2, MaxWait: 1500 * time.Millisecond}, time.Second, 10, 2, 4},
		{"off", fanout.Bulkhead{MaxConcurrent: -1}, time.Second, 1000, 1000, 1000},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var most atomic.Int64
				d := newDispatcher(t, with(via("crm", servingFor(test.takes, &most)), fanout.Policy{Bulkhead: test.bulkhead}))
				delivered, rejected := dispatchAtOnce(t, d, test.calls)
				assert.Equal(t, test.atOnce, int(most.Load()))
				assert.Equal(t, test.delivering, delivered)
				for _, err := range rejected {
					require.ErrorIs(t, err, fanout.ErrBulkheadFull)
				}
			})
		})
	}
}

func TestBulkhead_HasNoPlaceTakenDuringBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := inTurn(500, 200)
		d := newDispatcher(t, with(via("crm", func(*http.Request) (*http.Response, error) { return answer(next(), ""), nil }),
			fanout.Policy{Retry: fanout.Retry{InitialBackoff: time.Second}, Bulkhead: fanout.Bulkhead{MaxConcurrent: 1, MaxQueue: -1}}))
		first := make(chan fanout.Outcome, 1)
		go func() { first <- dispatch(t.Context(), d)["crm"].Outcome }()
		synctest.Wait()
		assert.Equal(t, fanout.Delivered, dispatch(t.Context(), d)["crm"].Outcome, "while the other backs off")
		assert.Equal(t, fanout.Delivered, <-first)
	})
}

func TestBulkhead_WaitDoesNotCountAgainstTheAttemptTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var most atomic.Int64
		d := newDispatcher(t, with(via("crm", servingFor(time.Second, &most)), fanout.Policy{
			AttemptTimeout: 1500 * time.Millisecond, Bulkhead: fanout.Bulkhead{MaxConcurrent: 1, MaxWait: time.Minute},
		}))
		delivered, _ := dispatchAtOnce(t, d, 5)
		assert.Equal(t, 5, delivered)
	})
}

func TestBulkhead_WaitEndsAtOnceOnCancelAndKeepsNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var most atomic.Int64
		d := newDispatcher(t, with(via("crm", servingFor(time.Second, &most)), fanout.Policy{
			Bulkhead: fanout.Bulkhead{MaxConcurrent: 1, MaxQueue: 1, MaxWait: time.Minute},
		}))
		go dispatch(t.Context(), d)
		synctest.Wait()
		for range 3 {
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			r := dispatch(ctx, d)["crm"]
			cancel()
			assert.Equal(t, fanout.Rejected, r.Outcome)
			require.ErrorIs(t, r.Err(), context.DeadlineExceeded)
			assert.Equal(t, 10*time.Millisecond, time.Since(began))
		}
		assert.Equal(t, fanout.Delivered, dispatch(t.Context(), d)["crm"].Outcome)
	})
}
