package fanout_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/auth"
)

// listening is a target on loopback that also counts its connections.
func listening(t *testing.T, handler http.HandlerFunc) (fanout.Target, *atomic.Int64) {
	t.Helper()
	var connections atomic.Int64
	server := httptest.NewUnstartedServer(handler)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	return fanout.Target{Name: "crm", URL: server.URL + "/contacts?list=7"}, &connections
}

func TestARequestIsAsItsDefinitionSays(t *testing.T) {
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

func TestGetAndHeadSendNoBody(t *testing.T) {
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

func TestConnectionsAreReusedAfterFailures(t *testing.T) {
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

// A server may close an idle connection at any time. net/http repeats by itself
// what it lost on one, if it believes that to be safe.
func TestFaultIdleConnectionClosedByThePeerBetweenTwoCalls(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		for _, payload := range []fanout.Payload{{}, {Value: "hello"}} {
			var mu sync.Mutex
			var arrived []string
			target, _ := listening(t, func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				arrived = append(arrived, r.Header.Get(fanout.RequestIDHeader))
				if len(arrived) == 2 {
					conn, _, _ := w.(http.Hijacker).Hijack()
					_ = conn.Close()
				}
			})
			target.Method = method
			d := newDispatcher(t, with(target, fanout.Policy{Retry: fanout.Retry{InitialBackoff: 1}}))
			var recorded []string
			for range 2 {
				results, err := d.Dispatch(t.Context(), payload)
				require.NoError(t, err)
				for _, a := range results["crm"].Attempts {
					recorded = append(recorded, a.RequestID)
				}
			}
			assert.Len(t, arrived, 3)
			assert.Equal(t, arrived, recorded, method)
		}
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
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

func TestAnswersAreCappedAfterDecompression(t *testing.T) {
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

func sized(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, n)) }
}

func TestAnAnswerThatIsCutOffMayHaveTakenEffect(t *testing.T) {
	target, _ := listening(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
	})
	target.Retry.MaxAttempts = 1
	r := dispatch(t.Context(), newDispatcher(t, target))["crm"]
	assert.Equal(t, fanout.Unknown, r.Outcome)
	assert.Equal(t, 200, r.Attempts[0].StatusCode)
	require.ErrorIs(t, r.Err(), io.ErrUnexpectedEOF)
}

func TestATransportPerTargetIsAPoolOfItsOwn(t *testing.T) {
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

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestATransportMayHoldOnToARequestAfterItsAttempt(t *testing.T) {
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

func TestOutcomesTellHowFarARequestCame(t *testing.T) {
	refused := errors.New("refused")
	for _, test := range []struct {
		name    string
		target  fanout.Target
		outcome fanout.Outcome
	}{
		{"2xx", via("crm", answering(204)), fanout.Delivered},
		{"3xx", via("crm", answering(304)), fanout.Failed},
		{"4xx", via("crm", answering(404)), fanout.Failed},
		{"500", via("crm", answering(500)), fanout.Failed},
		{"503", via("crm", answering(503)), fanout.Failed},
		{"a gateway that does not know", via("crm", answering(502)), fanout.Unknown},
		{"a gateway that waited", via("crm", answering(504)), fanout.Unknown},
		{"unanswered, then refused", via("crm", answering(504, 400)), fanout.Unknown},
		{"unanswered, then accepted", via("crm", answering(504, 200)), fanout.Delivered},
		{"lost", via("crm", func(*http.Request) (*http.Response, error) { return nil, errors.New("EOF") }), fanout.Unknown},
		{"no connection", via("crm", func(*http.Request) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Err: refused}
		}), fanout.Failed},
		{"sender's error", senderOf(nil, refused), fanout.Unknown},
		{"sender's refusal", senderOf(nil, fanout.Refused(refused)), fanout.Failed},
		{"sender's permanent refusal", senderOf(nil, fanout.Permanent(refused)), fanout.Failed},
		{"sender that did not send", senderOf(nil, fanout.NotSent(refused)), fanout.Failed},
		{"sender's status", senderOf(&fanout.Response{StatusCode: 404}, nil), fanout.Failed},
		{"sender's status error", senderOf(nil, &fanout.StatusError{StatusCode: 404}), fanout.Failed},
		{"sender without an answer", senderOf(nil, nil), fanout.Delivered},
		{"sender's answer", senderOf(&fanout.Response{Body: []byte("ok")}, nil), fanout.Delivered},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.target.Retry = fanout.Retry{MaxAttempts: 2, InitialBackoff: 1, ThrottledBackoff: -1}
			r := dispatch(t.Context(), newDispatcher(t, test.target))["crm"]
			assert.Equal(t, test.outcome, r.Outcome)
			assert.Equal(t, test.outcome == fanout.Unknown, r.Err() != nil && strings.Contains(r.Err().Error(), "it may have taken effect"))
		})
	}
}

func senderOf(response *fanout.Response, err error) fanout.Target {
	return sending("crm", func(context.Context, *fanout.Request) (*fanout.Response, error) { return response, err })
}

func TestAClassifierHasTheLastWordOnACompleteAnswer(t *testing.T) {
	for _, test := range []struct {
		name     string
		status   int
		verdict  error
		outcome  fanout.Outcome
		attempts int
	}{
		{"no for a 200", 200, errors.New("no such list"), fanout.Failed, 2},
		{"final no for a 200", 200, fanout.Permanent(errors.New("no such list")), fanout.Failed, 1},
		{"yes for a 409", 409, nil, fanout.Delivered, 1},
		{"another status", 200, &fanout.StatusError{StatusCode: 503}, fanout.Failed, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			target := with(via("crm", answering(test.status)), fanout.Policy{Retry: fanout.Retry{MaxAttempts: 2, InitialBackoff: 1, ThrottledBackoff: -1}})
			target.Classify = func(*fanout.Response) error { return test.verdict }
			r := dispatch(t.Context(), newDispatcher(t, target))["crm"]
			assert.Equal(t, test.outcome, r.Outcome)
			assert.Len(t, r.Attempts, test.attempts)
			assert.Equal(t, test.status, r.Response.StatusCode)
		})
	}
}

