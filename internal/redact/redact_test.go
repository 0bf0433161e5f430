package redact_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
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

func TestShown_IsOneShortLine(t *testing.T) {
	full := strings.Repeat("x", 1024)
	for text, want := range map[string]string{
		"no such account":                 "no such account",
		"a\nb\tc\x1b[31m\x7f\u0085":       "a b c [31m  ",
		"line\u2028para\u2029":            "line para ",
		"\u202ereversed\u2066":            " reversed ",
		"Zürich \U0001f600":               "Zürich \U0001f600",
		"half \xff":                       "half \uFFFD",
		full:                              full,
		full + "x":                        full + "\u2026",
		full[1:] + "ü, cut in its middle": full[1:] + "\u2026",
	} {
		assert.Equal(t, want, redact.Shown(errors.New(text)), "%q", text)
	}
}

func TestURL_EachOfJoinedErrorsIsHidden(t *testing.T) {
	one := &url.Error{Op: "Get", URL: "https://a.example/?token=s3cr3t", Err: io.EOF}
	two := &url.Error{Op: "Post", URL: "https://b.example/?token=s3cr3t", Err: io.ErrUnexpectedEOF}
	require.EqualError(t, redact.URL(errors.Join(one, two)), "Get: EOF\nPost: unexpected EOF")
	require.EqualError(t, redact.URL(errors.Join(redact.URL(one), two)), "Get: EOF\nPost: unexpected EOF", "after one that is hidden already")
	require.EqualError(t, redact.URL(&url.Error{Op: "Get", URL: "https://c.example", Err: two}), "Get: Post", "within another")
	beside := fmt.Errorf("asking %s: %w", two.URL, errors.Join(one, two))
	require.EqualError(t, redact.URL(beside), "Get: EOF; Post: unexpected EOF")
}
