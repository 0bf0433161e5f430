package auth_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/auth"
)

func TestHeader_BearerAndBasicAreAddedToEachAttempt(t *testing.T) {
	key := auth.NewSecret("k-1")
	for name, test := range map[string]struct {
		auth         fanout.Authenticator
		header, want string
	}{
		"header": {auth.Header("X-Api-Key", key), "X-Api-Key", "k-1"},
		"bearer": {auth.Bearer(key), "Authorization", "Bearer k-1"},
		"basic":  {auth.Basic("ada", key), "Authorization", "Basic YWRhOmstMQ=="},
	} {
		var got string
		dispatch(t.Context(), newDispatcher(t, crm(func(r *http.Request) (*http.Response, error) {
			got = r.Header.Get(test.header)
			return answer(200), nil
		}, test.auth)))
		assert.Equal(t, test.want, got, name)
	}
}

func TestBearer_ThatCannotBeHadEndsTheDeliveryUnsent(t *testing.T) {
	for want, source := range map[string]auth.SecretSource{
		"crm: authentication failed: the secret is empty":                                        auth.NewSecret(""),
		`crm: authentication failed: environment variable "FANOUT_NOT_SET" is not set, or empty`: auth.Env("FANOUT_NOT_SET"),
	} {
		r := dispatch(t.Context(), newDispatcher(t, crm(answering(200), auth.Bearer(source))))
		assert.Equal(t, fanout.Rejected, r.Outcome)
		require.EqualError(t, r.Err(), want)
	}
}

func TestHeader_ThatCannotCarryACredentialIsRefused(t *testing.T) {
	for header, want := range map[string]string{
		"X Api Key":    `fanout: target "crm": Auth: "X Api Key" is not a header name`,
		"host":         `fanout: target "crm": Auth: Host is set by the library or the connection`,
		"Content-Type": `fanout: target "crm": Auth: Content-Type is set by the library or the connection`,
	} {
		_, err := fanout.New(fanout.Config{Targets: []fanout.Target{crm(nil, auth.Header(header, auth.NewSecret("k-1")))}})
		require.EqualError(t, err, want)
	}
}

func TestCheck_RefusesWhatCannotWork(t *testing.T) {
	for want, useless := range map[string]fanout.Authenticator{
		"its secret is nil":                                   auth.Bearer(nil),
		"its source of tokens is nil":                         auth.Tokens(nil),
		"the user name has a colon, which ends it (RFC 7617)": auth.Basic("a:b", auth.NewSecret("x")),
	} {
		_, err := fanout.New(fanout.Config{Targets: []fanout.Target{crm(nil, useless)}})
		require.EqualError(t, err, `fanout: target "crm": Auth: `+want)
	}
}
