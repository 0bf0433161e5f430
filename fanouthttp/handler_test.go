package fanouthttp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouthttp"
	"github.com/fanout-go/fanout/fanouttest"
)

// inbound makes a client's request with a JSON body. header has names and values in turn.
func inbound(method, body string, header ...string) *http.Request {
	r := httptest.NewRequest(method, "/events", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// serveTo returns the handler's answer to the request.
func serveTo(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestNewHandler_RefusesWhatCannotWork(t *testing.T) {
	d := newDispatcher(t)
	for _, test := range []struct {
		dispatcher *fanout.Dispatcher
		forward    []string
		want       string
	}{
		{nil, nil, "Dispatcher: nil"},
		{d, []string{""}, `ForwardHeader[0]: "" is not a header name`},
		{d, []string{"X-A", "X B"}, `ForwardHeader[1]: "X B" is not a header name`},
		{d, []string{"authorization"}, "ForwardHeader[0]: Authorization is never passed on"},
		{d, []string{"Proxy-Authorization"}, "ForwardHeader[0]: Proxy-Authorization is never passed on"},
		{d, []string{"Cookie"}, "ForwardHeader[0]: Cookie is never passed on"},
		{d, []string{"Keep-Alive"}, "ForwardHeader[0]: Keep-Alive is never passed on"},
		{d, []string{"Connection"}, "ForwardHeader[0]: Connection is never passed on"},
		{d, []string{"Content-Length"}, "ForwardHeader[0]: Content-Length is never passed on"},
		{d, []string{"Expect"}, "ForwardHeader[0]: Expect is never passed on"},
		{d, []string{fanout.RequestIDHeader}, "ForwardHeader[0]: X-Request-Id is never passed on"},
	} {
		_, err := fanouthttp.NewHandler(test.dispatcher, fanouthttp.Config{ForwardHeader: test.forward})
		require.EqualError(t, err, "fanout: fanouthttp.NewHandler: "+test.want)
		require.ErrorIs(t, err, fanout.ErrInvalid)
	}
}

func TestNewHandler_KeepsNothingOfItsCallers(t *testing.T) {
	crm := fanouttest.NewTarget(t)
	forward := []string{"X-Tenant"}
	h := newHandler(t, newDispatcher(t, crm.Target("crm")), fanouthttp.Config{Wait: true, ForwardHeader: forward})
	forward[0] = "Authorization"
	require.Equal(t, http.StatusOK, serveTo(h, inbound(http.MethodPost, "{}", "X-Tenant", "acme", "Authorization", "s3cr3t")).Code)
	assert.Equal(t, "acme", crm.Requests()[0].Header.Get("X-Tenant"))
	assert.Empty(t, crm.Requests()[0].Header.Get("Authorization"))
}

func TestHandler_PassesOnTheBodyAndWhatItIsToldTo(t *testing.T) {
	crm := fanouttest.NewTarget(t)
	h := newHandler(t, newDispatcher(t, crm.Target("crm")), fanouthttp.Config{
		Wait: true, ForwardHeader: []string{"x-tenant", "X-Hop", "Content-Type", "Idempotency-Key"},
	})
	w := serveTo(h, inbound(http.MethodPut, `{"n":1}`,
		"Content-Type", "application/vnd.event+json; v=2", "Idempotency-Key", "event-7", fanout.CorrelationHeader, "visit-7",
		"X-Tenant", "acme", "X-Other", "no", "Authorization", "Bearer s3cr3t", "Cookie", "s=s3cr3t", "Keep-Alive", "5", "X-Hop", "1", "Connection", "close, x-hop"))
	require.Equal(t, http.StatusOK, w.Code)
	assert.Equal(t, "visit-7", w.Header().Get(fanout.CorrelationHeader))

	got := crm.Requests()[0]
	assert.JSONEq(t, `{"n":1}`, string(got.Body))
	assert.Equal(t, "application/vnd.event+json; v=2", got.Header.Get("Content-Type"))
	assert.Equal(t, "visit-7", got.CorrelationID())
	assert.Equal(t, "event-7:crm", got.IdempotencyKey())
	assert.Equal(t, "acme", got.Header.Get("X-Tenant"))
	for _, name := range []string{"X-Other", "Authorization", "Cookie", "Keep-Alive", "X-Hop"} {
		assert.Empty(t, got.Header.Get(name), name)
	}
}

func TestHandler_AnswersWithEveryTargetsResult(t *testing.T) {
	optional := fanouttest.NewTarget(t, fanouttest.Status(404)).Target("analytics")
	optional.Optional = true
	email := fanouttest.NewTarget(t, fanouttest.Status(202))
	for crmStatus, want := range map[int]struct {
		status  int
		outcome string
	}{200: {200, "delivered"}, 400: {502, "failed"}} {
		crm := fanouttest.NewTarget(t, fanouttest.Status(crmStatus))
		h := newHandler(t, newDispatcher(t, email.Target("email"), crm.Target("crm"), optional), fanouthttp.Config{Wait: true})
		w := serveTo(h, inbound(http.MethodPost, `{}`))
		assert.Equal(t, want.status, w.Code)
		assert.Equal(t, "application/json", w.Header().Get("Content-Type"))
		var report fanouthttp.Report
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &report))
		assert.NotEmpty(t, report.DispatchID)
		require.Len(t, report.Targets, 3)
		assert.Equal(t, fanouthttp.TargetReport{Target: "crm", Outcome: report.Targets[1].Outcome, StatusCode: crmStatus, Attempts: 1, DurationMS: report.Targets[1].DurationMS}, report.Targets[1])
		assert.Equal(t, want.outcome, report.Targets[1].Outcome.String())
		assert.True(t, report.Targets[2].Optional)
	}
}

func TestHandler_AcceptsForTheBackground(t *testing.T) {
	crm := fanouttest.NewTarget(t)
	w := serveTo(newHandler(t, newDispatcher(t, crm.Target("crm")), fanouthttp.Config{}), inbound(http.MethodPost, `{}`, fanout.CorrelationHeader, "visit-7"))
	require.Equal(t, http.StatusAccepted, w.Code)
	var receipt fanouthttp.Receipt
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &receipt))
	assert.Equal(t, "visit-7", receipt.CorrelationID)
	require.NoError(t, crm.Wait(t.Context(), 1))
	assert.Equal(t, receipt.DispatchID+":crm", crm.Requests()[0].IdempotencyKey())
}

