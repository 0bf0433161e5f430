package fanout_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestHTTP_RequestIsAsItsDefinitionSays(t *testing.T) {
	var got *http.Request
	var body string
	target, _ := listening(t, func(_ http.ResponseWriter, r *http.Request) {
		all, _ := io.ReadAll(r.Body)
		got, body = r, string(all)
	})
	target.Method = http.MethodPut
	target.Header = http.Header{"x-team": {"growth"}, "Accept": {"a", "b"}, "User-Agent": {"shop/1.0"}}
	target.Idempotency = fanout.Idempotency{Header: "x-once", Format: fanout.KeyStructured}

	ctx := fanout.WithCorrelationID(t.Context(), "visit-7")
	results, err := newDispatcher(t, target).Dispatch(ctx, fanout.Payload{
		Value: map[string]int{"seats": 12}, Header: http.Header{"x-plan": {"team"}, "Accept": {"c"}}, Key: `a"b`,
	})
	require.NoError(t, err)
	assert.Equal(t, "PUT /contacts?list=7 HTTP/1.1", got.Method+" "+got.RequestURI+" "+got.Proto)
	assert.Equal(t, `{"seats":12}`, body)
	got.Header.Del("Accept-Encoding")
	assert.Equal(t, http.Header{
		"Content-Type":     {"application/json"},
		"Content-Length":   {"12"},
		"User-Agent":       {"shop/1.0"},
		"X-Team":           {"growth"},
		"X-Plan":           {"team"},
		"Accept":           {"c"},
		"X-Once":           {`"a\"b:crm"`},
		"X-Correlation-Id": {"visit-7"},
		"X-Request-Id":     {results["crm"].Attempts[0].RequestID},
	}, got.Header)
}

func TestHTTP_GetAndHeadSendNoBody(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		target, _ := listening(t, func(_ http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			assert.Empty(t, body)
			assert.Empty(t, r.Header.Get("Content-Type"))
			assert.Empty(t, r.TransferEncoding)
		})
		target.Method = method
		_, err := newDispatcher(t, target).Dispatch(t.Context(), "hello")
		require.NoError(t, err)
	}
}

func TestHTTP_RedirectsAreNotFollowed(t *testing.T) {
	elsewhere, visits := listening(t, func(http.ResponseWriter, *http.Request) {})
	for _, status := range []int{301, 302, 303, 307, 308} {
		target, _ := listening(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, status)
		})
		r := dispatch(t.Context(), newDispatcher(t, target))["crm"]
		assert.Equal(t, fanout.Failed, r.Outcome)
		assert.Equal(t, status, r.Response.StatusCode)
	}
	assert.Zero(t, visits.Load())
}

func TestHTTP_SwitchOfProtocolsIsNoAnswerToWaitFor(t *testing.T) {
	target := peer(t, func(string) string {
		return "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
	})
	r := deliverTo(t, target, keyed)
	assert.Equal(t, fanout.Failed, r.Outcome)
	assert.Equal(t, 101, r.Attempts[0].StatusCode)
}

func TestHTTP_EndlessInformationalAnswersEnd(t *testing.T) {
	api := fanouttest.NewTarget(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, _ := w.(http.Hijacker).Hijack()
		defer conn.Close()
		for {
			if _, err := fmt.Fprintf(conn, "HTTP/1.1 103 Early Hints\r\nLink: %s\r\n\r\n", strings.Repeat("x", 1000)); err != nil {
				return
			}
		}
	})
	target := with(api.Target("crm"), fanout.Policy{AttemptTimeout: 20 * time.Second, Retry: fanout.Retry{MaxAttempts: 1}})
	r := dispatch(t.Context(), newDispatcher(t, target))["crm"]
	require.Error(t, r.Err())
	require.NotErrorIs(t, r.Err(), fanout.ErrAttemptTimeout, "it ends by itself")
}

func TestHTTP_AnswersAreCappedAfterDecompression(t *testing.T) {
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	_, _ = zip.Write(make([]byte, 10<<20))
	_ = zip.Close()
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		limit  int64
		fits   bool
	}{
		{"just fits", sized(1024), 1024, true},
		{"a byte too long", sized(1025), 1024, false},
		{"announced", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "99999999999") }, 1024, false},
		{"gzip bomb", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb.Bytes())
		}, 0, false},
		{"endless", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write(make([]byte, 4096))
			}
		}, 0, false},
		{"no cap", sized(2 << 20), -1, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			target, _ := listening(t, test.answer)
			r := dispatch(t.Context(), newDispatcher(t, with(target, fanout.Policy{MaxResponseBytes: test.limit})))["crm"]
			assert.Equal(t, test.fits, r.Err() == nil, "%v", r.Err())
			if !test.fits {
				require.ErrorIs(t, r.Err(), fanout.ErrResponseTooLarge)
				assert.Equal(t, fanout.Unknown, r.Outcome)
				assert.Len(t, r.Attempts, 1)
			}
		})
	}
}

// sized answers with n bytes.
func sized(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, n)) }
}

func TestHTTP_BodyWithoutProgressEnds(t *testing.T) {
	empty := func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(readFunc(func([]byte) (int, error) { return 0, nil }))}, nil
	}
	require.ErrorIs(t, deliverTo(t, via("crm", empty), keyed).Err(), io.ErrNoProgress)

	synctest.Test(t, func(t *testing.T) {
		deaf := func(*http.Request) (*http.Response, error) {
			reader, _ := io.Pipe()
			return &http.Response{StatusCode: http.StatusOK, Body: reader}, nil
		}
		r := deliverTo(t, via("crm", deaf), fanout.Policy{Retry: fanout.Retry{MaxAttempts: 1}})
		assert.Equal(t, fanout.Unknown, r.Outcome)
		assert.Equal(t, 10*time.Second, r.Duration)
	})
}

func TestHTTP_WhatAPeerEchoesIsInNoError(t *testing.T) {
	const secret = "s3cr3t"
	for name, echo := range map[string]func(string) string{
		"request line": func(request string) string { return "HTTP/1.1 " + strings.TrimPrefix(request, "POST ") },
		"header":       func(request string) string { return "HTTP/1.1 200 OK\r\n" + strings.ReplaceAll(request, ":", "") },
		"all":          func(request string) string { return request },
		"trailer": func(request string) string {
			_, credentials, _ := strings.Cut(request, "Authorization: ")
			credentials, _, _ = strings.Cut(credentials, "\r\n")
			return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + credentials + "\r\n\r\n"
		},
	} {
		t.Run(name, func(t *testing.T) {
			target := peer(t, echo)
			target.URL += "/hook/" + secret + "?token=" + secret
			target.Header = http.Header{"Authorization": {"Bearer " + secret}}
			r := deliverTo(t, target, keyed)
			require.Error(t, r.Err())
			assert.NotContains(t, r.Err().Error(), secret)
			assert.Contains(t, r.Err().Error(), "malformed", "but what is wrong is")
		})
	}
}
