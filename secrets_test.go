package fanout_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/auth"
	"github.com/fanout-go/fanout/fanouthttp"
	"github.com/fanout-go/fanout/fanouttest"
)

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

func TestInvariant11NoSecretIsInAnErrorLogSpanOrMetric(t *testing.T) {
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
