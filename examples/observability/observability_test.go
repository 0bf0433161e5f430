package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/fanout-go/fanout"
)

// start serves sign-ups until the test ends, or stop is called.
func start(t *testing.T, targets []fanout.Target) (url string, stop func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, listener, targets, io.Discard) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-served)
	})
	t.Cleanup(stop)
	return "http://" + listener.Addr().String(), stop
}

func post(t *testing.T, url string) {
	t.Helper()
	answer, err := http.Post(url+"/signup", "application/json", strings.NewReader(`{"email":"ada@example.com"}`))
	require.NoError(t, err)
	_ = answer.Body.Close()
	require.Equal(t, http.StatusAccepted, answer.StatusCode)
}

func fake(t *testing.T, status int) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	t.Cleanup(server.Close)
	return server.URL
}

func TestTracesGoToTheCollectorThatTheEnvironmentNames(t *testing.T) {
	names := make(chan string, 100)
	otlp := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/traces" {
			return
		}
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			body, _ = gzip.NewReader(body)
		}
		encoded, _ := io.ReadAll(body)
		var request collector.ExportTraceServiceRequest
		if !assert.NoError(t, proto.Unmarshal(encoded, &request)) {
			return
		}
		for _, resource := range request.GetResourceSpans() {
			for _, scope := range resource.GetScopeSpans() {
				for _, span := range scope.GetSpans() {
					names <- span.GetName()
				}
			}
		}
	}))
	defer otlp.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.URL)
	service, stop := start(t, []fanout.Target{{Name: "crm", URL: fake(t, 200)}})
	post(t, service)
	stop()
	close(names)
	var all []string
	for name := range names {
		all = append(all, name)
	}
	assert.ElementsMatch(t, []string{"POST /signup", "deliver crm", "POST"}, all)
}

// installed returns the path of a program, or skips the test.
func installed(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("CI must have " + program)
		}
		t.Skip("SKIPPED: rules and dashboard are not tested, as there is no " + program)
	}
	return path
}

func TestTheAlertRulesAreWellFormed(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), installed(t, "promtool"), "check", "rules", "prometheus/alerts.yml").CombinedOutput()
	require.NoError(t, err, string(out))
	out, err = exec.CommandContext(t.Context(), installed(t, "promtool"), "check", "config", "prometheus/prometheus.yml").CombinedOutput()
	require.NoError(t, err, string(out))
}

func TestARealPrometheusLoadsTheRulesAndAnswersTheDashboard(t *testing.T) {
	program := installed(t, "prometheus")
	service, _ := start(t, []fanout.Target{
		{Name: "email", URL: fake(t, 202)},
		{Name: "crm", URL: fake(t, 500), Method: http.MethodPut, Policy: fanout.Policy{Retry: fanout.Retry{InitialBackoff: time.Millisecond, Budget: 1}, Breaker: fanout.Breaker{OpenFor: time.Hour}}},
	})
	p := startPrometheus(t, program, service)
	p.eventually(t, "up == 1")
	p.signUp = func() { post(t, service) }
	p.eventually(t, `fanout_breaker_state{fanout_target="crm"} == 2`)
	p.eventually(t, `ALERTS{alertname="FanoutBreakerOpen", fanout_target="crm"}`)
	p.eventually(t, `ALERTS{alertname="FanoutDeadLetters", fanout_target="crm"}`)
	p.eventually(t, `ALERTS{alertname="FanoutTargetFails", fanout_target="crm"}`)

	var rules struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
	}
	p.get(t, "/api/v1/rules", &rules)
	require.Len(t, rules.Data.Groups, 1)
	assert.Len(t, rules.Data.Groups[0].Rules, 5)
	for _, rule := range rules.Data.Groups[0].Rules {
		assert.Equal(t, "ok", rule.Health, "%s: %s", rule.Name, rule.LastError)
	}
	for _, expression := range dashboardExpressions(t) {
		p.eventually(t, expression)
	}
}

func dashboardExpressions(t *testing.T) []string {
	t.Helper()
	var dashboard struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	file, err := os.ReadFile("grafana/dashboard.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(file, &dashboard))
	var all []string
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			all = append(all, strings.NewReplacer("$__rate_interval", "1m", "$target", ".*").Replace(target.Expr))
		}
	}
	require.Greater(t, len(all), 10)
	return all
}

type prometheusServer struct {
	url    string
	signUp func() // causes traffic
}

// startPrometheus scrapes the service much more often than in production.
func startPrometheus(t *testing.T, program, service string) prometheusServer {
	t.Helper()
	dir := t.TempDir()
	config, err := os.ReadFile("prometheus/prometheus.yml")
	require.NoError(t, err)
	text := regexp.MustCompile(`_interval: 15s`).ReplaceAllString(string(config), "_interval: 200ms")
	text = strings.Replace(text, "127.0.0.1:8080", strings.TrimPrefix(service, "http://"), 1)
	rules, err := filepath.Abs("prometheus/alerts.yml")
	require.NoError(t, err)
	text = strings.Replace(text, "alerts.yml", rules, 1)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(text), 0o600))

	port, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := port.Addr().String()
	require.NoError(t, port.Close())
	ctx, stop := context.WithCancel(context.Background())
	var log bytes.Buffer
	command := exec.CommandContext(ctx, program, "--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr)
	command.Stdout, command.Stderr = &log, &log
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		stop()
		_ = command.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return prometheusServer{"http://" + addr, func() {}}
}

func (p prometheusServer) get(t *testing.T, path string, into any) {
	t.Helper()
	answer, err := http.Get(p.url + path)
	require.NoError(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, answer.StatusCode, "%s: %s", path, body)
	require.NoError(t, json.Unmarshal(body, into))
}

// eventually keeps signing up until an expression has a value.
func (p prometheusServer) eventually(t *testing.T, expression string) {
	t.Helper()
	giveUp := time.After(time.Minute)
	for {
		p.signUp()
		answer, err := http.Get(p.url + "/api/v1/query?query=" + url.QueryEscape(expression))
		if err == nil {
			var result struct {
				Status, Error string
				Data          struct{ Result []any }
			}
			err = json.NewDecoder(answer.Body).Decode(&result)
			_ = answer.Body.Close()
			require.NotEqual(t, http.StatusBadRequest, answer.StatusCode, "%s: %s", expression, result.Error)
			if err == nil && len(result.Data.Result) > 0 {
				return
			}
		}
		select {
		case <-giveUp:
			require.Fail(t, "never true", expression)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func TestTheProgramRunsAndStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	ran := make(chan error, 1)
	go func() {
		ran <- run(ctx, []string{"-addr", "127.0.0.1:0", "-traffic", "100"}, writer, io.Discard)
		_ = writer.Close()
	}()
	var page string
	_, err := fmt.Fscanf(reader, "targets %s\n", &page)
	require.NoError(t, err)
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	for {
		var status fanout.Snapshot
		answer, err := http.Get(page)
		require.NoError(t, err)
		require.NoError(t, json.NewDecoder(answer.Body).Decode(&status))
		_ = answer.Body.Close()
		if status.Targets[0].Delivered > 5 {
			break
		}
	}
	cancel()
	require.NoError(t, <-ran)
}