func TestHandler_SendsWhereItsOptionsSay(t *testing.T) {
	d := newDispatcher(t, via("a", answering(200)), via("b", answering(200)))
	h := newHandler(t, d, fanouthttp.Config{Wait: true, Options: func(r *http.Request) []fanout.Option {
		return []fanout.Option{fanout.To(r.URL.Query().Get("to"))}
	}})
	r := inbound(http.MethodPost, `{}`)
	r.URL.RawQuery = "to=b"
	var report fanouthttp.Report
	require.NoError(t, json.Unmarshal(serveTo(h, r).Body.Bytes(), &report))
	require.Len(t, report.Targets, 1)
	assert.Equal(t, "b", report.Targets[0].Target)
	assert.Equal(t, http.StatusBadRequest, serveTo(h, inbound(http.MethodPost, `{}`)).Code, "to nobody")
}

func TestHandler_RefusesBeforeAnythingIsSent(t *testing.T) {
	crm := fanouttest.NewTarget(t)
	closed := newDispatcher(t, crm.Target("crm"))
	require.NoError(t, closed.Close(t.Context()))
	release := make(chan struct{})
	hangs := fanout.SenderFunc(func(context.Context, *fanout.Request) (*fanout.Response, error) {
		<-release
		return nil, nil
	})
	full := newWith(t, fanout.Config{
		Targets: []fanout.Target{{Name: "crm", Sender: hangs}},
		Queue:   fanout.NewMemoryQueue(fanout.MemoryLimits{MaxDispatches: 1}),
	})
	t.Cleanup(func() { close(release) }) // before the dispatcher is closed
	_, err := full.Submit(t.Context(), "hello")
	require.NoError(t, err)
	open := newDispatcher(t, crm.Target("crm"))
	secretive := func(context.Context, *fanout.Payload) error { return errors.New("not in our s3cr3t table") }
	to := func(names ...string) func(*http.Request) []fanout.Option {
		return func(*http.Request) []fanout.Option { return []fanout.Option{fanout.To(names...)} }
	}
	says := func(err error) func(*http.Request, []byte) error {
		return func(*http.Request, []byte) error { return err }
	}
	for _, test := range []struct {
		name       string
		dispatcher *fanout.Dispatcher
		config     fanouthttp.Config
		request    *http.Request
		status     int
		detail     string
	}{
		{"method", open, fanouthttp.Config{}, inbound(http.MethodGet, ""), 405, ""},
		{"too large", open, fanouthttp.Config{MaxBytes: 4}, inbound(http.MethodPost, "12345"), 413, "the limit is 4 bytes"},
		{"broken body", open, fanouthttp.Config{}, httptest.NewRequest(http.MethodPost, "/", io.MultiReader(brokenReader{})), 400, "the body could not be read"},
		{"no content type", open, fanouthttp.Config{}, inbound(http.MethodPost, "{}", "Content-Type", ""), 415, "Content-Type is missing or cannot be read"},
		{"a content type without a subtype", open, fanouthttp.Config{}, inbound(http.MethodPost, "{}", "Content-Type", "json"), 415, "Content-Type is missing or cannot be read"},
		{"a content type cut off", open, fanouthttp.Config{}, inbound(http.MethodPost, "{}", "Content-Type", "application/json; charset"), 415, "Content-Type is missing or cannot be read"},
		{"too large without a limit of its own", open, fanouthttp.Config{}, inbound(http.MethodPost, strings.Repeat("x", 1<<20+1)), 413, "the limit is 1048576 bytes"},
		{"validation", open, fanouthttp.Config{Validate: says(errors.New("no name"))}, inbound(http.MethodPost, "{}"), 422, "no name"},
		{"validation's status", open, fanouthttp.Config{Validate: says(fmt.Errorf("account: %w", &fanouthttp.Problem{Status: 403, Detail: "not yours"}))}, inbound(http.MethodPost, "{}"), 403, "not yours"},
		{"key", open, fanouthttp.Config{}, inbound(http.MethodPost, "{}", "Idempotency-Key", "a b"), 400, "Idempotency-Key must be 1 to 128 visible ASCII characters"},
		{"the dispatcher's limit", newWith(t, fanout.Config{MaxPayloadBytes: 4, Targets: []fanout.Target{crm.Target("crm")}}), fanouthttp.Config{}, inbound(http.MethodPost, "12345"), 413, ""},
		{"the dispatcher's validation", newWith(t, fanout.Config{Validate: secretive, Targets: []fanout.Target{crm.Target("crm")}}), fanouthttp.Config{}, inbound(http.MethodPost, "{}"), 422, "the body is not valid"},
		{"closed", closed, fanouthttp.Config{}, inbound(http.MethodPost, "{}"), 503, "shutting down"},
		{"closed, waiting", closed, fanouthttp.Config{Wait: true}, inbound(http.MethodPost, "{}"), 503, "shutting down"},
		{"no targets", newDispatcher(t), fanouthttp.Config{}, inbound(http.MethodPost, "{}"), 503, "there is nowhere to send it at the moment"},
		{"no targets, waiting", newDispatcher(t), fanouthttp.Config{Wait: true}, inbound(http.MethodPost, "{}"), 503, "there is nowhere to send it at the moment"},
		{"an unknown target", open, fanouthttp.Config{Options: to("nobody")}, inbound(http.MethodPost, "{}"), 503, "there is nowhere to send it at the moment"},
		{"no target chosen", open, fanouthttp.Config{Options: to()}, inbound(http.MethodPost, "{}"), 503, "there is nowhere to send it at the moment"},
		{"a header that cannot be sent", newWith(t, fanout.Config{Targets: []fanout.Target{crm.Target("crm")}}), fanouthttp.Config{ForwardHeader: []string{"X-A"}}, inbound(http.MethodPost, "{}", "X-A", "a\x00"), 400, "the request cannot be passed on"},
		{"full", full, fanouthttp.Config{RetryAfter: 1500 * time.Millisecond}, inbound(http.MethodPost, "{}"), 503, "no room for more at the moment"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := serveTo(newHandler(t, test.dispatcher, test.config), test.request)
			assert.Equal(t, test.status, w.Code)
			assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
			assert.NotEmpty(t, w.Header().Get(fanout.CorrelationHeader))
			var problem fanouthttp.Problem
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &problem))
			assert.Equal(t, fanouthttp.Problem{Status: test.status, Title: http.StatusText(test.status), Detail: test.detail}, problem)
			wait := map[string]string{"closed": "1", "closed, waiting": "1", "no targets": "1", "no targets, waiting": "1",
				"an unknown target": "1", "no target chosen": "1", "full": "2"}[test.name]
			assert.Equal(t, wait, w.Header().Get("Retry-After"))
			allow := map[string]string{"method": "POST, PUT, PATCH"}[test.name]
			assert.Equal(t, allow, w.Header().Get("Allow"))
		})
	}
	assert.Zero(t, crm.Count())
}

