package fanout_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/cloudevent"
)

// peer is a server that is anything but HTTP: it takes a request's bytes and
// writes what it likes.
func peer(t *testing.T, answer func(request string) string) fanout.Target {
	t.Helper()
	return fanout.Target{Name: "crm", URL: "http://" + listener(t, func(conn *net.TCPConn) {
		request := make([]byte, 4096)
		n, _ := conn.Read(request)
		_, _ = io.WriteString(conn, answer(string(request[:n])))
	})}
}

func TestASwitchOfProtocolsIsNoAnswerToWaitFor(t *testing.T) {
	target := peer(t, func(string) string {
		return "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
	})
	r := to(t, target, keyed)
	assert.Equal(t, fanout.Failed, r.Outcome)
	assert.Equal(t, 101, r.Attempts[0].StatusCode)
}

func TestAStatusThatIsNoneIsNoSuccess(t *testing.T) {
	target := peer(t, func(string) string { return "HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n" })
	assert.Equal(t, fanout.Unknown, to(t, target, keyed).Outcome)
}

func TestWhatAPeerEchoesIsInNoError(t *testing.T) {
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
			r := to(t, target, keyed)
			require.Error(t, r.Err())
			assert.NotContains(t, r.Err().Error(), secret)
			assert.Contains(t, r.Err().Error(), "malformed", "but what is wrong is")
		})
	}
}

func TestAnAuthenticatorsAddressIsInNoError(t *testing.T) {
	target := via("crm", answering(200))
	target.Auth = fanout.AuthenticatorFunc(func(context.Context, *http.Request) error {
		return fmt.Errorf("token: %w", &url.Error{Op: "Post", URL: "https://auth.example/?secret=s3cr3t", Err: io.ErrUnexpectedEOF})
	})
	r := to(t, target, keyed)
	require.EqualError(t, r.Err(), "crm: authentication failed: token: Post: unexpected EOF")
	require.ErrorIs(t, r.Err(), io.ErrUnexpectedEOF)
}

func TestAnAddressInAPanicIsInNoError(t *testing.T) {
	leaking := &url.Error{Op: "Post", URL: "https://auth.example/?secret=s3cr3t", Err: io.ErrUnexpectedEOF}
	target := via("crm", answering(200))
	target.Auth = fanout.AuthenticatorFunc(func(context.Context, *http.Request) error { panic(leaking) })
	r := to(t, target, keyed)
	require.ErrorContains(t, r.Err(), "panic: Post: unexpected EOF")
	require.ErrorIs(t, r.Err(), io.ErrUnexpectedEOF)

	r = to(t, senderOf(nil, fmt.Errorf("slack: %w", leaking)), once)
	require.ErrorContains(t, r.Err(), "slack: Post: unexpected EOF")
	for _, err := range []error{r.Err(), r.Attempts[0].Err} {
		assert.NotContains(t, err.Error(), "s3cr3t")
	}
}

func TestACloudEventIsNotSentAsAValue(t *testing.T) {
	_, err := newDispatcher(t, via("crm", answering(200))).Dispatch(t.Context(), cloudevent.Event{Source: "/shop", Type: "x"})
	require.EqualError(t, err, "fanout: Payload: a CloudEvent: send what its Binary or Structured returns")
}

func TestABodyThatGoesNowhereEnds(t *testing.T) {
	empty := func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(readFunc(func([]byte) (int, error) { return 0, nil }))}, nil
	}
	require.ErrorIs(t, to(t, via("crm", empty), keyed).Err(), io.ErrNoProgress)

	synctest.Test(t, func(t *testing.T) {
		deaf := func(*http.Request) (*http.Response, error) {
			reader, _ := io.Pipe()
			return &http.Response{StatusCode: http.StatusOK, Body: reader}, nil
		}
		r := to(t, via("crm", deaf), fanout.Policy{Retry: fanout.Retry{MaxAttempts: 1}})
		assert.Equal(t, fanout.Unknown, r.Outcome)
		assert.Equal(t, 10*time.Second, r.Duration)
	})
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

func TestAnAnswerThatIsIncompleteIsNotClassified(t *testing.T) {
	target := via("crm", func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusConflict, Body: io.NopCloser(brokenReader{})}, nil
	})
	target.Classify = func(*fanout.Response) error { return nil }
	assert.Equal(t, fanout.Unknown, to(t, target, keyed).Outcome)
}

func TestOnlyTheSenderSaysThatNothingWasSent(t *testing.T) {
	for name, err := range map[string]error{
		"dial":        &net.OpError{Op: "dial", Err: errors.New("refused")},
		"DNS":         &net.DNSError{Err: "no such host"},
		"certificate": &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}},
	} {
		r := to(t, senderOf(nil, fmt.Errorf("second step: %w", err)), unkeyed)
		assert.Equal(t, fanout.Unknown, r.Outcome, name)
		assert.Len(t, r.Attempts, 1)
	}
}

