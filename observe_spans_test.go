package fanout_test

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestSpans_OfADispatchWithARetryAreATreeByTheConventions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		recorded := newSpans(t)
		crm := via("crm", answering(503, 201))
		crm.URL = "https://crm.example:8443/v1/contacts?token=secret"
		d := newWith(t, fanout.Config{Targets: []fanout.Target{crm}, TracerProvider: recorded.provider})
		ctx, request := recorded.provider.Tracer("service").Start(fanout.WithCorrelationID(t.Context(), "visit-7"), "POST /signup")
		results := dispatch(ctx, d)
		request.End()
		id := results["crm"].Payload.ID

		top := recorded.children(request.SpanContext())
		require.Len(t, top, 1)
		assert.Equal(t, "fanout.dispatch", top[0].Name)
		assert.Equal(t, trace.SpanKindInternal, top[0].SpanKind)
		assert.Equal(t, codes.Unset, top[0].Status.Code)
		assert.Equal(t, "github.com/fanout-go/fanout", top[0].InstrumentationScope.Name)
		assert.Equal(t, map[string]any{"fanout.dispatch_id": id, "fanout.correlation_id": "visit-7", "fanout.targets": int64(1)}, attributesOf(top[0].Attributes))

		deliveries := recorded.children(top[0].SpanContext)
		require.Len(t, deliveries, 1)
		delivery := deliveries[0]
		assert.Equal(t, "deliver crm", delivery.Name)
		assert.Equal(t, trace.SpanKindInternal, delivery.SpanKind)
		assert.Equal(t, codes.Unset, delivery.Status.Code)
		assert.Equal(t, map[string]any{
			"fanout.target": "crm", "fanout.dispatch_id": id, "fanout.correlation_id": "visit-7",
			"fanout.outcome": "delivered", "fanout.attempts": int64(2),
		}, attributesOf(delivery.Attributes))
		require.Len(t, delivery.Events, 1)
		assert.Equal(t, "fanout.wait", delivery.Events[0].Name)
		wait := attributesOf(delivery.Events[0].Attributes)
		assert.Equal(t, "backoff", wait["fanout.wait.reason"])
		assert.GreaterOrEqual(t, wait["fanout.wait.duration"], 0.5, "a 503 is waited for")

		attempts := recorded.children(delivery.SpanContext)
		require.Len(t, attempts, 2)
		for i, attempt := range attempts {
			assert.Equal(t, "POST", attempt.Name)
			assert.Equal(t, trace.SpanKindClient, attempt.SpanKind)
			want := map[string]any{
				"http.request.method":       "POST",
				"server.address":            "crm.example",
				"server.port":               int64(8443),
				"url.full":                  "https://crm.example:8443/REDACTED?REDACTED",
				"http.response.status_code": int64([]int{503, 201}[i]),
			}
			if i == 0 {
				want["error.type"] = "503"
				assert.Equal(t, codes.Error, attempt.Status.Code)
			} else {
				want["http.request.resend_count"] = int64(1)
				assert.Equal(t, codes.Unset, attempt.Status.Code)
			}
			assert.Equal(t, want, attributesOf(attempt.Attributes))
		}
	})
}