func TestProblem_IsAnError(t *testing.T) {
	require.EqualError(t, &fanouthttp.Problem{Status: 403, Detail: "not your account"}, "403 Forbidden: not your account")
	require.EqualError(t, &fanouthttp.Problem{Status: 599, Title: "Later"}, "599 Later")
	require.EqualError(t, &fanouthttp.Problem{Status: 599}, "599")
}

func TestNewReport_HasTheResultsInOrder(t *testing.T) {
	d := newDispatcher(t, via("b", answering(200)), via("a", answering(400)))
	results, err := d.Dispatch(t.Context(), "hello")
	require.Error(t, err)
	report := fanouthttp.NewReport("visit-7", results)
	assert.Equal(t, fanouthttp.Receipt{DispatchID: results["a"].Payload.ID, CorrelationID: "visit-7"}, report.Receipt)
	assert.Equal(t, "b", report.Targets[0].Target)
	assert.Equal(t, 400, report.Targets[1].StatusCode)
}

func TestHandler_AClientThatGoesAwayCutsAWaitingRequestShort(t *testing.T) {
	crm := fanouttest.NewTarget(t, fanouttest.Hang())
	h := newHandler(t, newDispatcher(t, crm.Target("crm")), fanouthttp.Config{Wait: true})
	ctx, goAway := context.WithCancel(t.Context())
	answered := make(chan int)
	go func() { answered <- serveTo(h, inbound(http.MethodPost, "{}").WithContext(ctx)).Code }()
	require.NoError(t, crm.Wait(t.Context(), 1))
	goAway()
	assert.Equal(t, http.StatusBadGateway, <-answered)
}

