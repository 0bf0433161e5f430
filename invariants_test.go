package fanout_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestInvariant1EveryTargetHasExactlyOneEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		targets := []fanout.Target{
			via("fine", answering(200)),
			via("refuses", answering(400)),
			via("hangs", hanging),
			via("panics", func(*http.Request) (*http.Response, error) { panic("transport") }),
			via("exits", func(*http.Request) (*http.Response, error) { runtime.Goexit(); return nil, nil }),
			via("silent", func(*http.Request) (*http.Response, error) { return nil, nil }),
			sending("panicking sender", func(context.Context, *fanout.Request) (*fanout.Response, error) { panic("sender") }),
		}
		d := newWith(t, fanout.Config{Targets: targets, Defaults: fanout.Policy{Timeout: time.Second}})

		results := dispatch(t.Context(), d)
		require.Len(t, results, len(targets))
		for i, r := range results.Sorted() {
			assert.Equal(t, targets[i].Name, r.Target)
			assert.NotZero(t, r.Outcome)
			assert.Equal(t, r.Outcome == fanout.Delivered, r.Err() == nil)
		}

		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		for name, results := range map[string]fanout.Results{
			"cancelled":       dispatch(cancelled, d),
			"unknown name":    dispatch(t.Context(), d, fanout.To("fine", "nobody")),
			"bad URL in call": dispatch(t.Context(), d, fanout.To("fine"), fanout.ToTargets(fanout.Target{Name: "bad", URL: "ftp://x"})),
		} {
			for target, r := range results {
				assert.Equal(t, fanout.Rejected, r.Outcome, "%s: %s", name, target)
				assert.Empty(t, r.Attempts)
			}
		}
		assert.Len(t, dispatch(t.Context(), d, fanout.To("fine", "nobody")), 2)
	})
}

func TestInvariant2OneTargetChangesNothingForTheOthers(t *testing.T) {
	for name, trouble := range map[string]wire{
		"failure": answering(500),
		"refusal": answering(400),
		"hang":    hanging,
		"panic":   func(*http.Request) (*http.Response, error) { panic("boom") },
		"goexit":  func(*http.Request) (*http.Response, error) { runtime.Goexit(); return nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				slow := func(r *http.Request) (*http.Response, error) {
					time.Sleep(2 * time.Second)
					if r.Context().Err() != nil {
						return nil, r.Context().Err()
					}
					return answer(200, "{}"), nil
				}
				d := newDispatcher(t, via("trouble", trouble), via("slow", slow), via("quick", answering(200)))
				results := dispatch(t.Context(), d)
				for other, took := range map[string]time.Duration{"slow": 2 * time.Second, "quick": 0} {
					assert.Equal(t, fanout.Delivered, results[other].Outcome)
					assert.Len(t, results[other].Attempts, 1)
					assert.Equal(t, took, results[other].Duration)
				}
			})
		})
	}
}

func TestInvariant3AttemptsOnTheWireEqualAttemptsInTheResult(t *testing.T) {
	for _, statuses := range [][]int{{200}, {500, 200}, {500, 500, 500, 200}, {503, 400}, {400}} {
		t.Run(fmt.Sprint(statuses), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var seen []string
				next := inTurn(statuses...)
				d := newDispatcher(t, via("crm", func(r *http.Request) (*http.Response, error) {
					seen = append(seen, r.Header.Get(fanout.RequestIDHeader))
					return answer(next(), ""), nil
				}))
				var recorded []string
				for _, a := range dispatch(t.Context(), d)["crm"].Attempts {
					recorded = append(recorded, a.RequestID)
				}
				assert.Equal(t, seen, recorded)
			})
		})
	}
}

func TestInvariant4OneKeyForAllAttemptsAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		keys := map[string]map[string]int{} // by key, then by target
		record := func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			key := r.Header.Get("Idempotency-Key")
			if keys[key] == nil {
				keys[key] = map[string]int{}
			}
			keys[key][r.URL.Host]++
			return answer(500, ""), nil
		}
		d := newWith(t, fanout.Config{
			Targets:  []fanout.Target{via("a", record), via("b", record)},
			Defaults: fanout.Policy{Breaker: fanout.Breaker{OpenFor: -1}},
		})
		for range 3 {
			dispatch(t.Context(), d)
		}
		assert.Len(t, keys, 2*3)
		for key, targets := range keys {
			assert.Len(t, targets, 1, key)
			for _, attempts := range targets {
				assert.Equal(t, 3, attempts)
			}
		}
	})
}

func TestInvariant4WithoutAKeyOnlyWhatIsSafeIsRetried(t *testing.T) {
	refused := func(*http.Request) (*http.Response, error) {
		return nil, fanout.NotSent(errors.New("connection refused"))
	}
	broken := func(*http.Request) (*http.Response, error) { return nil, errors.New("reset") }
	for _, test := range []struct {
		method, header string
		wire           wire
		attempts       int
	}{
		{http.MethodPost, "", broken, 3},
		{http.MethodPost, "-", broken, 1},
		{http.MethodPatch, "-", answering(503), 1},
		{http.MethodPut, "-", broken, 3},
		{http.MethodDelete, "-", answering(500), 3},
		{http.MethodPost, "-", refused, 3},
	} {
		t.Run(fmt.Sprint(test.method, test.header, test.attempts), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				target := with(via("crm", test.wire), fanout.Policy{Idempotency: fanout.Idempotency{Header: test.header}})
				target.Method = test.method
				r := dispatch(t.Context(), newDispatcher(t, target))["crm"]
				assert.Len(t, r.Attempts, test.attempts)
				assert.Equal(t, test.attempts == 1, errors.Is(r.Err(), fanout.ErrNotIdempotent))
			})
		})
	}
}

func TestInvariant5NoAttemptStartsAndNoSleepEndsAfterTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 5 * time.Second
		for _, test := range []struct {
			name string
			wire wire
		}{
			{"hangs", hanging},
			{"fails", answering(500)},
			{"asks for long", func(*http.Request) (*http.Response, error) {
				a := answer(503, "")
				a.Header.Set("Retry-After", "60")
				return a, nil
			}},
			{"fails slowly", func(r *http.Request) (*http.Response, error) {
				select {
				case <-time.After(900 * time.Millisecond):
					return answer(500, ""), nil
				case <-r.Context().Done():
					return nil, r.Context().Err()
				}
			}},
		} {
			began := time.Now()
			d := newDispatcher(t, with(via("crm", test.wire), fanout.Policy{
				Timeout: timeout, AttemptTimeout: time.Second,
				Retry: fanout.Retry{MaxAttempts: 100, Budget: -1}, Breaker: fanout.Breaker{OpenFor: -1},
			}))
			r := dispatch(t.Context(), d)["crm"]
			assert.LessOrEqual(t, time.Since(began), timeout, test.name)
			for _, a := range r.Attempts {
				assert.Less(t, a.Start.Sub(began), timeout, test.name)
			}
		}
	})
}

func TestInvariant6RetriesToATargetThatIsDownAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const dispatches = 1000
		var attempts atomic.Int64
		down := func(*http.Request) (*http.Response, error) {
			attempts.Add(1)
			return answer(500, ""), nil
		}
		noBreaker := fanout.Policy{Breaker: fanout.Breaker{OpenFor: -1}}
		d := newDispatcher(t, with(via("crm", down), noBreaker))
		for range dispatches {
			dispatch(t.Context(), d)
		}
		assert.LessOrEqual(t, int(attempts.Load()), dispatches+dispatches/10)
		assert.Equal(t, dispatches+10, int(attempts.Load()), "the bucket's ten retries")

		attempts.Store(0)
		d = newDispatcher(t, via("crm", down))
		for range dispatches {
			dispatch(t.Context(), d)
		}
		assert.Less(t, int(attempts.Load()), dispatches/10, "a breaker adds less")
	})
}