func TestSpans_ErrorTypeOfAnAttemptFollowsTheConventions(t *testing.T) {
	once := fanout.Policy{Retry: fanout.Retry{MaxAttempts: 1}, AttemptTimeout: time.Second}
	for name, test := range map[string]struct {
		send      wire
		method    string
		errorType any
		status    codes.Code
		spanName  string
	}{
		"success":       {answering(204), "PUT", nil, codes.Unset, "PUT"},
		"redirect":      {answering(302), "GET", nil, codes.Unset, "GET"},
		"client error":  {answering(404), "POST", "404", codes.Error, "POST"},
		"server error":  {answering(500), "POST", "500", codes.Error, "POST"},
		"timeout":       {hanging, "POST", "timeout", codes.Error, "POST"},
		"broken":        {func(*http.Request) (*http.Response, error) { return nil, errors.New("broken pipe to 7") }, "POST", "_OTHER", codes.Error, "POST"},
		"panic":         {func(*http.Request) (*http.Response, error) { panic("oops") }, "POST", "panic", codes.Error, "POST"},
		"unknown to it": {answering(200), "PROPFIND", nil, codes.Unset, "HTTP"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				recorded := newSpans(t)
				target := with(via("crm", test.send), once)
				target.Method = test.method
				dispatch(t.Context(), newWith(t, fanout.Config{Targets: []fanout.Target{target}, TracerProvider: recorded.provider}))
				span := recorded.named(t, test.spanName)
				attributes := attributesOf(span.Attributes)
				assert.Equal(t, test.errorType, attributes["error.type"])
				assert.Equal(t, test.status, span.Status.Code)
				if test.spanName == "HTTP" {
					assert.Equal(t, "_OTHER", attributes["http.request.method"])
					assert.Equal(t, test.method, attributes["http.request.method_original"])
				}
			})
		})
	}
}

func TestSpans_CallersCancelIsNoError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		recorded := newSpans(t)
		d := newWith(t, fanout.Config{Targets: []fanout.Target{via("crm", hanging)}, TracerProvider: recorded.provider})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		dispatch(ctx, d)
		require.Len(t, recorded.GetSpans(), 3)
		for _, span := range recorded.GetSpans() {
			assert.Equal(t, codes.Unset, span.Status.Code, span.Name)
			assert.NotContains(t, attributesOf(span.Attributes), "error.type")
		}
	})
}

func TestSpans_AnOptionalFailureBesideACancelIsNoErrorOfTheDispatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		recorded := newSpans(t)
		d := newWith(t, fanout.Config{TracerProvider: recorded.provider, Targets: []fanout.Target{via("crm", hanging), optional(via("mail", answering(400)))}})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		dispatch(ctx, d)
		assert.Equal(t, codes.Unset, recorded.named(t, "fanout.dispatch").Status.Code)
	})
}

func TestSpans_WaitsAreEventsOfTheDeliverys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		recorded := newSpans(t)
		d := newWith(t, fanout.Config{TracerProvider: recorded.provider, Targets: []fanout.Target{
			with(via("crm", slow(time.Second)), fanout.Policy{
				RateLimit: fanout.RateLimit{PerSecond: 10, Burst: 1}, Bulkhead: fanout.Bulkhead{MaxConcurrent: 1},
			}),
		}})
		done := make(chan struct{})
		go func() { defer close(done); dispatch(t.Context(), d) }()
		synctest.Wait()
		dispatch(t.Context(), d)
		<-done
		waits := map[string]any{}
		for _, span := range recorded.GetSpans() {
			for _, event := range span.Events {
				a := attributesOf(event.Attributes)
				waits[a["fanout.wait.reason"].(string)] = a["fanout.wait.duration"]
			}
		}
		assert.Equal(t, map[string]any{"rate_limit": 0.1, "bulkhead": 0.9}, waits)
	})
}

func TestSpans_OfWhatIsSubmittedLinkToTheRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		recorded := newSpans(t)
		var results fanouttest.Results
		d := newWith(t, fanout.Config{Targets: []fanout.Target{via("crm", answering(200))}, TracerProvider: recorded.provider, OnResult: results.OnResult})
		ctx, request := recorded.provider.Tracer("service").Start(t.Context(), "POST /signup")
		id, err := d.Submit(ctx, "hello")
		require.NoError(t, err)
		request.End()
		_, err = results.Wait(t.Context(), id)
		require.NoError(t, err)

		delivery := recorded.named(t, "deliver crm")
		assert.False(t, delivery.Parent.IsValid(), "a trace of its own")
		assert.NotEqual(t, request.SpanContext().TraceID(), delivery.SpanContext.TraceID())
		require.Len(t, delivery.Links, 1)
		assert.Equal(t, request.SpanContext().SpanID(), delivery.Links[0].SpanContext.SpanID())
		assert.Len(t, recorded.children(delivery.SpanContext), 1)
	})
}