func TestWhatIsTrueOfOneTargetIsNotTrueOfADispatch(t *testing.T) {
	inner := newDispatcher(t, senderOf(nil, fanout.NotSent(errors.New("refused"))), sending("other", func(context.Context, *fanout.Request) (*fanout.Response, error) {
		return nil, errors.New("EOF")
	}))
	outer := sending("crm", func(ctx context.Context, _ *fanout.Request) (*fanout.Response, error) {
		_, err := inner.Dispatch(ctx, "hello")
		return nil, err
	})
	assert.Equal(t, fanout.Unknown, to(t, outer, unkeyed).Outcome)
}

func TestAConflictOverAKeyLeavesTheOutcomeOpen(t *testing.T) {
	assert.Equal(t, fanout.Unknown, to(t, via("crm", answering(409)), keyed).Outcome)
}

func TestAProtocolOfTheUsersOwnTellsNothingOfConnections(t *testing.T) {
	transport := &http.Transport{}
	transport.RegisterProtocol("http", roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("reset") }))
	r := to(t, fanout.Target{URL: "http://crm.example", Transport: transport}, unkeyed)
	assert.Equal(t, fanout.Unknown, r.Outcome)
}

// Over HTTP/2 the request may go out after RoundTrip has returned.
func TestOverHTTP2ACutShortAttemptMayHaveTakenEffect(t *testing.T) {
	ca := newAuthority(t)
	server := ca.serveTLS(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, func(*x509.Certificate) {})
	server.TLS.NextProtos = []string{"h2"}
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: ca.pool()}}
	r := to(t, fanout.Target{URL: server.URL, Transport: transport}, unkeyed)
	assert.Equal(t, fanout.Unknown, r.Outcome)
	assert.Len(t, r.Attempts, 1)
	transport.CloseIdleConnections()
}

func TestRejectedCallsTakeNoRateTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent atomic.Int64
		d := newDispatcher(t, with(via("crm", func(*http.Request) (*http.Response, error) {
			sent.Add(1)
			return answer(200, ""), nil
		}), fanout.Policy{RateLimit: fanout.RateLimit{PerSecond: 20, Burst: 1, MaxWait: 50 * time.Millisecond}}))
		var all sync.WaitGroup
		for range 3000 {
			all.Go(func() { dispatch(t.Context(), d) })
			time.Sleep(time.Millisecond)
		}
		all.Wait()
		assert.GreaterOrEqual(t, sent.Load(), int64(55), "of 60")
	})
}

func TestAnAuthenticatorCannotTouchWhatIsShared(t *testing.T) {
	header := http.Header{}
	for i := range 17 {
		header.Add("X-A", fmt.Sprint(i))
	}
	var mu sync.Mutex
	wrong := 0
	target := via("crm", func(r *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("X-B") != r.Header["X-A"][17] || r.URL.RawQuery != "key="+r.Header.Get("X-B") {
			wrong++
		}
		return answer(200, ""), nil
	})
	target.Header = header
	target.Auth = fanout.AuthenticatorFunc(func(_ context.Context, r *http.Request) error {
		id := r.Header.Get(fanout.RequestIDHeader)
		r.Header.Set("X-B", id)
		r.Header.Add("X-A", id)
		r.URL.RawQuery = "key=" + id
		return nil
	})
	d := newDispatcher(t, target)
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() { dispatch(t.Context(), d) })
	}
	all.Wait()
	assert.Zero(t, wrong)
}

func TestWhatAnAuthenticatorBreaksIsNotTheTargets(t *testing.T) {
	for name, auth := range map[string]fanout.AuthenticatorFunc{
		"header":   func(_ context.Context, r *http.Request) error { r.Header.Set("Authorization", "token\n"); return nil },
		"deadline": func(ctx context.Context, _ *http.Request) error { <-ctx.Done(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				target := via("crm", answering(200))
				target.Auth = auth
				r := to(t, target, fanout.Policy{})
				assert.Equal(t, fanout.Rejected, r.Outcome)
				require.ErrorIs(t, r.Err(), fanout.ErrAuth)
				assert.Empty(t, r.Attempts)
			})
		})
	}
}

func TestAPanicOnARetryGivesItsBudgetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := with(via("crm", answering(500)), fanout.Policy{
			Retry: fanout.Retry{Budget: 1, BudgetRefill: -1}, Breaker: fanout.Breaker{OpenFor: -1},
		})
		calls := 0
		target.Auth = fanout.AuthenticatorFunc(func(context.Context, *http.Request) error {
			if calls++; calls%2 == 0 {
				panic("token")
			}
			return nil
		})
		d := newDispatcher(t, target)
		for range 5 {
			var panicked *fanout.PanicError
			require.ErrorAs(t, dispatch(t.Context(), d)["crm"].Err(), &panicked)
		}
	})
}

