package fanout_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

// waits returns how long the delivery to crm waited before each further attempt.
func waits(t *testing.T, target fanout.Target) []time.Duration {
	t.Helper()
	var all []time.Duration
	attempts := dispatch(t.Context(), newDispatcher(t, target))["crm"].Attempts
	for i, a := range attempts[1:] {
		all = append(all, a.Start.Sub(attempts[i].Start.Add(attempts[i].Duration)))
	}
	return all
}

func TestRetry_BackoffGrowsToItsCap(t *testing.T) {
	for _, test := range []struct {
		name  string
		retry fanout.Retry
		wire  wire
		want  []time.Duration
	}{
		{"defaults", fanout.Retry{}, answering(500), []time.Duration{100 * time.Millisecond, 200 * time.Millisecond}},
		{"from a second after 503", fanout.Retry{}, answering(503), []time.Duration{time.Second, 2 * time.Second}},
		{"from a second after 429", fanout.Retry{}, answering(429), []time.Duration{time.Second, 2 * time.Second}},
		{"unless that is off", fanout.Retry{ThrottledBackoff: -1}, answering(429), []time.Duration{100 * time.Millisecond, 200 * time.Millisecond}},
		{"capped", fanout.Retry{MaxAttempts: 5, InitialBackoff: time.Second, MaxBackoff: 3 * time.Second}, answering(500),
			[]time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second}},
		{"multiplied", fanout.Retry{InitialBackoff: time.Second, Multiplier: 5}, answering(500), []time.Duration{time.Second, 5 * time.Second}},
		{"constant", fanout.Retry{InitialBackoff: time.Second, Multiplier: 1}, answering(500), []time.Duration{time.Second, time.Second}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.retry.Jitter = -1
				assert.Equal(t, test.want, waits(t, with(via("crm", test.wire), fanout.Policy{Retry: test.retry})))
			})
		})
	}
}

func TestRetry_BackoffIsJittered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := map[time.Duration]bool{}
		for range 20 {
			wait := waits(t, with(via("crm", answering(500)), fanout.Policy{Retry: fanout.Retry{InitialBackoff: time.Second}}))[0]
			assert.GreaterOrEqual(t, wait, 500*time.Millisecond)
			assert.LessOrEqual(t, wait, 1500*time.Millisecond)
			seen[wait] = true
		}
		assert.Greater(t, len(seen), 10)
	})
}

func TestRetry_FollowsOnlyTheStatusesOfThePolicy(t *testing.T) {
	for _, test := range []struct {
		statuses []int
		answer   int
		attempts int
	}{
		{nil, 408, 3}, {nil, 425, 3}, {nil, 429, 3}, {nil, 500, 3}, {nil, 502, 3}, {nil, 503, 3}, {nil, 504, 3}, {nil, 520, 3}, {nil, 524, 3}, {nil, 530, 3}, {nil, 599, 3},
		{nil, 301, 1}, {nil, 307, 1}, {nil, 400, 1}, {nil, 401, 1}, {nil, 403, 1}, {nil, 404, 1}, {nil, 422, 1}, {nil, 501, 1}, {nil, 505, 1}, {nil, 507, 1}, {nil, 519, 1}, {nil, 528, 1},
		{[]int{404}, 404, 3}, {[]int{404}, 500, 1}, {[]int{}, 503, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			target := with(via("crm", answering(test.answer)), fanout.Policy{Retry: fanout.Retry{Statuses: test.statuses}})
			r := dispatch(t.Context(), newDispatcher(t, target))["crm"]
			assert.Len(t, r.Attempts, test.attempts, "%v %d", test.statuses, test.answer)
			assert.Equal(t, test.attempts == 1, errors.Is(r.Err(), fanout.ErrNotRetried))
			assert.Equal(t, test.attempts == 3, errors.Is(r.Err(), fanout.ErrAttemptsExhausted))
		})
	}
}

func TestRetry_OneAttemptMeansNone(t *testing.T) {
	target := with(via("crm", answering(500)), fanout.Policy{Retry: fanout.Retry{MaxAttempts: 1}})
	r := dispatch(t.Context(), newDispatcher(t, target))["crm"]
	assert.Len(t, r.Attempts, 1)
	require.ErrorIs(t, r.Err(), fanout.ErrAttemptsExhausted)
}

func TestRetryAfter_IsWaitedForInFullAndALittleLonger(t *testing.T) {
	inAMinute := func(layout string) func() string {
		return func() string { return time.Now().Add(time.Minute).UTC().Format(layout) }
	}
	for name, test := range map[string]struct {
		value func() string
		asked time.Duration
	}{
		"seconds":       {func() string { return "7" }, 7 * time.Second},
		"HTTP-date":     {inAMinute(http.TimeFormat), time.Minute},
		"RFC 850 date":  {inAMinute("Monday, 02-Jan-06 15:04:05 GMT"), time.Minute},
		"asctime date":  {inAMinute(time.ANSIC), time.Minute},
		"leading zeros": {func() string { return "007" }, 7 * time.Second},
		"a fraction":    {func() string { return "4.5" }, 4500 * time.Millisecond},
		"point zero":    {func() string { return "5.0" }, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				wait := waits(t, with(via("crm", saying(test.value(), 503, 200)), fanout.Policy{Timeout: time.Hour}))[0]
				assert.GreaterOrEqual(t, wait, test.asked)
				assert.LessOrEqual(t, wait, test.asked+max(test.asked/10, 1500*time.Millisecond))
			})
		})
	}
}