func TestSpans_TargetsGetTheAttemptsTraceContextAndNoBaggage(t *testing.T) {
	both := propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	for name, test := range map[string]struct {
		config  fanout.Config
		baggage string
	}{
		"as configured": {fanout.Config{Propagator: both}, "tenant=acme"},
		"only tracing":  {fanout.Config{Propagator: propagation.TraceContext{}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			recorded := newSpans(t)
			var got http.Header
			test.config.TracerProvider = recorded.provider
			test.config.Targets = []fanout.Target{via("crm", func(r *http.Request) (*http.Response, error) {
				got = r.Header.Clone()
				return answer(200, ""), nil
			})}
			member, err := baggage.NewMember("tenant", "acme")
			require.NoError(t, err)
			bag, err := baggage.New(member)
			require.NoError(t, err)
			dispatch(baggage.ContextWithBaggage(t.Context(), bag), newWith(t, test.config))

			attempt := recorded.named(t, "POST").SpanContext
			assert.Equal(t, "00-"+attempt.TraceID().String()+"-"+attempt.SpanID().String()+"-01", got.Get("Traceparent"))
			assert.Equal(t, test.baggage, got.Get("Baggage"))
		})
	}
}

func TestSpans_AreInTheContextOfSendersAndPrepare(t *testing.T) {
	recorded := newSpans(t)
	target := sending("ledger", func(ctx context.Context, _ *fanout.Request) (*fanout.Response, error) {
		_, span := recorded.provider.Tracer("sdk").Start(ctx, "rpc")
		span.End()
		return nil, nil
	})
	target.Prepare = func(ctx context.Context, _ *fanout.Request) error {
		_, span := recorded.provider.Tracer("sdk").Start(ctx, "look up")
		span.End()
		return nil
	}
	dispatch(t.Context(), newWith(t, fanout.Config{Targets: []fanout.Target{target}, TracerProvider: recorded.provider}))
	attempt, delivery := recorded.named(t, "send"), recorded.named(t, "deliver ledger")
	assert.Equal(t, delivery.SpanContext.SpanID(), attempt.Parent.SpanID())
	assert.Equal(t, attempt.SpanContext.SpanID(), recorded.named(t, "rpc").Parent.SpanID())
	assert.Equal(t, delivery.SpanContext.SpanID(), recorded.named(t, "look up").Parent.SpanID())
}

func TestSpans_EndThoughUserCodePanics(t *testing.T) {
	for name, spoil := range map[string]func(*fanout.Target){
		"Auth": func(t *fanout.Target) {
			t.Auth = fanout.AuthenticatorFunc(func(context.Context, *http.Request) error { panic("auth") })
		},
		"refusing Auth": func(t *fanout.Target) {
			t.Auth = fanout.AuthenticatorFunc(func(context.Context, *http.Request) error { return errors.New("no token") })
		},
		"Prepare": func(t *fanout.Target) {
			t.Prepare = func(context.Context, *fanout.Request) error { panic("prepare") }
		},
		"Classify": func(t *fanout.Target) { t.Classify = func(*fanout.Response) error { panic("classify") } },
	} {
		t.Run(name, func(t *testing.T) {
			recorded := &counting{}
			provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorded))
			target := via("crm", answering(200))
			spoil(&target)
			dispatch(t.Context(), newWith(t, fanout.Config{Targets: []fanout.Target{target}, TracerProvider: provider}))
			assert.Positive(t, recorded.begun)
			assert.Equal(t, recorded.begun, recorded.ended)
		})
	}
}

// counting counts spans.
type counting struct{ begun, ended int }

func (c *counting) OnStart(context.Context, sdktrace.ReadWriteSpan) { c.begun++ }
func (c *counting) OnEnd(sdktrace.ReadOnlySpan)                     { c.ended++ }
func (c *counting) Shutdown(context.Context) error                  { return nil }
func (c *counting) ForceFlush(context.Context) error                { return nil }

// badTracer panics when it is switched on.
type badTracer struct {
	noop.TracerProvider
	on *atomic.Bool
}

