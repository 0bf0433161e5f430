package fanout_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/goleak"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/auth"
	"github.com/fanout-go/fanout/fanouthttp"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestInvariant1_EveryTargetHasExactlyOneEntry(t *testing.T) {
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

func TestInvariant2_OneTargetChangesNothingForTheOthers(t *testing.T) {
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

func TestInvariant3_AttemptsOnTheWireEqualAttemptsInTheResult(t *testing.T) {
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

func TestInvariant4_OneKeyForAllAttemptsAndNoOther(t *testing.T) {
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

func TestInvariant4_WithoutAKeyOnlyWhatIsSafeIsRetried(t *testing.T) {
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

func TestInvariant5_NoAttemptStartsAndNoSleepEndsAfterTheDeadline(t *testing.T) {
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

func TestInvariant6_RetriesToATargetThatIsDownAreBounded(t *testing.T) {
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

func TestInvariant7_EverythingIsGivenBack(t *testing.T) {
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

// countedBody counts how often it is closed.
type countedBody struct {
	*strings.Reader

	closed *atomic.Int64
}

func (b *countedBody) Close() error {
	b.closed.Add(1)
	return nil
}

func TestInvariant7_AnAttemptThatIsNotSentGivesItsRateTokenBack(t *testing.T) {
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

func TestInvariant8_TheLastAttemptsErrorIsNeverLost(t *testing.T) {
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

func TestInvariant9_SubmittedWorkOutlivesTheRequestAndKeepsItsValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		var value any
		var correlationID string
		var results fanouttest.Results
		d := newWith(t, fanout.Config{OnResult: results.OnResult, Targets: []fanout.Target{
			sending("ledger", func(ctx context.Context, _ *fanout.Request) (*fanout.Response, error) {
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
					return nil, ctx.Err()
				}
				value, correlationID = ctx.Value(key{}), fanout.CorrelationID(ctx)
				_, hasDeadline := ctx.Deadline()
				assert.True(t, hasDeadline)
				return nil, nil
			}),
			with(via("hangs", hanging), fanout.Policy{Timeout: time.Minute, Retry: fanout.Retry{MaxAttempts: 1}, AttemptTimeout: time.Minute}),
		}})
		ctx, cancel := context.WithTimeout(context.WithValue(fanout.WithCorrelationID(t.Context(), "visit-7"), key{}, "kept"), time.Millisecond)
		began := time.Now()
		id, err := d.Submit(ctx, "hello")
		require.NoError(t, err)
		cancel()
		got, err := results.Wait(t.Context(), id, "ledger", "hangs")
		require.NoError(t, err)
		assert.Equal(t, fanout.Delivered, got["ledger"].Outcome)
		assert.Equal(t, "kept", value)
		assert.Equal(t, "visit-7", correlationID)
		assert.Equal(t, fanout.Unknown, got["hangs"].Outcome)
		require.ErrorIs(t, got["hangs"].Err(), fanout.ErrTimeout)
		assert.Equal(t, time.Minute, time.Since(began), "a deadline of its own")
	})
}

func TestInvariant10_AfterCloseNothingRunsAndWhatWasNotDeliveredIsNamed(t *testing.T) {
	hangs := fanouttest.NewTarget(t, fanouttest.Hang())
	others := goleak.IgnoreCurrent()
	d, err := fanout.New(fanout.Config{
		Targets: []fanout.Target{hangs.Target("crm")},
		Queue:   fanout.NewMemoryQueue(fanout.MemoryLimits{Workers: 1}),
	})
	require.NoError(t, err)
	first, second := submit(t, d), submit(t, d)
	require.NoError(t, hangs.Wait(t.Context(), 1))
	over, cancel := context.WithCancel(t.Context())
	cancel()
	err = d.Close(over)
	goleak.VerifyNone(t, others)

	var left *fanout.UndeliveredError
	require.ErrorAs(t, err, &left)
	require.ErrorIs(t, err, context.Canceled)
	outcomes := map[string]fanout.Outcome{}
	for _, u := range left.Left {
		outcomes[u.Payload.ID] = u.Outcome
		assert.Equal(t, 1, strings.Count(u.Err().Error(), "dispatcher closed"), u.Err())
		assert.Equal(t, "hello", u.Payload.Value)
		assert.Equal(t, u.Payload.ID, u.Payload.Key, "so that it can be repeated")
		assert.Equal(t, `"hello"`, string(u.Payload.Body))
	}
	assert.Equal(t, map[string]fanout.Outcome{first: fanout.Unknown, second: fanout.Rejected}, outcomes)
	assert.Equal(t, 1, hangs.Count())
}

func TestInvariant11_NoSecretIsInAnError(t *testing.T) {
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

// marked is a value that must turn up in no output.
func marked(field string) string { return "s3cr3t-" + field }

// output is all that anybody sees of a dispatcher's work.
type output struct {
	log   records
	spans spans
	meter meter
	text  strings.Builder // errors
}

func (o *output) all(t *testing.T, d *fanout.Dispatcher) string {
	t.Helper()
	exported, err := json.Marshal(o.spans.GetSpans())
	require.NoError(t, err)
	var data metricdata.ResourceMetrics
	require.NoError(t, o.meter.reader.Collect(t.Context(), &data))
	measured, err := json.Marshal(data)
	require.NoError(t, err)
	status := httptest.NewRecorder()
	fanouthttp.StatusHandler(d).ServeHTTP(status, httptest.NewRequest(http.MethodGet, "/", nil))
	page := httptest.NewRecorder()
	asBrowser := httptest.NewRequest(http.MethodGet, "/", nil)
	asBrowser.Header.Set("Accept", "text/html")
	fanouthttp.StatusHandler(d).ServeHTTP(page, asBrowser)
	return strings.Join([]string{o.log.String(), string(exported), string(measured), o.text.String(), status.Body.String(), page.Body.String()}, "\n")
}

// withSecrets puts a marked value in every field that may hold a secret.
func withSecrets(t *fanout.Target) {
	t.URL += "/" + marked("path") + "?token=" + marked("query")
	t.Header = http.Header{"X-Api-Key": {marked("header")}}
	t.Auth = auth.Bearer(auth.NewSecret(marked("auth")))
	t.Sign = fanout.SignerFunc(func(_ context.Context, r *fanout.Request) error {
		r.Header.Set("X-Signature", marked("signature"))
		return nil
	})
	t.Prepare = func(_ context.Context, r *fanout.Request) error {
		r.Header.Set("X-Prepared", marked("prepared"))
		return nil
	}
}

func TestInvariant11_NoSecretIsInAnErrorLogSpanOrMetric(t *testing.T) {
	hostile := func(status int) fanouttest.Step {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://elsewhere.example/"+marked("location"))
			w.Header().Set("X-Answer", marked("answer-header"))
			w.WriteHeader(status)
			_, _ = w.Write([]byte(marked("answer-body")))
		}
	}
	echo := func(w http.ResponseWriter, r *http.Request) {
		conn, _, _ := w.(http.Hijacker).Hijack()
		defer conn.Close()
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 %s %s\r\n\r\n", r.Header.Get("Authorization"), r.URL)
	}
	for name, step := range map[string]fanouttest.Step{
		"accepted": hostile(200), "refused": hostile(400), "redirect": hostile(307), "down": hostile(503),
		"echo": echo, "reset": fanouttest.Reset(), "hang": fanouttest.Hang(),
	} {
		t.Run(name, func(t *testing.T) {
			seen := &output{spans: newSpans(t), meter: newMeter()}
			fake := fanouttest.NewTarget(t, step)
			target := fake.Target("crm")
			withSecrets(&target)
			gone := target
			gone.Name, gone.URL = "gone", "http://127.0.0.1:1/"+marked("path")+"?q="+marked("query")
			unsigned := target
			unsigned.Name, unsigned.Auth = "unsigned", fanout.AuthenticatorFunc(func(context.Context, *http.Request) error {
				return &url.Error{Op: "Post", URL: "https://tokens.example/" + marked("token-url"), Err: errors.New("refused")}
			})
			logger := seen.log.logger(slog.LevelDebug)
			d := newWith(t, fanout.Config{
				Targets: []fanout.Target{target, gone, unsigned},
				Logger:  logger, SecurityLogger: logger, TracerProvider: seen.spans.provider, MeterProvider: seen.meter.provider,
				Defaults: fanout.Policy{Timeout: 2 * time.Second, AttemptTimeout: 100 * time.Millisecond, Retry: fanout.Retry{MaxAttempts: 2, InitialBackoff: time.Millisecond, ThrottledBackoff: -1}},
			})
			payload := fanout.Payload{Value: map[string]string{"card": marked("body")}, Header: http.Header{"X-Tenant": {marked("payload-header")}}}
			results, err := d.Dispatch(t.Context(), payload)
			require.Error(t, err)
			seen.text.WriteString(err.Error())
			for _, r := range results {
				fmt.Fprintln(&seen.text, r.Err(), r.Attempts)
			}
			_, err = d.Dispatch(t.Context(), payload, fanout.ToTargets(fanout.Target{Name: "bad", URL: "https://user:" + marked("password") + "@crm.example"}))
			seen.text.WriteString(err.Error())
			_, err = d.Submit(t.Context(), payload)
			require.NoError(t, err)
			require.NoError(t, d.Close(t.Context()))

			all := seen.all(t, d)
			assert.NotContains(t, all, "s3cr3t")
			assert.Contains(t, all, "http.client.request.duration")
			assert.Contains(t, all, "fanout: attempt")
		})
	}
}

func TestInvariant12_PanicsOfUserCodeAreContainedWithTheirStack(t *testing.T) {
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

func TestInvariant12_UserCodeRunsOutsideLocks(t *testing.T) {
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
