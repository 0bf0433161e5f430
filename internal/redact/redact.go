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

// URL removes the URLs of requests that user code made, for example to get a token or in
// a Sender. For example, `Post "https://id.example/?key=x": EOF` becomes `Post: EOF`.
func URL(err error) error {
	requests := requestsIn(err, nil)
	if len(requests) == 0 {
		return err
	}
	text := err.Error()
	short := make([]string, len(requests))
	for i, u := range requests {
		short[i] = u.Op + ": " + Quotes(u.Err).Error()
		text = strings.ReplaceAll(text, u.Error(), short[i])
	}
	for _, u := range requests {
		if u.URL != "" && strings.Contains(text, u.URL) { // beside the error, too
			text = strings.Join(short, "; ")
		}
	}
	return As(text, err)
}

// requestsIn adds the errors of requests in a tree of errors, but for those that are hidden
// already.
func requestsIn(err error, found []*url.Error) []*url.Error {
	switch e := err.(type) { //nolint:errorlint // the whole tree is walked
	case *shownAs:
	case *url.Error:
		return requestsIn(e.Err, append(found, e))
	case interface{ Unwrap() error }:
		return requestsIn(e.Unwrap(), found)
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			found = requestsIn(inner, found)
		}
	}
	return found
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