// refusing is a queue that fails like one that dispatches by itself.
type refusing struct{ err error }

func (refusing) Start(*fanout.Worker) error                        { return nil }
func (q refusing) Submit(context.Context, []fanout.Delivery) error { return q.err }
func (refusing) Close(context.Context) error                       { return nil }

func TestHandler_AcceptsNothingThatItsQueueRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, inner := newDispatcher(t, via("broker", answering(500))).Dispatch(t.Context(), "x")
		require.Error(t, inner)
		d := newWith(t, fanout.Config{Targets: []fanout.Target{via("crm", answering(200))}, Queue: refusing{inner}})
		answer := httptest.NewRecorder()
		request := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}"))
		request.Header.Set("Content-Type", "application/json")
		newHandler(t, d, fanouthttp.Config{}).ServeHTTP(answer, request)
		assert.Equal(t, http.StatusInternalServerError, answer.Code)
	})
}

func TestHandler_PassesOnHowTheBodyIsEncoded(t *testing.T) {
	var got http.Header
	d := newDispatcher(t, via("crm", func(r *http.Request) (*http.Response, error) {
		got = r.Header.Clone()
		return answer(200), nil
	}))
	request := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("\x1f\x8bzipped"))
	request.Header = http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}, "Expect": {"100-continue"}}
	newHandler(t, d, fanouthttp.Config{Wait: true}).ServeHTTP(httptest.NewRecorder(), request)
	assert.Equal(t, "gzip", got.Get("Content-Encoding"))
	assert.Empty(t, got.Get("Expect"))
}

func TestHandler_KeepsTheCorrelationIDOfItsContext(t *testing.T) {
	var inner, outer string
	d := newDispatcher(t, via("crm", func(r *http.Request) (*http.Response, error) {
		inner = r.Header.Get(fanout.CorrelationHeader)
		return answer(200), nil
	}))
	handler := newHandler(t, d, fanouthttp.Config{Wait: true})
	fanout.CorrelationMiddleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		outer = fanout.CorrelationID(r.Context())
		handler.ServeHTTP(w, r)
	})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", nil))
	assert.NotEmpty(t, inner)
	assert.Equal(t, outer, inner)
}