func TestPrepareTakesNoneOfTheAttemptsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := with(via("crm", slow(8*time.Second)), fanout.Policy{AttemptTimeout: 10 * time.Second})
		crm.Prepare = func(context.Context, *fanout.Request) error { time.Sleep(5 * time.Second); return nil }
		assert.Equal(t, fanout.Delivered, to(t, crm, crm.Policy).Outcome)
	})
}

func TestExtremeSettingsAreRefusedOrHarmless(t *testing.T) {
	for _, policy := range []fanout.Policy{
		{Timeout: math.MaxInt64}, {AttemptTimeout: math.MaxInt64}, {Breaker: fanout.Breaker{Window: math.MaxInt64}},
		{Breaker: fanout.Breaker{OpenFor: math.MaxInt64}}, {Breaker: fanout.Breaker{Window: 20}, Timeout: -1, AttemptTimeout: -1},
		{Retry: fanout.Retry{InitialBackoff: math.MaxInt64, MaxBackoff: math.MaxInt64}}, {Bulkhead: fanout.Bulkhead{MaxWait: math.MaxInt64}},
	} {
		_, err := fanout.New(fanout.Config{Defaults: policy})
		require.ErrorIs(t, err, fanout.ErrInvalid, "%+v", policy)
	}
	synctest.Test(t, func(t *testing.T) {
		r := to(t, via("crm", saying("9223372036", 503)), fanout.Policy{
			Timeout: -1, AttemptTimeout: -1,
			Retry:    fanout.Retry{MaxAttempts: 2, InitialBackoff: 365 * 24 * time.Hour, MaxBackoff: 365 * 24 * time.Hour, Budget: math.MaxFloat64},
			Breaker:  fanout.Breaker{Window: 365 * 24 * time.Hour, OpenFor: 365 * 24 * time.Hour, Probes: math.MaxInt, ConsecutiveFailures: math.MaxInt, MinCalls: math.MaxInt},
			Bulkhead: fanout.Bulkhead{MaxConcurrent: math.MaxInt, MaxQueue: math.MaxInt},
		})
		assert.Len(t, r.Attempts, 2)
	})
}

func TestHeadersThatMeanSomethingElseCannotCarryAKey(t *testing.T) {
	for _, header := range []string{"Content-Length", "host", "Transfer-Encoding", "Authorization", "x-request-id", "Content-Type"} {
		_, err := fanout.New(fanout.Config{Defaults: fanout.Policy{Idempotency: fanout.Idempotency{Header: header}}})
		require.EqualError(t, err, "fanout: Defaults.Idempotency.Header: "+header+" has another meaning")
	}
}

func TestAnOptionalTargetStaysOptionalWhenRefused(t *testing.T) {
	target := via("crm", answering(200))
	target.Optional = true
	results, err := newDispatcher(t, target).Dispatch(t.Context(), make(chan int), fanout.To("crm"))
	require.Error(t, err)
	assert.NoError(t, results.Err())
}

func TestKeysOfDifferentTargetsNeverMeet(t *testing.T) {
	one, _ := keyOf(t, fanout.Target{Name: "a:b", URL: "https://ab.example"}, "Idempotency-Key", fanout.Payload{Key: "o"})
	other, _ := keyOf(t, via("b", nil), "Idempotency-Key", fanout.Payload{Key: "o:a"})
	assert.NotEqual(t, one, other)
}

func TestDecodeShowsNothingOfTheBody(t *testing.T) {
	d := newDispatcher(t, via("crm", func(*http.Request) (*http.Response, error) { return answer(200, `{"id": 5500000012345678}`), nil }))
	_, err := fanout.Decode[struct{ ID int8 }](dispatch(t.Context(), d)["crm"])
	require.EqualError(t, err, `fanout: crm: answer is not the JSON expected: field "ID" cannot be a int8`)
}

// quoting is a type that says in its error what it could not read.
type quoting struct{}

func (*quoting) UnmarshalJSON(b []byte) error { return fmt.Errorf("cannot read %s", b) }

func TestDecodeShowsNothingOfWhatATypeQuotes(t *testing.T) {
	d := newDispatcher(t, via("crm", func(*http.Request) (*http.Response, error) { return answer(200, `{"Card": "5500000012345678"}`), nil }))
	_, err := fanout.Decode[struct{ Card quoting }](dispatch(t.Context(), d)["crm"])
	require.ErrorContains(t, err, "fanout: crm: answer is not the JSON expected")
	assert.NotContains(t, err.Error(), "5500000012345678")
}

func TestAfterACloseThatTimedOutTheLastDispatchHangsUp(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	target, _ := listening(t, func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-release
	})
	d, err := fanout.New(fanout.Config{Targets: []fanout.Target{target}})
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		dispatch(context.Background(), d)
	}()
	<-arrived
	over, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorContains(t, d.Close(over), "1 dispatches under way")
	close(release)
	<-ended // goleak looks for connections left open
}

var errBroken = errors.New("broken")

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }
