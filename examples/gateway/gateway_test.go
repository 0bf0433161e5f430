package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestItShowsBothWays(t *testing.T) {
	var stdout bytes.Buffer
	require.NoError(t, run(t.Context(), nil, &stdout, io.Discard))
	assert.Regexp(t, `(?s)200 OK.*"crm","outcome":"delivered".*"billing","outcome":"delivered".*202 Accepted.*"dispatch_id"`, stdout.String())
}

func TestWhatIsNotJSONIsRefused(t *testing.T) {
	crm := fanouttest.NewTarget(t)
	d, err := fanout.New(fanout.Config{Targets: []fanout.Target{crm.Target("crm")}})
	require.NoError(t, err)
	r := httptest.NewRequest(http.MethodPost, "/events", strings.NewReader("not JSON"))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	handler, err := routes(d)
	require.NoError(t, err)
	handler.ServeHTTP(w, r)
	assert.Equal(t, http.StatusUnprocessableEntity, w.Code)
	require.NoError(t, d.Close(t.Context()))
	assert.Zero(t, crm.Count())
}
