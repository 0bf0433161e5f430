package fanout_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

// assertNeverSent holds that even a request that must not arrive twice was retried.
func assertNeverSent(t *testing.T, r fanout.Result) {
	t.Helper()
	assert.Equal(t, fanout.Failed, r.Outcome, "%v", r.Err())
	assert.Len(t, r.Attempts, 3)
}

func TestFault_ConnectionRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	assertNeverSent(t, deliverTo(t, fanout.Target{URL: "http://" + l.Addr().String()}, unkeyed))
}

func TestFault_ConnectThatGoesNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nowhere := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			time.Sleep(3 * time.Second)
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
		}}
		r := deliverTo(t, fanout.Target{URL: "http://crm.example", Transport: nowhere}, fanout.Policy{Idempotency: unkeyed.Idempotency})
		assertNeverSent(t, r)
		require.ErrorIs(t, r.Err(), os.ErrDeadlineExceeded)
	})
}

func TestFault_ResetBeforeTheRequestIsWritten(t *testing.T) {
	address := listener(t, func(conn *net.TCPConn) {
		_ = conn.SetLinger(0)
		_ = conn.Close()
	})
	assertNeverSent(t, deliverTo(t, fanout.Target{URL: "https://" + address}, unkeyed))
}

func TestFault_ResetAfterTheRequest(t *testing.T) {
	for name, step := range map[string]fanouttest.Step{
		"without an answer":           fanouttest.Reset(),
		"in the middle of the answer": fanouttest.ResetMidway(),
		"answer cut off":              fanouttest.Truncate(),
		"answer that is not HTTP":     fanouttest.Garbage(),
	} {
		t.Run(name, func(t *testing.T) {
			crm := fanouttest.NewTarget(t, step)
			r := deliverTo(t, crm.Target("crm"), unkeyed)
			assert.Equal(t, fanout.Unknown, r.Outcome)
			require.ErrorIs(t, r.Err(), fanout.ErrNotIdempotent)
			assert.Equal(t, 1, crm.Count())

			crm = fanouttest.NewTarget(t, step, fanouttest.Status(http.StatusOK))
			r = deliverTo(t, crm.Target("crm"), keyed)
			assert.Equal(t, fanout.Delivered, r.Outcome)
			assert.Equal(t, 2, crm.Count())
		})
	}
}

func TestFault_PartitionInTheMiddleOfACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := fanouttest.NewMemoryTarget(t, fanouttest.Hang())
		r := deliverTo(t, crm.Target("crm"), fanout.Policy{Retry: fanout.Retry{MaxAttempts: 2}})
		assert.Equal(t, fanout.Unknown, r.Outcome)
		require.ErrorIs(t, r.Err(), fanout.ErrAttemptTimeout)
		for _, a := range r.Attempts {
			assert.Equal(t, 10*time.Second, a.Duration)
		}
	})
}

// A server may close an idle connection at any time. net/http repeats by itself
// what it lost on one, if it believes that to be safe.
func TestFault_IdleConnectionClosedByThePeerBetweenTwoCalls(t *testing.T) {
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

func TestFault_DNS(t *testing.T) {
	resolvingBy := func(dial func(context.Context) (net.Conn, error)) http.RoundTripper {
		resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
		return &http.Transport{DialContext: (&net.Dialer{Resolver: resolver}).DialContext}
	}
	for name, transport := range map[string]http.RoundTripper{
		"no such host": nil,
		"server failure": resolvingBy(func(context.Context) (net.Conn, error) {
			return nil, errors.New("connection refused")
		}),
		"slow": resolvingBy(func(ctx context.Context) (net.Conn, error) {
			select { // net/http goes on dialling for an attempt that has given up
			case <-ctx.Done():
			case <-t.Context().Done():
			}
			return nil, errors.New("no answer")
		}),
	} {
		t.Run(name, func(t *testing.T) {
			policy := unkeyed
			if name == "slow" {
				policy.AttemptTimeout = 50 * time.Millisecond
			}
			r := deliverTo(t, fanout.Target{URL: "http://crm.invalid", Transport: transport}, policy)
			assertNeverSent(t, r)
			if name == "slow" {
				require.EqualError(t, r.Err(), "crm: given up after 3 attempts: attempt timeout")
				return
			}
			var dns *net.DNSError
			require.ErrorAs(t, r.Err(), &dns)
			assert.Equal(t, "crm.invalid", dns.Name)
		})
	}
}

func TestFault_Certificate(t *testing.T) {
	ours, another := newAuthority(t), newAuthority(t)
	for name, test := range map[string]struct {
		issuer *authority
		change func(*x509.Certificate)
		says   string
	}{
		"expired":        {ours, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, "certificate has expired"},
		"wrong host":     {ours, func(c *x509.Certificate) { c.IPAddresses = nil; c.DNSNames = []string{"other.example"} }, "127.0.0.1"},
		"unknown issuer": {another, func(*x509.Certificate) {}, "unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			server := test.issuer.serveTLS(t, func(http.ResponseWriter, *http.Request) {}, test.change)
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ours.pool()}}
			r := deliverTo(t, fanout.Target{URL: server.URL, Transport: transport}, keyed)
			assert.Equal(t, fanout.Failed, r.Outcome)
			assert.Len(t, r.Attempts, 1)
			require.ErrorIs(t, r.Err(), fanout.ErrNotRetried)
			require.ErrorContains(t, r.Err(), test.says)
		})
	}
}

