package fanouthttp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouthttp"
)

// created starts an API that answers every request with 201.
func created() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) }))
}

func ExampleHandler() {
	crm := created()
	defer crm.Close()
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{{Name: "crm", URL: crm.URL}}})
	defer d.Close(context.Background())
	handler, err := fanouthttp.NewHandler(d, fanouthttp.Config{Wait: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	gateway := httptest.NewServer(handler)
	defer gateway.Close()

	answer, err := http.Post(gateway.URL, "application/json", strings.NewReader(`{"name":"Ada"}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer answer.Body.Close()
	var report fanouthttp.Report
	_ = json.NewDecoder(answer.Body).Decode(&report)
	fmt.Println(answer.Status, report.Targets[0].Target, report.Targets[0].Outcome)
	// Output: 200 OK crm delivered
}

func ExampleStatusHandler() {
	crm := created()
	defer crm.Close()
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{{Name: "crm", URL: crm.URL}}})
	defer d.Close(context.Background())
	mux := http.NewServeMux()
	mux.Handle("GET /debug/fanout", fanouthttp.StatusHandler(d))

	_, _ = d.Dispatch(context.Background(), map[string]string{"name": "Ada"})
	answer := httptest.NewRecorder()
	mux.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/debug/fanout", nil))
	var status fanout.Snapshot
	_ = json.Unmarshal(answer.Body.Bytes(), &status)
	for _, t := range status.Targets {
		fmt.Println(t.Target, t.Breaker, t.Delivered)
	}
	// Output: crm closed 1
}