func TestRetryAfter_ThatSaysNothingLeavesTheBackoffAsItIs(t *testing.T) {
	for _, value := range []string{"", "0", "-5", "soon", "1.5.1", "+3", " ", "Fri, 31 Dec 1999 23:59:59 GMT"} {
		t.Run(value, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				target := with(via("crm", saying(value, 503, 200)), fanout.Policy{Retry: fanout.Retry{Jitter: -1}})
				assert.Equal(t, []time.Duration{time.Second}, waits(t, target))
			})
		})
	}
}

func TestRetryAfter_BeyondTheDeadlineEndsTheDeliveryAtOnceAndIsInTheError(t *testing.T) {
	for value, hint := range map[string]time.Duration{
		"3600":                  time.Hour,
		"99999999999999999999":  1<<63 - 1,
		"9223372036854775807":   1<<63 - 1,
		"000000000000000000031": 31 * time.Second,
		"9223372036":            9223372036 * time.Second,
		"18446744073709551617":  1<<63 - 1,
		"9223372037":            1<<63 - 1,
	} {
		t.Run(value, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				r := dispatch(t.Context(), newDispatcher(t, via("crm", saying(value, 429))))["crm"]
				assert.Zero(t, time.Since(began))
				assert.Equal(t, fanout.Failed, r.Outcome)
				require.ErrorIs(t, r.Err(), fanout.ErrNoTimeLeft)
				var status *fanout.StatusError
				require.ErrorAs(t, r.Err(), &status)
				assert.Equal(t, hint, status.RetryAfter)
			})
		})
	}
}

// Whatever a target writes, the next attempt is neither earlier than it asked
// for nor after the deadline, and nothing sleeps for ever.
func FuzzRetryAfter(f *testing.F) {
	for _, value := range []string{"", "0", "7", "-1", "1.5", "99999999999999999999", "Sat, 01 Jan 2000 00:00:09 GMT", "Saturday, 01-Jan-00 00:00:09 GMT", "Sat Jan  1 00:00:09 2000"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			r := dispatch(t.Context(), newDispatcher(t, via("crm", saying(value, 429, 200))))["crm"]
			var status *fanout.StatusError
			require.ErrorAs(t, r.Attempts[0].Err, &status)
			require.GreaterOrEqual(t, status.RetryAfter, time.Duration(0))
			require.Less(t, time.Since(began), 30*time.Second)
			if len(r.Attempts) == 2 {
				require.GreaterOrEqual(t, r.Attempts[1].Start.Sub(began), status.RetryAfter)
				return
			}
			require.ErrorIs(t, r.Err(), fanout.ErrNoTimeLeft)
			require.Greater(t, status.RetryAfter, 20*time.Second)
		})
	})
}

func TestRetryBudget_IsRefilledBySuccesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		status := 500
		d := newDispatcher(t, with(via("crm", func(*http.Request) (*http.Response, error) { return answer(status, ""), nil }),
			fanout.Policy{Retry: fanout.Retry{MaxAttempts: 2, Budget: 1, BudgetRefill: 0.5}, Breaker: fanout.Breaker{OpenFor: -1}}))
		attempts := func() int { return len(dispatch(t.Context(), d)["crm"].Attempts) }

		assert.Equal(t, 2, attempts())
		require.ErrorIs(t, dispatch(t.Context(), d)["crm"].Err(), fanout.ErrRetryBudget)
		status = 200
		attempts()
		status = 500
		assert.Equal(t, 1, attempts(), "half a token buys nothing")
		status = 200
		attempts()
		status = 500
		assert.Equal(t, 2, attempts())
	})
}

func TestRetryBudget_IsNotSpentOnARetryThatIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, with(via("crm", answering(500)), fanout.Policy{
			Retry: fanout.Retry{Budget: 1, BudgetRefill: -1}, Breaker: fanout.Breaker{OpenFor: -1},
		}))
		for range 5 { // each takes the only token, and is cancelled in its backoff
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Millisecond, cancel)
			require.ErrorIs(t, dispatch(ctx, d)["crm"].Err(), context.Canceled)
		}
		assert.Len(t, dispatch(t.Context(), d)["crm"].Attempts, 2)
	})
}

func TestRetryBudget_IsGivenBackWhenARetryPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := with(via("crm", answering(500)), fanout.Policy{
			Retry: fanout.Retry{Budget: 1, BudgetRefill: -1}, Breaker: fanout.Breaker{OpenFor: -1},
		})
		calls := 0
		target.Auth = fanout.AuthenticatorFunc(func(context.Context, *http.Request) error {
			if calls++; calls%2 == 0 {
				panic("token")
			}
			return nil
		})
		d := newDispatcher(t, target)
		for range 5 {
			var panicked *fanout.PanicError
			require.ErrorAs(t, dispatch(t.Context(), d)["crm"].Err(), &panicked)
		}
	})
}

func TestRetryBudget_NegativeMeansNoBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, with(via("crm", answering(500)), fanout.Policy{
			Retry: fanout.Retry{Budget: -1}, Breaker: fanout.Breaker{OpenFor: -1},
		}))
		for range 100 {
			assert.Len(t, dispatch(t.Context(), d)["crm"].Attempts, 3)
		}
	})
}
