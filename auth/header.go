package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/internal/header"
)

// Header sends a secret unchanged in the header with this name. Many APIs take their keys
// this way. [fanout.New] refuses Content-Type, and headers that the connection or the
// library sets.
func Header(name string, from SecretSource) fanout.Authenticator {
	return credential{header: name, from: from, write: Secret.Reveal}
}

// Bearer sends a secret as a bearer token (RFC 6750, section 2.1). For tokens that
// expire, use [Tokens].
func Bearer(from SecretSource) fanout.Authenticator {
	return credential{header: "Authorization", from: from, write: bearer}
}

func bearer(token Secret) string { return "Bearer " + token.Reveal() }

// Basic sends a user name and a password (RFC 7617). [fanout.New] refuses a user name
// with a colon, because the colon ends it.
func Basic(user string, password SecretSource) fanout.Authenticator {
	return credential{header: "Authorization", from: password, user: user, write: func(s Secret) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+s.Reveal()))
	}}
}

// credential writes a secret into a header.
type credential struct {
	header string
	from   SecretSource
	write  func(Secret) string
	user   string
}

// Check returns an error for what can never work. [fanout.New] calls it.
func (c credential) Check() error {
	name := http.CanonicalHeaderKey(c.header)
	switch {
	case c.from == nil:
		return errors.New("its secret is nil")
	case strings.Contains(c.user, ":"):
		return errors.New("the user name has a colon, which ends it (RFC 7617)")
	case !header.ValidName(c.header):
		return fmt.Errorf("%.100q is not a header name", c.header)
	case header.Reserved(name) || name == "Content-Type":
		return fmt.Errorf("%s is set by the library or the connection", name)
	}
	return nil
}

// Authenticate implements [fanout.Authenticator].
func (c credential) Authenticate(ctx context.Context, r *http.Request) error {
	secret, err := c.from.Secret(ctx)
	switch {
	case err != nil:
		return err
	case secret.IsZero():
		return errors.New("the secret is empty")
	}
	r.Header.Set(c.header, c.write(secret))
	return nil
}
