package redact_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/internal/redact"
)

func TestURL_IsHiddenAndTheErrorStaysWhatItIs(t *testing.T) {
	leaking := &url.Error{Op: "Post", URL: "https://id.example/?secret=s3cr3t", Err: io.ErrUnexpectedEOF}
	for want, err := range map[string]error{
		"Post: unexpected EOF":        leaking,
		"token: Post: unexpected EOF": fmt.Errorf("token: %w", leaking),
	} {
		hidden := redact.URL(err)
		require.EqualError(t, hidden, want)
		require.ErrorIs(t, hidden, io.ErrUnexpectedEOF)
		assert.Same(t, hidden, redact.URL(hidden), "once is enough")
	}
	own := fmt.Errorf("asking %s: %w", leaking.URL, leaking)
	require.EqualError(t, redact.URL(own), "Post: unexpected EOF", "an address beside the error too")
	require.NoError(t, redact.URL(nil))
	assert.Same(t, io.EOF, redact.URL(io.EOF))
}

func TestQuotes_CutWhatAPeerSent(t *testing.T) {
	require.EqualError(t, redact.Quotes(errors.New(`malformed HTTP response "s3cr3t"`)), "malformed HTTP response")
	require.EqualError(t, redact.Quotes(x509.HostnameError{Host: "crm.example", Certificate: &x509.Certificate{DNSNames: []string{"s3cr3t"}}}),
		"x509: certificate is not valid for crm.example")
	assert.Same(t, io.EOF, redact.Quotes(io.EOF))
}