func TestHandler_AValidatorsStatusIsOneOfAnError(t *testing.T) {
	for status, want := range map[int]int{0: 422, 100: 422, 103: 422, 200: 422, 304: 422, 399: 422, 400: 400, 403: 403, 599: 599, 600: 422, 1000: 422} {
		handler := newHandler(t, newDispatcher(t, via("crm", answering(200))), fanouthttp.Config{Validate: func(*http.Request, []byte) error {
			return &fanouthttp.Problem{Status: status}
		}})
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/", nil))
		assert.Equal(t, want, answer.Code, status)
	}
}

func TestHandler_TakesARequestWithoutABody(t *testing.T) {
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	require.NoError(t, err)
	answer := httptest.NewRecorder()
	newHandler(t, newDispatcher(t, via("crm", answering(200))), fanouthttp.Config{Wait: true}).ServeHTTP(answer, request)
	assert.Equal(t, http.StatusOK, answer.Code)
}

// The client of a dispatch that was begun must not be told that it was refused, and send it
// again, though code of the user met a dispatcher that refused.
func TestHandler_DoesNotSayRefusedOfWhatWasDelivered(t *testing.T) {
	inner, err := fanout.New(fanout.Config{})
	require.NoError(t, err)
	require.NoError(t, inner.Close(t.Context()))
	d, err := fanout.New(fanout.Config{Targets: []fanout.Target{
		{Name: "charge", Sender: fanout.SenderFunc(func(context.Context, *fanout.Request) (*fanout.Response, error) { return nil, nil })},
		{Name: "crm", URL: "https://crm.example", Auth: fanout.AuthenticatorFunc(func(ctx context.Context, _ *http.Request) error {
			_, err := inner.Dispatch(ctx, "a token")
			return err
		})},
	}})
	require.NoError(t, err)
	defer func() { _ = d.Close(context.Background()) }()
	h, err := fanouthttp.NewHandler(d, fanouthttp.Config{Wait: true})
	require.NoError(t, err)
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"a":1}`))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	assert.Equal(t, http.StatusBadGateway, w.Code)
	assert.Contains(t, w.Body.String(), `"delivered"`)
}

func TestHandler_MaxBytesIsAMebibyteUnlessSet(t *testing.T) {
	d := newDispatcher(t, via("crm", answering(200)))
	for limit, longest := range map[int64]int{0: 1 << 20, 7: 7, -1: 1<<20 + 1} {
		h := newHandler(t, d, fanouthttp.Config{Wait: true, MaxBytes: limit})
		assert.Equal(t, http.StatusOK, serveTo(h, inbound(http.MethodPost, strings.Repeat("x", longest))).Code, limit)
	}
}

func TestHandler_TakesTheQuotesOffAKey(t *testing.T) {
	for given, want := range map[string]string{
		`event-7`:       `event-7`,
		`"event-7"`:     `event-7`,
		`"a\"b\\c"`:     `a"b\c`,
		`"event-7`:      `"event-7`,
		`event-7"`:      `event-7"`,
		`"a"b"`:         `"a"b"`,
		`"a\b"`:         `"a\b"`,
		`"a\"`:          `"a\"`,
		`"`:             `"`,
		`"event-7";a=1`: `"event-7";a=1`,
	} {
		var key string
		ledger := fanout.SenderFunc(func(_ context.Context, r *fanout.Request) (*fanout.Response, error) {
			key = r.Key
			return nil, nil
		})
		h := newHandler(t, newDispatcher(t, fanout.Target{Name: "ledger", Sender: ledger}), fanouthttp.Config{Wait: true})
		assert.Equal(t, http.StatusOK, serveTo(h, inbound(http.MethodPost, `{}`, "Idempotency-Key", given)).Code, given)
		assert.Equal(t, want+":ledger", key, given)
	}
	w := serveTo(newHandler(t, newDispatcher(t, via("crm", answering(200))), fanouthttp.Config{Wait: true}), inbound(http.MethodPost, `{}`, "Idempotency-Key", `""`))
	assert.Equal(t, http.StatusOK, w.Code, "an empty one is none")
}

func TestHandler_SaysThatATargetIsGone(t *testing.T) {
	d := newWith(t, fanout.Config{Lookup: func(context.Context, string) (fanout.Target, error) { return fanout.Target{}, fanout.ErrTargetGone }})
	h := newHandler(t, d, fanouthttp.Config{Options: func(*http.Request) []fanout.Option { return []fanout.Option{fanout.To("customer 7")} }})
	assert.Equal(t, http.StatusNotFound, serveTo(h, inbound(http.MethodPost, `{}`)).Code)
}
