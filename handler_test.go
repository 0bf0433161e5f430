package fanout_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func inbound(method, body string, header ...string) *http.Request {
	r := httptest.NewRequest(method, "/events", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

func serveTo(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestTheHandlerPassesOnTheBodyAndWhatItIsToldTo(t *testing.T) {
	crm := fanouttest.NewTarget(t)
	h := &fanout.Handler{Dispatcher: newDispatcher(t, crm.Target("crm")), Wait: true,
		ForwardHeader: []string{"x-tenant", "Authorization", "Cookie", "Keep-Alive", "X-Hop", "Content-Length", "Idempotency-Key"}}
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

func TestTheHandlerAnswersWithEveryTargetsResult(t *testing.T) {
	optional := fanouttest.NewTarget(t, fanouttest.Status(404)).Target("analytics")
	optional.Optional = true
	email := fanouttest.NewTarget(t, fanouttest.Status(202))
	for crmStatus, want := range map[int]struct {
		status  int
		outcome string
	}{200: {200, "delivered"}, 400: {502, "failed"}} {
		crm := fanouttest.NewTarget(t, fanouttest.Status(crmStatus))
		h := &fanout.Handler{Wait: true, Dispatcher: newDispatcher(t, email.Target("email"), crm.Target("crm"), optional)}
		w := serveTo(h, inbound(http.MethodPost, `{}`))
		assert.Equal(t, want.status, w.Code)
		assert.Equal(t, "application/json", w.Header().Get("Content-Type"))
		var report fanout.Report
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &report))
		assert.NotEmpty(t, report.DispatchID)
		require.Len(t, report.Targets, 3)
		assert.Equal(t, fanout.TargetReport{Target: "crm", Outcome: report.Targets[1].Outcome, StatusCode: crmStatus, Attempts: 1, DurationMS: report.Targets[1].DurationMS}, report.Targets[1])
		assert.Equal(t, want.outcome, report.Targets[1].Outcome.String())
		assert.True(t, report.Targets[2].Optional)
	}
}

func TestTheHandlerAcceptsForTheBackground(t *testing.T) {
	crm := fanouttest.NewTarget(t)
	w := serveTo(&fanout.Handler{Dispatcher: newDispatcher(t, crm.Target("crm"))}, inbound(http.MethodPost, `{}`, fanout.CorrelationHeader, "visit-7"))
	require.Equal(t, http.StatusAccepted, w.Code)
	var receipt fanout.Receipt
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &receipt))
	assert.Equal(t, "visit-7", receipt.CorrelationID)
	require.NoError(t, crm.Wait(t.Context(), 1))
	assert.Equal(t, receipt.DispatchID+":crm", crm.Requests()[0].IdempotencyKey())
}

func TestTheHandlerSendsWhereItsOptionsSay(t *testing.T) {
	d := newDispatcher(t, via("a", answering(200)), via("b", answering(200)))
	h := &fanout.Handler{Dispatcher: d, Wait: true, Options: func(r *http.Request) []fanout.Option {
		return []fanout.Option{fanout.To(r.URL.Query().Get("to"))}
	}}
	r := inbound(http.MethodPost, `{}`)
	r.URL.RawQuery = "to=b"
	var report fanout.Report
	require.NoError(t, json.Unmarshal(serveTo(h, r).Body.Bytes(), &report))
	require.Len(t, report.Targets, 1)
	assert.Equal(t, "b", report.Targets[0].Target)
	assert.Equal(t, http.StatusBadRequest, serveTo(h, inbound(http.MethodPost, `{}`)).Code, "to nobody")
}

