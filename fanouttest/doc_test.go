package fanouttest_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestSignUp_ReachesTheCRMThoughItIsUnavailableAtFirst(t *testing.T) {
	crm := fanouttest.NewTarget(t, fanouttest.Status(503), fanouttest.Status(201))
	target := crm.Target("crm")
	target.Retry.ThrottledBackoff = time.Millisecond
	dispatcher, err := fanout.New(fanout.Config{Targets: []fanout.Target{target}})
	require.NoError(t, err)

	answer := httptest.NewRecorder()
	signUp(dispatcher).ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/signup", strings.NewReader(`{"name":"Ada"}`)))

	require.Equal(t, 201, answer.Code)
	require.Len(t, crm.Requests(), 2)
	require.JSONEq(t, `{"name":"Ada"}`, string(crm.Requests()[1].Body))
}

// signUp is a handler such as a service would have.
func signUp(d *fanout.Dispatcher) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var form struct {
			Name string `json:"name"`
		}
		if err := json.NewDecoder(r.Body).Decode(&form); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if _, err := d.Dispatch(r.Context(), form); err != nil {
			http.Error(w, "try again", http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusCreated)
	}
}

func TestPackagePage_ShowsATestThatRuns(t *testing.T) {
	page, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	test, err := os.ReadFile("doc_test.go")
	require.NoError(t, err)
	shown := regexp.MustCompile(`(?s)//\tfunc Test.*//\t}\n`).FindString(string(page))
	require.NotEmpty(t, shown)
	require.Contains(t, string(test), regexp.MustCompile(`(?m)^//\t?`).ReplaceAllString(shown, ""))
}
