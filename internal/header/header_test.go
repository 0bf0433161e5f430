package header_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/internal/header"
)

func TestReserved_KnowsTheHeadersOfTheLibraryInAnyCase(t *testing.T) {
	for _, name := range []string{fanout.CorrelationHeader, fanout.RequestIDHeader, "idempotency-key", "HOST", "te"} {
		assert.True(t, header.Reserved(name), name)
	}
	for _, name := range []string{"", "X-Tenant", "Authorization", "Content-Type"} {
		assert.False(t, header.Reserved(name), name)
	}
}

func TestValidName_IsAToken(t *testing.T) {
	for name, want := range map[string]bool{"X-Tenant": true, "!#$%&'*+-.^_`|~": true, "azAZ09": true, "": false, "A B": false, "A:": false, "Ä": false, "A\n": false} {
		assert.Equal(t, want, header.ValidName(name), "%q", name)
	}
}

func TestValidValue_HasNoControlCharacters(t *testing.T) {
	for value, want := range map[string]bool{"": true, "a\tb": true, "ä": true, "a\r\nb": false, "a\x00": false, "a\x1f": false, "a\x7f": false, "~\x80": true} {
		assert.Equal(t, want, header.ValidValue(value), "%q", value)
	}
}

func TestCheck_NamesTheFieldAndNeverItsValue(t *testing.T) {
	for want, h := range map[string]http.Header{
		"": {"X-Tenant": {"acme", ""}, "x-region": {"eu"}},
		"Content-Type is the payload's: set Payload.ContentType, or Request.ContentType in a Prepare": {"content-type": {"s3cr3t"}},
		"host is set by the library or the connection":                                                {"host": {"s3cr3t"}},
		"X-Tenant is given twice, in different case":                                                  {"X-Tenant": {"s3cr3t"}, "x-tenant": {"s3cr3t"}},
		`"X Tenant" is not a header name`:                                                             {"X Tenant": {"s3cr3t"}},
		"X-Tenant: value has a control character":                                                     {"X-Tenant": {"acme", "s3cr3t\n"}},
	} {
		err := header.Check(h)
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.EqualError(t, err, want)
	}
}

func TestCheckFields_AllowsWhatTheLibrarySets(t *testing.T) {
	require.NoError(t, header.CheckFields(http.Header{"Host": {"crm.example"}, "Content-Type": {"text/plain"}}))
	require.EqualError(t, header.CheckFields(http.Header{"": {"x"}}), `"" is not a header name`)
}
