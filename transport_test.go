package fanout_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestTransport_ReusesConnectionsAfterFailures(t *testing.T) {
	next := inTurn(503, 200, 500, 200, 404, 307, 200)
	target, connections := listening(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(next())
		_, _ = io.WriteString(w, strings.Repeat("explanation ", 1000))
	})
	d := newDispatcher(t, with(target, fanout.Policy{Retry: fanout.Retry{InitialBackoff: 1, ThrottledBackoff: -1}}))
	for range 50 {
		dispatch(t.Context(), d)
	}
	assert.Equal(t, int64(1), connections.Load())
}

func TestTransport_OfATargetIsUsedInsteadOfTheConfigs(t *testing.T) {
	target, _ := listening(t, func(http.ResponseWriter, *http.Request) {})
	var used []string
	labelled := func(label string) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			used = append(used, label)
			return http.DefaultTransport.RoundTrip(r)
		})
	}
	own := target
	own.Name, own.Transport = "own", labelled("target's")
	d := newWith(t, fanout.Config{Targets: []fanout.Target{target, own}, Transport: labelled("config's")})
	_, err := d.Dispatch(t.Context(), "x", fanout.To("crm"))
	require.NoError(t, err)
	_, err = d.Dispatch(t.Context(), "x", fanout.To("own"))
	require.NoError(t, err)
	assert.Equal(t, []string{"config's", "target's"}, used)
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func TestTransport_MayKeepARequestAfterItsAttempt(t *testing.T) {
	var kept []*http.Request
	d := newDispatcher(t, with(via("crm", func(r *http.Request) (*http.Response, error) {
		kept = append(kept, r)
		return answer(500, ""), nil
	}), fanout.Policy{Retry: fanout.Retry{InitialBackoff: 1}}))
	dispatch(t.Context(), d)
	require.Len(t, kept, 3)
	ids := map[string]bool{}
	for _, r := range kept {
		ids[r.Header.Get(fanout.RequestIDHeader)] = true
	}
	assert.Len(t, ids, 3)
}
