package fanout_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

// keyOf dispatches and returns the header named as the target received it.
func keyOf(t *testing.T, target fanout.Target, header string, payload fanout.Payload) (sent []string, r fanout.Result) {
	t.Helper()
	target.Transport = wire(func(r *http.Request) (*http.Response, error) {
		sent = r.Header[http.CanonicalHeaderKey(header)]
		return answer(200, ""), nil
	})
	results, err := newDispatcher(t, target).Dispatch(t.Context(), payload)
	require.NoError(t, err)
	return sent, results[target.Name]
}

func TestIdempotency_KeyIsSentAsTheTargetWantsIt(t *testing.T) {
	for _, test := range []struct {
		name   string
		policy fanout.Idempotency
		header string
		want   []string
	}{
		{"default", fanout.Idempotency{}, "Idempotency-Key", []string{"order-7:crm"}},
		{"structured", fanout.Idempotency{Format: fanout.KeyStructured}, "Idempotency-Key", []string{`"order-7:crm"`}},
		{"another header", fanout.Idempotency{Header: "x-request-key"}, "X-Request-Key", []string{"order-7:crm"}},
		{"another header, and not the usual one", fanout.Idempotency{Header: "x-request-key"}, "Idempotency-Key", nil},
		{"off", fanout.Idempotency{Header: "-"}, "Idempotency-Key", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			target := with(via("crm", nil), fanout.Policy{Idempotency: test.policy})
			sent, r := keyOf(t, target, test.header, fanout.Payload{Key: "order-7"})
			assert.Equal(t, test.want, sent)
			assert.Equal(t, test.policy.Header == "-", r.Key == "")
		})
	}
}

func TestIdempotency_PayloadsKeyGivesTheSameKeysAgain(t *testing.T) {
	payload := fanout.Payload{Key: `7"\`}
	first, _ := keyOf(t, via("crm", nil), "Idempotency-Key", payload)
	again, _ := keyOf(t, via("crm", nil), "Idempotency-Key", payload)
	other, _ := keyOf(t, via("email", nil), "Idempotency-Key", payload)
	assert.Equal(t, first, again)
	minted, r := keyOf(t, via("crm", nil), "Idempotency-Key", fanout.Payload{})
	repeated, _ := keyOf(t, via("crm", nil), "Idempotency-Key", fanout.Payload{Key: r.Payload.Key})
	assert.Equal(t, minted, repeated)
	assert.NotEqual(t, first, other)
}

func TestIdempotency_NameThatCannotStandInAHeaderIsHashedInItsKey(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range []string{"café", "two words", strings.Repeat("x", 65), strings.Repeat("x", 66), "plain"} {
		sent, r := keyOf(t, fanout.Target{Name: name, URL: "https://crm.example"}, "Idempotency-Key", fanout.Payload{})
		require.Len(t, sent, 1)
		assert.Equal(t, r.Key, sent[0])
		assert.Equal(t, sent[0], strings.Map(visibleASCII, sent[0]))
		assert.Equal(t, name == "plain", strings.HasSuffix(sent[0], ":"+name))
		_, suffix, _ := strings.Cut(sent[0], ":")
		seen[suffix] = true
	}
	assert.Len(t, seen, 5)
}

func TestIdempotency_HeaderWithAnotherMeaningCannotCarryAKey(t *testing.T) {
	for _, header := range []string{"Content-Length", "host", "Transfer-Encoding", "Authorization", "x-request-id", "Content-Type"} {
		_, err := fanout.New(fanout.Config{Defaults: fanout.Policy{Idempotency: fanout.Idempotency{Header: header}}})
		require.EqualError(t, err, "fanout: Defaults.Idempotency.Header: "+header+" has another meaning")
	}
}

func TestIdempotency_KeysOfDifferentTargetsAreNeverEqual(t *testing.T) {
	one, _ := keyOf(t, fanout.Target{Name: "a:b", URL: "https://ab.example"}, "Idempotency-Key", fanout.Payload{Key: "o"})
	other, _ := keyOf(t, via("b", nil), "Idempotency-Key", fanout.Payload{Key: "o:a"})
	assert.NotEqual(t, one, other)
}
