package fanout_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
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

func TestVerdict_TellsHowFarARequestCame(t *testing.T) {
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
		{"a CDN that got no sense of the origin", via("crm", answering(520)), fanout.Unknown},
		{"a CDN that waited", via("crm", answering(524)), fanout.Unknown},
		{"a CDN's end of the range", via("crm", answering(527)), fanout.Unknown},
		{"a CDN's own error page", via("crm", answering(530)), fanout.Unknown},
		{"a proxy that waited", via("crm", answering(598)), fanout.Unknown},
		{"a proxy that could not connect", via("crm", answering(599)), fanout.Unknown},
		{"before a CDN's range", via("crm", answering(519)), fanout.Failed},
		{"after a CDN's range", via("crm", answering(528)), fanout.Failed},
		{"what it does not do", via("crm", answering(501)), fanout.Failed},
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

func TestVerdict_OnAStatusThatIsNoneIsUnknown(t *testing.T) {
	target := peer(t, func(string) string { return "HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n" })
	assert.Equal(t, fanout.Unknown, deliverTo(t, target, keyed).Outcome)
}

func TestVerdict_OnAnAnswerThatIsCutOffIsUnknown(t *testing.T) {
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

func TestVerdict_OnAConflictOverAKeyIsUnknown(t *testing.T) {
	assert.Equal(t, fanout.Unknown, deliverTo(t, via("crm", answering(409)), keyed).Outcome)
}

func TestVerdict_OnlyTheSenderSaysThatNothingWasSent(t *testing.T) {
	for name, err := range map[string]error{
		"dial":        &net.OpError{Op: "dial", Err: errors.New("refused")},
		"DNS":         &net.DNSError{Err: "no such host"},
		"certificate": &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}},
	} {
		r := deliverTo(t, senderOf(nil, fmt.Errorf("second step: %w", err)), unkeyed)
		assert.Equal(t, fanout.Unknown, r.Outcome, name)
		assert.Len(t, r.Attempts, 1)
	}
}

func TestVerdict_OnADispatchWithinASenderIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newDispatcher(t, senderOf(nil, fanout.NotSent(errors.New("refused"))), sending("other", func(context.Context, *fanout.Request) (*fanout.Response, error) {
			return nil, errors.New("EOF")
		}))
		outer := sending("crm", func(ctx context.Context, _ *fanout.Request) (*fanout.Response, error) {
			_, err := inner.Dispatch(ctx, "hello")
			return nil, err
		})
		assert.Equal(t, fanout.Unknown, deliverTo(t, outer, unkeyed).Outcome)
	})
}

func TestVerdict_OnAProtocolOfTheUsersOwnIsUnknown(t *testing.T) {
	transport := &http.Transport{}
	transport.RegisterProtocol("http", roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("reset") }))
	r := deliverTo(t, fanout.Target{URL: "http://crm.example", Transport: transport}, unkeyed)
	assert.Equal(t, fanout.Unknown, r.Outcome)
}

// Over HTTP/2 the request may go out after RoundTrip has returned.
func TestVerdict_OnAnAttemptCutShortOverHTTP2IsUnknown(t *testing.T) {
	ctx, giveUp := context.WithCancel(t.Context())
	ca := newAuthority(t)
	server := ca.serveTLS(t, func(_ http.ResponseWriter, r *http.Request) {
		giveUp()
		<-r.Context().Done()
	}, func(*x509.Certificate) {})
	server.TLS.NextProtos = []string{"h2"}
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: ca.pool()}}
	target := fanout.Target{Name: "crm", URL: server.URL, Transport: transport, Policy: fanout.Policy{AttemptTimeout: -1}}
	r := dispatch(ctx, newDispatcher(t, target))["crm"]
	assert.Equal(t, fanout.Unknown, r.Outcome)
	assert.Len(t, r.Attempts, 1)
	transport.CloseIdleConnections()
}

func TestClassify_HasTheLastWordOnACompleteAnswer(t *testing.T) {
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

func TestClassify_IsNotAskedAboutAnIncompleteAnswer(t *testing.T) {
	target := via("crm", func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusConflict, Body: io.NopCloser(brokenReader{})}, nil
	})
	target.Classify = func(*fanout.Response) error { return nil }
	assert.Equal(t, fanout.Unknown, deliverTo(t, target, keyed).Outcome)
}

func TestAttemptTimeout_EndsAnAttemptToASlowTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := fanouttest.NewMemoryTarget(t, fanouttest.Hang()).Target("crm")
		r := dispatch(t.Context(), newDispatcher(t, with(target, fanout.Policy{
			AttemptTimeout: 20 * time.Millisecond, Retry: fanout.Retry{MaxAttempts: 2, InitialBackoff: 1},
		})))["crm"]
		assert.Equal(t, fanout.Unknown, r.Outcome)
		assert.Len(t, r.Attempts, 2)
		require.ErrorIs(t, r.Err(), fanout.ErrAttemptTimeout)
		require.ErrorIs(t, r.Err(), context.DeadlineExceeded)
	})
}