func TestInvariant7EverythingIsGivenBack(t *testing.T) {
	closed := &atomic.Int64{}
	for name, trouble := range map[string]wire{
		"success": answering(200),
		"failure": answering(500),
		"panic":   func(*http.Request) (*http.Response, error) { panic("boom") },
		"goexit":  func(*http.Request) (*http.Response, error) { runtime.Goexit(); return nil, nil },
		"hang":    hanging,
		"too large": func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Body: &countedBody{Reader: strings.NewReader(strings.Repeat("x", 2048)), closed: closed}, ContentLength: -1}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var broken atomic.Bool
				broken.Store(true)
				target := with(via("crm", func(r *http.Request) (*http.Response, error) {
					if broken.Load() {
						return trouble(r)
					}
					return answer(200, ""), nil
				}), fanout.Policy{
					AttemptTimeout: time.Second, Timeout: time.Second, MaxResponseBytes: 1024,
					Retry:     fanout.Retry{MaxAttempts: 1},
					Breaker:   fanout.Breaker{ConsecutiveFailures: 1, OpenFor: time.Second},
					Bulkhead:  fanout.Bulkhead{MaxConcurrent: 1, MaxQueue: -1},
					RateLimit: fanout.RateLimit{PerSecond: 1, Burst: 1},
				})
				d := newDispatcher(t, target)
				for range 3 { // trips the breaker, then spends its probes
					dispatch(t.Context(), d)
					time.Sleep(5 * time.Second)
				}
				broken.Store(false)
				r := dispatch(t.Context(), d)["crm"]
				assert.Equal(t, fanout.Delivered, r.Outcome, "permit or probe lost: %v", r.Err())
			})
		})
	}
	assert.Equal(t, int64(3), closed.Load(), "bodies closed")
}

type countedBody struct {
	*strings.Reader

	closed *atomic.Int64
}

func (b *countedBody) Close() error {
	b.closed.Add(1)
	return nil
}

func TestInvariant7AnAttemptThatIsNotSentGivesItsRateTokenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		target := with(via("crm", func(*http.Request) (*http.Response, error) {
			<-release
			return answer(200, ""), nil
		}), fanout.Policy{
			Bulkhead:  fanout.Bulkhead{MaxConcurrent: 1, MaxQueue: -1},
			RateLimit: fanout.RateLimit{PerSecond: 1e-6, Burst: 2, MaxWait: -1},
		})
		d := newDispatcher(t, target)
		go dispatch(t.Context(), d)
		synctest.Wait()
		for range 5 { // each would take the second and last token
			require.ErrorIs(t, dispatch(t.Context(), d)["crm"].Err(), fanout.ErrBulkheadFull)
		}
		close(release)
		synctest.Wait()
		assert.Equal(t, fanout.Delivered, dispatch(t.Context(), d)["crm"].Outcome)
		assert.ErrorIs(t, dispatch(t.Context(), d)["crm"].Err(), fanout.ErrRateLimited)
	})
}

func TestInvariant8TheLastAttemptsErrorIsNeverLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reset := errors.New("reset by peer")
		broken := func(*http.Request) (*http.Response, error) { return nil, reset }
		d := newDispatcher(t, with(via("crm", broken), fanout.Policy{Retry: fanout.Retry{InitialBackoff: time.Second, Jitter: -1}}))
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		r := dispatch(ctx, d)["crm"]
		require.ErrorIs(t, r.Err(), reset)
		assert.Len(t, r.Attempts, 2)
		require.ErrorIs(t, r.Err(), fanout.ErrNoTimeLeft)

		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(1500*time.Millisecond, cancel)
		r = dispatch(ctx, d)["crm"]
		require.ErrorIs(t, r.Err(), reset)
		require.ErrorIs(t, r.Err(), context.Canceled)
		assert.Len(t, r.Attempts, 2)
	})
}

func TestInvariant11NoSecretIsInAnError(t *testing.T) {
	const secret = "s3cr3t"
	for name, target := range map[string]fanout.Target{
		"userinfo":     {Name: "crm", URL: "https://user:" + secret + "@crm.example"},
		"broken URL":   {Name: "crm", URL: "https://crm.example/%zz?token=" + secret},
		"control":      {Name: "crm", URL: "https://crm.example/?token=" + secret + "\x7f"},
		"bad port":     {Name: "crm", URL: "https://crm.example:" + secret + "/"},
		"header value": {Name: "crm", URL: "https://crm.example", Header: http.Header{"X-Token": {secret + "\n"}}},
	} {
		_, err := fanout.New(fanout.Config{Targets: []fanout.Target{target}})
		require.ErrorIs(t, err, fanout.ErrInvalid, name)
		assert.NotContains(t, err.Error(), secret, name)
	}

	for name, statuses := range map[string]int{"refused": 400, "redirect": 307, "down": 503} {
		synctest.Test(t, func(t *testing.T) {
			target := via("crm", func(*http.Request) (*http.Response, error) {
				a := answer(statuses, secret)
				a.Header.Set("Location", "https://crm.example/"+secret)
				return a, nil
			})
			target.URL += "/" + secret + "?token=" + secret
			target.Header = http.Header{"Authorization": {secret}}
			d := newDispatcher(t, target)
			_, err := d.Dispatch(t.Context(), map[string]string{"card": secret})
			require.Error(t, err, name)
			assert.NotContains(t, err.Error(), secret, name)
		})
	}
}

func TestInvariant12PanicsOfUserCodeAreContainedWithTheirStack(t *testing.T) {
	boom := func() { panic("boom") }
	fine := answering(200)
	for name, test := range map[string]struct {
		target  fanout.Target
		outcome fanout.Outcome
	}{
		"transport": {via("crm", func(*http.Request) (*http.Response, error) { boom(); return nil, nil }), fanout.Unknown},
		"sender":    {sending("crm", func(context.Context, *fanout.Request) (*fanout.Response, error) { boom(); return nil, nil }), fanout.Unknown},
		"classify": {fanout.Target{Name: "crm", URL: "http://crm.example", Transport: fine,
			Classify: func(*fanout.Response) error { boom(); return nil }}, fanout.Unknown},
		"prepare": {fanout.Target{Name: "crm", URL: "http://crm.example", Transport: fine,
			Prepare: func(context.Context, *fanout.Request) error { boom(); return nil }}, fanout.Rejected},
		"auth": {fanout.Target{Name: "crm", URL: "http://crm.example", Transport: fine,
			Auth: fanout.AuthenticatorFunc(func(context.Context, *http.Request) error { boom(); return nil })}, fanout.Rejected},
	} {
		t.Run(name, func(t *testing.T) {
			r := dispatch(t.Context(), newDispatcher(t, test.target))["crm"]
			assert.Equal(t, test.outcome, r.Outcome)
			var panicked *fanout.PanicError
			require.ErrorAs(t, r.Err(), &panicked)
			assert.Equal(t, "boom", panicked.Value)
			assert.True(t, bytes.Contains(panicked.Stack, []byte("TestInvariant12")), "the stack shows the culprit")
			assert.Contains(t, r.Err().Error(), "TestInvariant12", "and so does the error")
		})
	}
}

func TestInvariant12UserCodeRunsOutsideLocks(t *testing.T) {
	var d *fanout.Dispatcher
	reenter := func(ctx context.Context, _ *fanout.Request) (*fanout.Response, error) {
		d.BreakerState("outer")
		return nil, dispatch(ctx, d, fanout.To("inner"))["inner"].Err()
	}
	nothing := func(context.Context, *fanout.Request) (*fanout.Response, error) { return nil, nil }
	d = newDispatcher(t, sending("outer", reenter), sending("inner", nothing))
	results, err := d.Dispatch(t.Context(), "hello", fanout.To("outer"))
	require.NoError(t, err)
	assert.Equal(t, fanout.Delivered, results["outer"].Outcome)
}