func TestFault_HandshakeThatStalls(t *testing.T) {
	address := listener(t, func(*net.TCPConn) {})
	impatient := unkeyed
	impatient.AttemptTimeout = 50 * time.Millisecond
	r := deliverTo(t, fanout.Target{URL: "https://" + address}, impatient)
	assertNeverSent(t, r)
	require.ErrorIs(t, r.Err(), fanout.ErrAttemptTimeout)
}

func TestFault_ClientCertificateRotatedOnDisk(t *testing.T) {
	ca := newAuthority(t)
	var names []string
	server := ca.serveTLS(t, func(w http.ResponseWriter, r *http.Request) {
		names = append(names, r.TLS.PeerCertificates[0].Subject.CommonName)
		w.Header().Set("Connection", "close")
	}, func(*x509.Certificate) {})
	certificate, key := filepath.Join(t.TempDir(), "client.crt"), filepath.Join(t.TempDir(), "client.key")
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: ca.pool(),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(certificate, key)
			return &pair, err
		},
	}}
	d := newDispatcher(t, fanout.Target{Name: "crm", URL: server.URL, Transport: transport})
	for _, name := range []string{"first", "second"} {
		ca.writeClient(t, name, certificate, key)
		_, err := d.Dispatch(t.Context(), "hello")
		require.NoError(t, err)
	}
	assert.Equal(t, []string{"first", "second"}, names)
}

func TestFault_AByteASecond(t *testing.T) {
	for name, step := range map[string]fanouttest.Step{
		"header": fanouttest.DripHeader(time.Second),
		"body":   fanouttest.Drip(time.Second),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				crm := fanouttest.NewMemoryTarget(t, step)
				r := deliverTo(t, crm.Target("crm"), fanout.Policy{Retry: fanout.Retry{MaxAttempts: 1}})
				assert.Equal(t, fanout.Unknown, r.Outcome)
				require.ErrorIs(t, r.Err(), fanout.ErrAttemptTimeout)
				assert.Equal(t, 10*time.Second, r.Duration)
			})
		})
	}
}

func TestFault_AnswersWithoutEnd(t *testing.T) {
	for name, step := range map[string]fanouttest.Step{
		"endless":   fanouttest.Endless(),
		"gzip bomb": fanouttest.GzipBomb(8 << 30),
	} {
		t.Run(name, func(t *testing.T) {
			crm := fanouttest.NewTarget(t, step)
			d := newDispatcher(t, crm.Target("crm"))
			for connections := 1; connections <= 2; connections++ {
				r := dispatch(t.Context(), d)["crm"]
				assert.Equal(t, fanout.Unknown, r.Outcome)
				require.ErrorIs(t, r.Err(), fanout.ErrResponseTooLarge)
				assert.Len(t, r.Attempts, 1)
				assert.Equal(t, connections, crm.Connections(), "it is not used again")
			}
		})
	}
}

func TestFault_ThousandsOfHeaderLines(t *testing.T) {
	crm := fanouttest.NewTarget(t, fanouttest.Headers(5000))
	r := deliverTo(t, crm.Target("crm"), unkeyed)
	assert.Equal(t, fanout.Unknown, r.Outcome)
	require.ErrorContains(t, r.Err(), "headers exceeded 65536 bytes")
}

func TestFault_ThrottledWithRetryAfter(t *testing.T) {
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		synctest.Test(t, func(t *testing.T) {
			crm := fanouttest.NewMemoryTarget(t, fanouttest.RetryAfter(status, "9"), fanouttest.Status(http.StatusOK))
			r := deliverTo(t, crm.Target("crm"), fanout.Policy{})
			require.NoError(t, r.Err())
			assert.GreaterOrEqual(t, r.Duration, 9*time.Second)
		})
	}
}

func TestFault_RetryAfterBeyondTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := deliverTo(t, fanouttest.NewMemoryTarget(t, fanouttest.RetryAfter(429, "31")).Target("crm"), fanout.Policy{})
		assert.Zero(t, r.Duration)
		require.EqualError(t, r.Err(), "crm: no time left to retry after 1 attempt: 429 Too Many Requests, retry after 31s")
	})
}

func TestFault_RetryAfterThatMeansNothing(t *testing.T) {
	for _, value := range []string{"-1", "soon", "0", "Fri, 31 Dec 1999 23:59:59 GMT"} {
		synctest.Test(t, func(t *testing.T) {
			crm := fanouttest.NewMemoryTarget(t, fanouttest.RetryAfter(503, value))
			d := newDispatcher(t, with(crm.Target("crm"), fanout.Policy{Breaker: fanout.Breaker{OpenFor: -1}}))
			r := dispatch(t.Context(), d)["crm"]
			assert.GreaterOrEqual(t, r.Duration, 1500*time.Millisecond, "jittered")
			for range 10 {
				r = dispatch(t.Context(), d)["crm"]
			}
			require.ErrorIs(t, r.Err(), fanout.ErrRetryBudget, "and budgeted")
		})
	}
}