func TestTheHandlerRefusesBeforeAnythingIsSent(t *testing.T) {
	crm := fanouttest.NewTarget(t)
	closed := newDispatcher(t, crm.Target("crm"))
	require.NoError(t, closed.Close(t.Context()))
	full := newWith(t, fanout.Config{
		Targets: []fanout.Target{via("crm", slow(10*time.Millisecond))},
		Queue:   fanout.NewMemoryQueue(fanout.MemoryLimits{MaxDispatches: 1}),
	})
	submit(t, full)
	open := newDispatcher(t, crm.Target("crm"))
	secretive := func(context.Context, *fanout.Submission) error { return errors.New("not in our s3cr3t table") }
	says := func(err error) func(*http.Request, []byte) error {
		return func(*http.Request, []byte) error { return err }
	}
	for _, test := range []struct {
		name    string
		handler fanout.Handler
		request *http.Request
		status  int
		detail  string
	}{
		{"method", fanout.Handler{Dispatcher: open}, inbound(http.MethodGet, ""), 405, ""},
		{"too large", fanout.Handler{Dispatcher: open, MaxBytes: 4}, inbound(http.MethodPost, "12345"), 413, "the limit is 4 bytes"},
		{"broken body", fanout.Handler{Dispatcher: open}, httptest.NewRequest(http.MethodPost, "/", io.MultiReader(brokenReader{})), 400, "the body could not be read"},
		{"no content type", fanout.Handler{Dispatcher: open}, inbound(http.MethodPost, "{}", "Content-Type", ""), 415, "Content-Type is missing or cannot be read"},
		{"validation", fanout.Handler{Dispatcher: open, Validate: says(errors.New("no name"))}, inbound(http.MethodPost, "{}"), 422, "no name"},
		{"validation's status", fanout.Handler{Dispatcher: open, Validate: says(&fanout.StatusError{StatusCode: 403})}, inbound(http.MethodPost, "{}"), 403, "403 Forbidden"},
		{"key", fanout.Handler{Dispatcher: open}, inbound(http.MethodPost, "{}", "Idempotency-Key", "a b"), 400, "Idempotency-Key must be 1 to 128 visible ASCII characters"},
		{"the dispatcher's limit", fanout.Handler{Dispatcher: newWith(t, fanout.Config{MaxPayloadBytes: 4, Targets: []fanout.Target{crm.Target("crm")}})}, inbound(http.MethodPost, "12345"), 413, ""},
		{"the dispatcher's validation", fanout.Handler{Dispatcher: newWith(t, fanout.Config{Validate: secretive, Targets: []fanout.Target{crm.Target("crm")}})}, inbound(http.MethodPost, "{}"), 422, "the body is not valid"},
		{"closed", fanout.Handler{Dispatcher: closed}, inbound(http.MethodPost, "{}"), 503, "shutting down"},
		{"closed, waiting", fanout.Handler{Dispatcher: closed, Wait: true}, inbound(http.MethodPost, "{}"), 503, "shutting down"},
		{"no targets", fanout.Handler{Dispatcher: newDispatcher(t)}, inbound(http.MethodPost, "{}"), 503, "there is nowhere to send it at the moment"},
		{"full", fanout.Handler{Dispatcher: full, RetryAfter: 1500 * time.Millisecond}, inbound(http.MethodPost, "{}"), 503, "no room for more at the moment"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := serveTo(&test.handler, test.request)
			assert.Equal(t, test.status, w.Code)
			assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
			assert.NotEmpty(t, w.Header().Get(fanout.CorrelationHeader))
			var problem fanout.Problem
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &problem))
			assert.Equal(t, fanout.Problem{Status: test.status, Title: http.StatusText(test.status), Detail: test.detail}, problem)
			wait := map[string]string{"closed": "1", "closed, waiting": "1", "no targets": "1", "full": "2"}[test.name]
			assert.Equal(t, wait, w.Header().Get("Retry-After"))
		})
	}
	assert.Zero(t, crm.Count())
}

func TestAClientThatGoesAwayCutsAWaitingRequestShort(t *testing.T) {
	crm := fanouttest.NewTarget(t, fanouttest.Hang())
	h := &fanout.Handler{Dispatcher: newDispatcher(t, crm.Target("crm")), Wait: true}
	ctx, goAway := context.WithCancel(t.Context())
	answered := make(chan int)
	go func() { answered <- serveTo(h, inbound(http.MethodPost, "{}").WithContext(ctx)).Code }()
	require.NoError(t, crm.Wait(t.Context(), 1))
	goAway()
	assert.Equal(t, http.StatusBadGateway, <-answered)
}