type badTracerOf struct {
	noop.Tracer
	on *atomic.Bool
}

func (b badTracer) Tracer(string, ...trace.TracerOption) trace.Tracer { return badTracerOf{on: b.on} }

func (b badTracerOf) Start(ctx context.Context, name string, o ...trace.SpanStartOption) (context.Context, trace.Span) {
	if b.on.Load() {
		panic("tracer")
	}
	return b.Tracer.Start(ctx, name, o...)
}

func TestTrace_ATracerThatPanicsFailsNoDelivery(t *testing.T) {
	var on atomic.Bool
	var told []string
	ok := answering(200)
	var j callLog
	d := newWith(t, fanout.Config{TracerProvider: badTracer{on: &on}, Targets: []fanout.Target{j.step("a", ok, ok)},
		OnResult: func(_ context.Context, r fanout.Result) { told = append(told, r.Outcome.String()) }})
	on.Store(true)
	assert.NotPanics(t, func() { _, _ = d.Dispatch(context.Background(), "hello") })
	submit(t, d)
	require.NoError(t, d.Close(t.Context()))
	assert.Equal(t, []string{"delivered"}, told)
}

// endGoexit ends the goroutine that ends a span.
type endGoexit struct{ name string }

func (endGoexit) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (e endGoexit) OnEnd(s sdktrace.ReadOnlySpan) {
	if s.Name() == e.name {
		runtime.Goexit()
	}
}
func (endGoexit) Shutdown(context.Context) error   { return nil }
func (endGoexit) ForceFlush(context.Context) error { return nil }

func TestTrace_AGoexitAtTheDispatchsEndChangesNoResult(t *testing.T) {
	var told []string
	var j callLog
	ok := answering(200)
	d := newWith(t, fanout.Config{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(endGoexit{"fanout.dispatch"})),
		Targets:        []fanout.Target{j.step("a", ok, ok)},
		OnResult:       func(_ context.Context, r fanout.Result) { told = append(told, r.Outcome.String()) },
	})
	submit(t, d)
	require.NoError(t, d.Close(t.Context()))
	assert.Equal(t, map[string]int{"a": 1}, j.count())
	assert.Equal(t, []string{"delivered"}, told)
}

func TestTrace_AGoexitAtTheDispatchsEndLosesNoLateResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		d := newWith(t, fanout.Config{
			TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(endGoexit{"fanout.dispatch"})),
			Targets:        []fanout.Target{via("a", answering(200)), via("b", slow(time.Second))},
			OnResult:       func(_ context.Context, r fanout.Result) { told = append(told, r.Target) },
		})
		_, err := d.Dispatch(t.Context(), "x", fanout.QuorumLeaveRest(1))
		require.NoError(t, err)
		require.NoError(t, d.Close(t.Context()))
		assert.Equal(t, []string{"b"}, told)
	})
}

// openSpans counts the spans that were not ended.
type openSpans struct {
	mu   sync.Mutex
	open map[string]int
}

func (o *openSpans) OnStart(_ context.Context, s sdktrace.ReadWriteSpan) {
	o.mu.Lock()
	o.open[s.Name()]++
	o.mu.Unlock()
}
func (o *openSpans) OnEnd(s sdktrace.ReadOnlySpan) {
	o.mu.Lock()
	o.open[s.Name()]--
	o.mu.Unlock()
}
func (*openSpans) Shutdown(context.Context) error   { return nil }
func (*openSpans) ForceFlush(context.Context) error { return nil }

func TestTrace_AHookThatEndsItsGoroutineLeavesNoSpanOpen(t *testing.T) {
	o := &openSpans{open: map[string]int{}}
	d := newWith(t, fanout.Config{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(o)), Targets: []fanout.Target{via("crm", answering(200))},
		Hooks: &fanout.Hooks{AttemptStarted: func(context.Context, fanout.AttemptEvent) { runtime.Goexit() }}})
	dispatch(t.Context(), d)
	for name, n := range o.open {
		assert.Zero(t, n, name)
	}
}
