package fanout

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/fanout-go/fanout/internal/header"
)

// HeaderAuth sends a secret in a header, as APIs with a key want it:
//
//	Auth: fanout.HeaderAuth("X-Api-Key", fanout.EnvSecret("CRM_KEY"))
func HeaderAuth(header string, from SecretSource) Authenticator {
	return secretAuth{header: header, from: from, write: func(s Secret) string { return s.Reveal() }}
}

// BearerAuth sends a secret as a bearer token (RFC 6750). For tokens that expire,
// see [TokenAuth].
func BearerAuth(from SecretSource) Authenticator {
	return secretAuth{header: "Authorization", from: from, write: func(s Secret) string { return "Bearer " + s.Reveal() }}
}

// BasicAuth sends a user name, which has no colon, and a password (RFC 7617).
func BasicAuth(user string, password SecretSource) Authenticator {
	return secretAuth{header: "Authorization", from: password, user: user, write: func(s Secret) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+s.Reveal()))
	}}
}

// secretAuth writes a secret into a header.
type secretAuth struct {
	header string
	from   SecretSource
	write  func(Secret) string
	user   string
}

// checked is an [Authenticator] or [Signer] that can be found useless before it is
// used.
type checked interface{ check() error }

func (a secretAuth) check() error {
	name := http.CanonicalHeaderKey(a.header)
	switch {
	case a.from == nil:
		return errors.New("its secret is nil")
	case strings.Contains(a.user, ":"):
		return errors.New("the user name has a colon, which ends it (RFC 7617)")
	case !header.ValidName(a.header):
		return fmt.Errorf("%.100q is not a header name", a.header)
	case header.Reserved(name) || name == "Content-Type":
		return fmt.Errorf("%s is set by the library or the connection", name)
	}
	return nil
}

func (a secretAuth) Authenticate(ctx context.Context, r *http.Request) error {
	secret, err := a.from.Secret(ctx)
	switch {
	case err != nil:
		return err
	case secret.IsZero():
		return errors.New("the secret is empty")
	}
	r.Header.Set(a.header, a.write(secret))
	return nil
}
