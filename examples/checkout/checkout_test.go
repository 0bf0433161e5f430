package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fanout-go/fanout"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTheFiveStories(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	http.DefaultClient.CloseIdleConnections()
	told := strings.Split(strings.TrimSpace(out.String()), "\n\n")
	require.Len(t, told, 5)
	for i, want := range []struct {
		events string   // in any order
		then   []string // some of the events, which come in this order
		ends   string
	}{
		{
			"order-1 202 Accepted, payment 201 Created, stock 201 Created, notification 201 Created, analytics 201 Created",
			[]string{"order-1", "payment", "notification"},
			"payment delivered, stock delivered, notification delivered, analytics delivered",
		},
		{
			"order-2 202 Accepted, payment 201 Created, stock 422 Unprocessable Entity, refund 201 Created",
			[]string{"payment", "refund"},
			`payment compensated, as "stock" failed, stock failed: not retried after 1 attempt: 422 Unprocessable Entity, ` +
				`notification skipped, as it comes after "stock": failed, analytics skipped, as it comes after "stock": failed`,
		},
		{
			"order-3 202 Accepted, stock 201 Created, payment no answer: timeout, payment no answer: timeout, refund 201 Created, release 201 Created",
			[]string{"payment", "refund"},
			`payment compensated, as "payment" failed: payment: given up after 2 attempts: attempt timeout; it may have taken effect, stock compensated, as "payment" failed, ` +
				`notification skipped, as it comes after "payment": unknown, analytics skipped, as it comes after "payment": unknown`,
		},
		{
			"order-4 202 Accepted, payment 201 Created, stock 422 Unprocessable Entity, refund 500 Internal Server Error, refund 500 Internal Server Error",
			[]string{"payment", "refund"},
			`payment compensation failed: refund: given up after 2 attempts: 500 Internal Server Error, stock failed: not retried after 1 attempt: 422 Unprocessable Entity, ` +
				`notification skipped, as it comes after "stock": failed, analytics skipped, as it comes after "stock": failed`,
		},
		{
			"order-5 202 Accepted, payment 201 Created, stock 201 Created, notification 500 Internal Server Error, notification 500 Internal Server Error, text-message 201 Created, analytics 201 Created",
			[]string{"payment", "notification", "text-message"},
			"payment delivered, stock delivered, notification degraded: given up after 2 attempts: 500 Internal Server Error; a fallback answered, analytics delivered",
		},
	} {
		events, ends := parse(told[i])
		assert.ElementsMatch(t, strings.Split(want.events, ", "), events)
		assert.Equal(t, want.ends, strings.Join(ends, ", "))
		at := -1
		for _, who := range want.then {
			next := slices.IndexFunc(events, func(e string) bool { return strings.HasPrefix(e, who+" ") })
			assert.Greater(t, next, at, "%s in story %d", who, i+1)
			at = next
		}
	}
}

// parse reads a story's lines without their times and padding.
func parse(story string) (events, ends []string) {
	for _, line := range strings.Split(story, "\n")[1:] {
		line = regexp.MustCompile(`^ *\d+ ms`).ReplaceAllString(line, "")
		words := strings.Join(strings.Fields(line), " ")
		if end, ok := strings.CutPrefix(words, "=> "); ok {
			ends = append(ends, end)
		} else {
			events = append(events, words)
		}
	}
	return events, ends
}

func TestAnOrderNeedsANumberAndAKey(t *testing.T) {
	shop, err := newCheckout(addresses{"http://a.example", "http://b.example", "http://c.example", "http://d.example", "http://e.example"}, nil,
		func(context.Context, fanout.Result) { t.Error("nothing was accepted") })
	require.NoError(t, err)
	for want, request := range map[string]*http.Request{
		"not an order in JSON":          httptest.NewRequest(http.MethodPost, "/orders", strings.NewReader("teapot")),
		"the order has no number":       httptest.NewRequest(http.MethodPost, "/orders", strings.NewReader("{}")),
		"an order needs an Idempotency": httptest.NewRequest(http.MethodPost, "/orders", strings.NewReader(`{"order":"7"}`)),
	} {
		request.Header.Set("Content-Type", "application/json")
		answer := httptest.NewRecorder()
		shop.handler().ServeHTTP(answer, request)
		assert.Equal(t, http.StatusUnprocessableEntity, answer.Code)
		assert.Contains(t, answer.Body.String(), want)
	}
	require.NoError(t, shop.close(t.Context()))
}