func TestFault_RedirectToAnotherHost(t *testing.T) {
	elsewhere := fanouttest.NewTarget(t)
	crm := fanouttest.NewTarget(t, fanouttest.Redirect(http.StatusTemporaryRedirect, elsewhere.URL()))
	r := deliverTo(t, crm.Target("crm"), keyed)
	assert.Equal(t, fanout.Failed, r.Outcome)
	assert.Zero(t, elsewhere.Count())
}

func TestFault_StaleToken(t *testing.T) {
	crm := fanouttest.NewTarget(t, fanouttest.Statuses(401, 200)...)
	target := crm.Target("crm")
	token := &renewable{}
	target.Auth = token
	r := deliverTo(t, target, keyed)
	assert.Equal(t, fanout.Delivered, r.Outcome)
	assert.Len(t, r.Attempts, 2)
	assert.Equal(t, 1, token.renewals)
}

func TestFault_ConflictAndReuseOfAKey(t *testing.T) {
	for _, test := range []struct {
		statuses []int
		policy   fanout.Policy
		outcome  fanout.Outcome
		attempts int
	}{
		{[]int{409, 200}, keyed, fanout.Delivered, 2},
		{[]int{409}, unkeyed, fanout.Failed, 1},
		{[]int{422, 200}, keyed, fanout.Failed, 1},
	} {
		r := deliverTo(t, fanouttest.NewTarget(t, fanouttest.Statuses(test.statuses...)...).Target("crm"), test.policy)
		assert.Equal(t, test.outcome, r.Outcome, test.statuses)
		assert.Len(t, r.Attempts, test.attempts, test.statuses)
	}
}

func TestFault_OKThatSaysError(t *testing.T) {
	crm := fanouttest.NewTarget(t, fanouttest.Reply(200, `{"ok":false}`))
	target := crm.Target("crm")
	target.Classify = func(r *fanout.Response) error {
		if string(r.Body) == `{"ok":false}` {
			return fanout.Permanent(errors.New("not ok"))
		}
		return r.Err()
	}
	r := deliverTo(t, target, keyed)
	assert.Equal(t, fanout.Failed, r.Outcome)
	require.EqualError(t, r.Err(), "crm: not retried after 1 attempt: not ok")
}

func TestFault_StormOf503(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm, email := fanouttest.NewMemoryTarget(t, fanouttest.Status(503)), fanouttest.NewMemoryTarget(t)
		target := crm.Target("crm")
		target.Optional = true
		d := newDispatcher(t, target, email.Target("email"))
		const dispatches = 500
		for range dispatches {
			results, err := d.Dispatch(t.Context(), "hello")
			require.NoError(t, err)
			require.Len(t, results["email"].Attempts, 1)
		}
		assert.Less(t, crm.Count(), 20, "first the budget, then the breaker")
		assert.Equal(t, dispatches, email.Count())
	})
}

func TestFault_CallerCancels(t *testing.T) {
	const at = 10 * time.Millisecond
	for name, test := range map[string]struct {
		steps    []fanouttest.Step
		outcome  fanout.Outcome
		attempts int
	}{
		"on the wire":             {[]fanouttest.Step{fanouttest.Hang()}, fanout.Unknown, 1},
		"in backoff":              {[]fanouttest.Step{fanouttest.Status(503)}, fanout.Failed, 1},
		"in the bulkhead's queue": {[]fanouttest.Step{fanouttest.Delay(time.Second, fanouttest.Status(200))}, fanout.Rejected, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				steps := test.steps
				if test.attempts > 0 {
					steps = append(steps, fanouttest.Status(200))
				}
				d := newDispatcher(t, with(fanouttest.NewMemoryTarget(t, steps...).Target("crm"), fanout.Policy{
					Breaker: fanout.Breaker{ConsecutiveFailures: 2}, Bulkhead: fanout.Bulkhead{MaxConcurrent: 1, MaxWait: time.Minute},
				}))
				if test.attempts == 0 {
					go dispatch(t.Context(), d)
					synctest.Wait()
				}
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(at, cancel)
				r := dispatch(ctx, d)["crm"]
				assert.Equal(t, test.outcome, r.Outcome)
				assert.Len(t, r.Attempts, test.attempts)
				assert.Equal(t, at, r.Duration, "at once")
				require.ErrorIs(t, r.Err(), context.Canceled)
				assert.Equal(t, fanout.BreakerClosed, stateOf(t, d))
				assert.Equal(t, fanout.Delivered, dispatch(t.Context(), d)["crm"].Outcome, "the permit is back")
			})
		})
	}
}

// Durations are differences of monotonic clock readings; a time that has lost
// its reading would follow the wall clock.
func TestFault_WallClockJumps(t *testing.T) {
	crm := fanouttest.NewTarget(t)
	r := deliverTo(t, crm.Target("crm"), fanout.Policy{})
	assert.Contains(t, r.Attempts[0].Start.String(), " m=+")
}
