package header_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

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
	for name, want := range map[string]bool{"X-Tenant": true, "!#$%&'*+-.^_`|~09": true, "": false, "A B": false, "A:": false, "Ä": false, "A\n": false} {
		assert.Equal(t, want, header.ValidName(name), "%q", name)
	}
}

func TestValidValue_HasNoControlCharacters(t *testing.T) {
	for value, want := range map[string]bool{"": true, "a\tb": true, "ä": true, "a\r\nb": false, "a\x00": false, "a\x7f": false} {
		assert.Equal(t, want, header.ValidValue(value), "%q", value)
	}
}