func TestAnAuthenticatorThatFailsSendsNothing(t *testing.T) {
	var sent bool
	target := via("crm", func(*http.Request) (*http.Response, error) { sent = true; return answer(200, ""), nil })
	target.Auth = fanout.AuthenticatorFunc(func(context.Context, *http.Request) error { return errors.New("no token") })
	r := dispatch(t.Context(), newDispatcher(t, target))["crm"]
	assert.Equal(t, fanout.Rejected, r.Outcome)
	require.EqualError(t, r.Err(), "crm: authentication failed: no token")
	require.ErrorIs(t, r.Err(), fanout.ErrAuth)
	assert.False(t, sent)
}

func TestPrepareShapesOneTargetsRequestForAllItsAttempts(t *testing.T) {
	var bodies, paths []string
	record := func(statuses ...int) wire {
		next := inTurn(statuses...)
		return func(r *http.Request) (*http.Response, error) {
			body, _ := io.ReadAll(r.Body)
			bodies, paths = append(bodies, string(body)), append(paths, r.URL.Path)
			return answer(next(), ""), nil
		}
	}
	calls := 0
	target := fanout.Target{Name: "crm", URL: "https://crm.example/v1", Transport: roundTripper(record(500, 200)),
		Policy: fanout.Policy{Retry: fanout.Retry{InitialBackoff: 1}},
		Prepare: func(_ context.Context, r *fanout.Request) error {
			calls++
			r.URL = r.URL.JoinPath(r.Payload.Value.(string))
			r.Body = []byte("shaped")
			r.Header.Set("X-Shape", "1")
			return nil
		}}
	other := fanout.Target{Name: "other", URL: "https://other.example/v1", Transport: roundTripper(record(200))}
	d := newDispatcher(t, target, other)
	for _, name := range []string{"crm", "other"} {
		_, err := d.Dispatch(t.Context(), "ada", fanout.To(name))
		require.NoError(t, err)
	}
	assert.Equal(t, 1, calls)
	assert.Equal(t, []string{"shaped", "shaped", `"ada"`}, bodies)
	assert.Equal(t, []string{"/v1/ada", "/v1/ada", "/v1"}, paths)
}

func TestWhatPrepareBreaksIsRefused(t *testing.T) {
	for want, breaks := range map[string]func(*fanout.Request) error{
		"no such plan":       func(*fanout.Request) error { return errors.New("no such plan") },
		"it removed the URL": func(r *fanout.Request) error { r.URL = nil; return nil },
		"URL: no host":       func(r *fanout.Request) error { r.URL.Host = ""; return nil },
		"Header: Idempotency-Key is set by the library or the connection": func(r *fanout.Request) error { r.Header.Set("Idempotency-Key", "x"); return nil },
		"ContentType: not a header value":                                 func(r *fanout.Request) error { r.ContentType = "a\nb"; return nil },
	} {
		target := via("crm", answering(200))
		target.Prepare = func(_ context.Context, r *fanout.Request) error { return breaks(r) }
		r := dispatch(t.Context(), newDispatcher(t, target))["crm"]
		assert.Equal(t, fanout.Rejected, r.Outcome)
		require.EqualError(t, r.Err(), "crm: prepare failed: "+want)
		require.ErrorIs(t, r.Err(), fanout.ErrPrepare)
		require.NotErrorIs(t, r.Err(), fanout.ErrInvalid, "which is about what was never begun")
		assert.Empty(t, r.Attempts)
	}
}

func TestASlowTargetIsGivenUpOnAfterTheAttemptTimeout(t *testing.T) {
	target, _ := listening(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	r := dispatch(t.Context(), newDispatcher(t, with(target, fanout.Policy{
		AttemptTimeout: 20 * time.Millisecond, Retry: fanout.Retry{MaxAttempts: 2, InitialBackoff: 1},
	})))["crm"]
	assert.Equal(t, fanout.Unknown, r.Outcome)
	assert.Len(t, r.Attempts, 2)
	require.ErrorIs(t, r.Err(), fanout.ErrAttemptTimeout)
	require.ErrorIs(t, r.Err(), context.DeadlineExceeded)
}

func TestAuth_RequestForATokenIsNotTakenForTheTargets(t *testing.T) {
	endpoint := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer endpoint.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	gone := listener(t, func(*net.TCPConn) {})
	crm := fanout.Target{Name: "crm", URL: "https://" + gone, Transport: transport}
	crm.Auth = auth.Tokens(auth.TokenSourceFunc(func(ctx context.Context) (auth.Token, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint.URL, http.NoBody)
		if err != nil {
			return auth.Token{}, err
		}
		answer, err := (&http.Client{Transport: transport}).Do(r)
		if err != nil {
			return auth.Token{}, err
		}
		return auth.Token{Value: auth.NewSecret("t-1")}, answer.Body.Close()
	}))
	r := to(t, crm, fanout.Policy{AttemptTimeout: 100 * time.Millisecond, Idempotency: fanout.Idempotency{Header: "-"}})
	assert.Equal(t, fanout.Failed, r.Outcome, "the handshake with the target never ended, so nothing was sent to it")
}
