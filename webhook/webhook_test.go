package webhook_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"log/slog"
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
	"github.com/fanout-go/fanout/auth"
	"github.com/fanout-go/fanout/webhook"
)

// wire is a target: a function that gets the request and returns the status.
type wire func(r *http.Request, body []byte) int

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	return &http.Response{StatusCode: w(r, body), Header: http.Header{}, Body: http.NoBody}, err
}

// signed is a target with this transport and signer.
func signed(name string, w wire, s fanout.Signer) fanout.Target {
	return fanout.Target{Name: name, URL: "https://" + name + ".example/v1", Transport: w, Sign: s}
}

// dispatch sends a small payload to the targets, through a dispatcher of its own.
func dispatch(t *testing.T, targets ...fanout.Target) fanout.Results {
	t.Helper()
	d, err := fanout.New(fanout.Config{Targets: targets, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Close(t.Context())) }()
	results, _ := d.Dispatch(t.Context(), map[string]string{"order": "7"})
	return results
}

// whsec and whsk are a symmetric and an asymmetric key.
var (
	rawKey  = []byte("a key of twenty-four byte")[:24]
	seed    = []byte("thirty-two bytes make a key seed")
	whsec   = auth.NewSecret("whsec_" + base64.StdEncoding.EncodeToString(rawKey))
	whsk    = auth.NewSecret("whsk_" + base64.StdEncoding.EncodeToString(seed))
	hmacked = func(content string) string {
		mac := hmac.New(sha256.New, rawKey)
		mac.Write([]byte(content))
		return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
)

func TestSigner_SignsAfreshOnEachAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []http.Header
		var contents []string
		hook := signed("hook", func(r *http.Request, body []byte) int {
			got = append(got, r.Header.Clone())
			contents = append(contents, r.Header.Get("Webhook-Id")+"."+r.Header.Get("Webhook-Timestamp")+"."+string(body))
			if len(got) == 1 {
				return http.StatusServiceUnavailable
			}
			return http.StatusOK
		}, webhook.Signer(whsec, whsk))
		hook.Retry.ThrottledBackoff = 3 * time.Second
		r := dispatch(t, hook)["hook"]
		require.Equal(t, fanout.Delivered, r.Outcome)
		require.Len(t, got, 2)
		for i, h := range got {
			assert.Equal(t, r.Key, h.Get("Webhook-Id"), "the same on all attempts")
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

func TestSigner_IDHasNoDotAndIsADeliverysOwn(t *testing.T) {
	var ids sync.Map
	record := func(r *http.Request, _ []byte) int {
		id := r.Header.Get("Webhook-Id")
		assert.NotContains(t, id, ".")
		_, seen := ids.LoadOrStore(id, true)
		assert.False(t, seen)
		return http.StatusOK
	}
	require.NoError(t, dispatch(t, signed("hook.eu", record, webhook.Signer(whsec)), signed("hook.us", record, webhook.Signer(whsec))).Err())
}

func TestSigner_KeyThatCannotBeReadEndsTheDeliveryUnsent(t *testing.T) {
	t.Setenv("FANOUT_TEST_BROKEN_KEY", "whsec_s3cr3t!")
	for want, source := range map[string]auth.SecretSource{
		"hook: authentication failed: signature: webhook key 1: is not base64 after its prefix":                  auth.Env("FANOUT_TEST_BROKEN_KEY"),
		`hook: authentication failed: signature: environment variable "FANOUT_TEST_NO_KEY" is not set, or empty`: auth.Env("FANOUT_TEST_NO_KEY"),
	} {
		r := dispatch(t, signed("hook", nil, webhook.Signer(source)))["hook"]
		assert.Equal(t, fanout.Rejected, r.Outcome)
		require.EqualError(t, r.Err(), want)
	}
}

func TestSigner_ThatCannotWorkIsRefused(t *testing.T) {
	short := auth.NewSecret("whsec_" + base64.StdEncoding.EncodeToString([]byte("short")))
	for want, signer := range map[string]fanout.Signer{
		"webhook signer without a key":                  webhook.Signer(),
		"webhook key 2 is nil":                          webhook.Signer(whsec, nil),
		"webhook key 1: is not base64 after its prefix": webhook.Signer(auth.NewSecret("whsec_s3cr3t!")),
		"webhook key 2: is neither whsec_ and 24 to 64 bytes, nor whsk_ and an ed25519 key, in base64": webhook.Signer(whsec, short),
	} {
		_, err := fanout.New(fanout.Config{Targets: []fanout.Target{signed("hook", nil, signer)}})
		require.EqualError(t, err, `fanout: target "hook": Sign: `+want)
	}
}

func TestSigner_TakesKeysOfEveryAllowedForm(t *testing.T) {
	key := func(kind string, raw []byte) auth.Secret {
		return auth.NewSecret(kind + "_" + base64.StdEncoding.EncodeToString(raw))
	}
	signatures := func(keys ...auth.SecretSource) (string, error) {
		r := &fanout.Request{Key: "order-7", Header: http.Header{}, Body: make([]byte, 1000)}
		err := webhook.Signer(keys...).Sign(t.Context(), r)
		return r.Header.Get("Webhook-Signature"), err
	}
	synctest.Test(t, func(t *testing.T) { // so that all sign at the same time
		for _, length := range []int{24, 64} {
			signature, err := signatures(key("whsec", make([]byte, length)))
			require.NoError(t, err)
			assert.Regexp(t, `^v1,\S{44}$`, signature)
		}
		for _, length := range []int{0, 23, 65} {
			_, err := signatures(key("whsec", make([]byte, length)))
			require.ErrorContains(t, err, "webhook key 1: is neither", length)
		}
		both, err := signatures(whsk, key("whsk", ed25519.NewKeyFromSeed(seed)))
		require.NoError(t, err)
		bySeed, byKey, _ := strings.Cut(both, " ")
		assert.Equal(t, bySeed, byKey, "a private key and its seed are the same key")
		for _, useless := range []auth.Secret{key("whsk", make([]byte, 24)), key("whpk", seed), key("", seed)} {
			_, err := signatures(whsec, useless)
			require.ErrorContains(t, err, "webhook key 2: is neither")
		}
	})
}

func TestSigner_IDIsThatOfTheDispatchIfTheTargetTakesNoKey(t *testing.T) {
	r := &fanout.Request{Header: http.Header{}, Payload: &fanout.Payload{ID: "dispatch-7"}}
	require.NoError(t, webhook.Signer(whsec).Sign(t.Context(), r))
	assert.Equal(t, "dispatch-7", r.Header.Get("Webhook-Id"))
}
