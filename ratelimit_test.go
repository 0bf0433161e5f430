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

func TestRateLimit_SpacesAttempts(t *testing.T) {
	for _, test := range []struct {
		name  string
		limit fanout.RateLimit
		took  []time.Duration // of dispatches one after the other
	}{
		{"default burst is a second's worth", fanout.RateLimit{PerSecond: 2}, []time.Duration{0, 0, 500 * time.Millisecond, 500 * time.Millisecond}},
		{"burst of one", fanout.RateLimit{PerSecond: 10, Burst: 1}, []time.Duration{0, 100 * time.Millisecond, 100 * time.Millisecond}},
		{"slower than one a second", fanout.RateLimit{PerSecond: 0.2}, []time.Duration{0, 5 * time.Second}},
		{"off", fanout.RateLimit{}, []time.Duration{0, 0, 0, 0}},
		{"off for this target", fanout.RateLimit{PerSecond: -1}, []time.Duration{0, 0, 0, 0}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDispatcher(t, with(via("crm", answering(200)), fanout.Policy{RateLimit: test.limit}))
				for _, want := range test.took {
					r := dispatch(t.Context(), d)["crm"]
					assert.Equal(t, fanout.Delivered, r.Outcome)
					assert.Equal(t, want, r.Duration)
				}
			})
		})
	}
}

func TestRateLimit_DoesNotWaitForATokenThatWouldComeTooLate(t *testing.T) {
	for name, policy := range map[string]fanout.Policy{
		"longer than MaxWait":   {RateLimit: fanout.RateLimit{PerSecond: 0.1, MaxWait: 9 * time.Second}},
		"no wait":               {RateLimit: fanout.RateLimit{PerSecond: 100, Burst: 1, MaxWait: -1}},
		"longer than is left":   {RateLimit: fanout.RateLimit{PerSecond: 0.01}},
		"as long as is left":    {RateLimit: fanout.RateLimit{PerSecond: 0.1}, Timeout: 10 * time.Second},
		"the caller's deadline": {RateLimit: fanout.RateLimit{PerSecond: 0.05}, Timeout: -1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				d := newDispatcher(t, with(via("crm", answering(200)), policy))
				dispatch(ctx, d)
				r := dispatch(ctx, d)["crm"]
				assert.Equal(t, fanout.Rejected, r.Outcome)
				require.ErrorIs(t, r.Err(), fanout.ErrRateLimited)
				assert.Zero(t, r.Duration)
			})
		})
	}
}

func TestRateLimit_GivesATokenThatIsNoLongerWaitedForToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, with(via("crm", answering(200)), fanout.Policy{RateLimit: fanout.RateLimit{PerSecond: 1, Burst: 1}}))
		dispatch(t.Context(), d)
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(10*time.Millisecond, cancel)
			require.ErrorIs(t, dispatch(ctx, d)["crm"].Err(), context.Canceled)
		}
		r := dispatch(t.Context(), d)["crm"]
		assert.Equal(t, 970*time.Millisecond, r.Duration)
	})
}

func TestRateLimit_RetriesTakeTokensToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, with(via("crm", answering(500)), fanout.Policy{RateLimit: fanout.RateLimit{PerSecond: 0.5, Burst: 1}}))
		attempts := dispatch(t.Context(), d)["crm"].Attempts
		require.Len(t, attempts, 3)
		for i, a := range attempts[1:] {
			assert.InDelta(t, 2*time.Second, a.Start.Sub(attempts[i].Start), float64(time.Microsecond))
		}
	})
}

func TestRateLimit_RejectedCallsTakeNoTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent atomic.Int64
		d := newDispatcher(t, with(via("crm", func(*http.Request) (*http.Response, error) {
			sent.Add(1)
			return answer(200, ""), nil
		}), fanout.Policy{RateLimit: fanout.RateLimit{PerSecond: 20, Burst: 1, MaxWait: 50 * time.Millisecond}}))
		var all sync.WaitGroup
		for range 3000 {
			all.Go(func() { dispatch(t.Context(), d) })
			time.Sleep(time.Millisecond)
		}
		all.Wait()
		assert.GreaterOrEqual(t, sent.Load(), int64(55), "of 60")
	})
}
