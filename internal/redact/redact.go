// Package redact removes from the text of errors what must not be shown: URLs, which may
// contain a secret, and what a peer sent. [errors.Is] and [errors.As] still find the same
// errors.
package redact

import (
	"crypto/x509"
	"errors"
	"net/url"
	"strings"
)

// URL removes the URL of a request that user code made, for example to get a token or in
// a Sender. For example, `Post "https://id.example/?key=x": EOF` becomes `Post: EOF`.
func URL(err error) error {
	var u *url.Error
	var done *shownAs
	if !errors.As(err, &u) || errors.As(err, &done) {
		return err
	}
	short := u.Op + ": " + Quotes(u.Err).Error()
	text := strings.ReplaceAll(err.Error(), u.Error(), short)
	if u.URL != "" && strings.Contains(text, u.URL) {
		text = short
	}
	return As(text, err)
}

// Quotes cuts an error's text at the first quote. net/http quotes what it cannot read,
// and a hostile peer may have sent our own request back. An error about a certificate
// shows the names in it without quotes, so its text is replaced.
func Quotes(err error) error {
	if named := (x509.HostnameError{}); errors.As(err, &named) {
		return As("x509: certificate is not valid for "+named.Host, err)
	}
	text, _, quoted := strings.Cut(err.Error(), `"`)
	if !quoted {
		return err
	}
	return As(strings.TrimRight(text, " :="), err)
}

// As returns an error with another text that wraps err.
func As(text string, err error) error { return &shownAs{text, err} }

type shownAs struct {
	text string
	err  error
}

func (e *shownAs) Error() string { return e.text }
func (e *shownAs) Unwrap() error { return e.err }
