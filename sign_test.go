package fanout_test

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func signed(t fanout.Target, s fanout.Signer) fanout.Target {
	t.Sign = s
	return t
}

// whsec and whsk are a symmetric and an asymmetric key.
var (
	rawKey  = []byte("a key of twenty-four byte")[:24]
	seed    = []byte("thirty-two bytes make a key seed")
	whsec   = fanout.NewSecret("whsec_" + base64.StdEncoding.EncodeToString(rawKey))
	whsk    = fanout.NewSecret("whsk_" + base64.StdEncoding.EncodeToString(seed))
	hmacked = func(content string) string {
		mac := hmac.New(sha256.New, rawKey)
		mac.Write([]byte(content))
		return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
)

func TestWebhooksAreSignedAfreshOnEachAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []http.Header
		var contents []string
		statuses := inTurn(503, 200)
		hook := via("hook", nil)
		hook.Transport = readingWire(func(r *http.Request, body []byte) *http.Response {
			got = append(got, r.Header.Clone())
			contents = append(contents, r.Header.Get("Webhook-Id")+"."+r.Header.Get("Webhook-Timestamp")+"."+string(body))
			return answer(statuses(), "")
		})
		r := dispatch(t.Context(), newDispatcher(t, signed(with(hook, fanout.Policy{Retry: fanout.Retry{ThrottledBackoff: 3 * time.Second}}), fanout.WebhookSigner(whsec, whsk))))["hook"]
		require.Equal(t, fanout.Delivered, r.Outcome)
		require.Len(t, got, 2)
		for i, h := range got {
			assert.Equal(t, r.IdempotencyKey, h.Get("Webhook-Id"), "the same on all attempts")
			symmetric, asymmetric, _ := strings.Cut(h.Get("Webhook-Signature"), " ")
			assert.Equal(t, hmacked(contents[i]), symmetric)
			signature, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(asymmetric, "v1a,"))
			require.NoError(t, err)
			assert.True(t, ed25519.Verify(ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey), []byte(contents[i]), signature))
			assert.Equal(t, strconv.FormatInt(r.Attempts[i].Start.Unix(), 10), h.Get("Webhook-Timestamp"))
		}
		assert.NotEqual(t, got[0].Get("Webhook-Timestamp"), got[1].Get("Webhook-Timestamp"), "fresh on each")
		assert.Contains(t, contents[0], `.{"order":"7"}`)
	})
}

// readingWire is a target that reads the body.
type readingWire func(r *http.Request, body []byte) *http.Response

func (w readingWire) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	_ = r.Body.Close()
	return w(r, body), err
}

func TestASignatureThatCannotBeMadeEndsTheDeliveryUnsent(t *testing.T) {
	t.Setenv("FANOUT_TEST_BROKEN_KEY", "whsec_s3cr3t!")
	for want, signer := range map[string]fanout.Signer{
		"hook: authentication failed: signature: webhook key 1: is not base64 after its prefix": fanout.WebhookSigner(fanout.EnvSecret("FANOUT_TEST_BROKEN_KEY")),
		"hook: authentication failed: signature: HSM is away": fanout.SignerFunc(func(context.Context, *fanout.Request, http.Header) error {
			return errors.New("HSM is away")
		}),
		"hook: authentication failed: signature: X-Bad: value has a control character": fanout.SignerFunc(func(_ context.Context, _ *fanout.Request, h http.Header) error {
			h.Set("X-Bad", "a\nb")
			return nil
		}),
	} {
		r := dispatch(t.Context(), newDispatcher(t, signed(via("hook", answering(200)), signer)))["hook"]
		assert.Equal(t, fanout.Rejected, r.Outcome)
		require.EqualError(t, r.Err, want)
	}
}

func TestASignerThatCannotWorkIsRefused(t *testing.T) {
	short := fanout.NewSecret("whsec_" + base64.StdEncoding.EncodeToString([]byte("short")))
	for want, signer := range map[string]fanout.Signer{
		"webhook signer without a key":                  fanout.WebhookSigner(),
		"webhook key 2 is nil":                          fanout.WebhookSigner(whsec, nil),
		"webhook key 1: is not base64 after its prefix": fanout.WebhookSigner(fanout.NewSecret("whsec_s3cr3t!")),
		"webhook key 2: is neither whsec_ and 24 to 64 bytes, nor whsk_ and an ed25519 key, in base64": fanout.WebhookSigner(whsec, short),
	} {
		_, err := fanout.New(fanout.Config{Targets: []fanout.Target{signed(via("hook", nil), signer)}})
		require.EqualError(t, err, `fanout: target "hook": Sign: `+want)
	}
}

func TestASignerSeesTheRequestAsItIsSent(t *testing.T) {
	var seen fanout.Request
	get := via("hook", answering(200))
	get.Method, get.URL = http.MethodGet, "https://hook.example/a?b=c"
	get.Prepare = func(_ context.Context, r *fanout.Request) error {
		r.Header.Set("X-Prepared", "yes")
		return nil
	}
	dispatch(t.Context(), newDispatcher(t, signed(get, fanout.SignerFunc(func(_ context.Context, r *fanout.Request, h http.Header) error {
		seen = *r
		assert.Equal(t, "yes", h.Get("X-Prepared"))
		r.URL.Path = "/elsewhere"
		return nil
	}))))
	assert.Empty(t, seen.Body, "a GET sends none")
	assert.Equal(t, "GET", seen.Method)
	assert.Equal(t, 1, seen.Attempt)
}

func TestAWebhookIDHasNoDotAndIsADeliverysOwn(t *testing.T) {
	var ids sync.Map
	record := func(r *http.Request) (*http.Response, error) {
		id := r.Header.Get("Webhook-Id")
		assert.NotContains(t, id, ".")
		_, seen := ids.LoadOrStore(id, true)
		assert.False(t, seen)
		return answer(200, ""), nil
	}
	d := newDispatcher(t, signed(via("hook.eu", record), fanout.WebhookSigner(whsec)), signed(via("hook.us", record), fanout.WebhookSigner(whsec)))
	require.NoError(t, dispatch(t.Context(), d).Err())
}
