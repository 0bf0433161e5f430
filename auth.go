package fanout

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
)

// HeaderAuth sends a secret in a header, as APIs with a key want it:
//
//	Auth: fanout.HeaderAuth("X-Api-Key", fanout.EnvSecret("CRM_KEY"))
func HeaderAuth(header string, from SecretSource) Authenticator {
	return secretAuth{header, from, func(s Secret) string { return s.Reveal() }}
}

// BearerAuth sends a secret as a bearer token (RFC 6750). For tokens that expire,
// see [TokenAuth].
func BearerAuth(from SecretSource) Authenticator {
	return secretAuth{"Authorization", from, func(s Secret) string { return "Bearer " + s.Reveal() }}
}

// BasicAuth sends a user name and a password (RFC 7617).
func BasicAuth(user string, password SecretSource) Authenticator {
	return secretAuth{"Authorization", password, func(s Secret) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+s.Reveal()))
	}}
}

// secretAuth writes a secret into a header.
type secretAuth struct {
	header string
	from   SecretSource
	write  func(Secret) string
}

// checkAuth refuses a header in which nothing would be sent, or something else is.
func checkAuth(auth Authenticator) error {
	a, ok := auth.(secretAuth)
	name := http.CanonicalHeaderKey(a.header)
	switch {
	case !ok:
		return nil
	case !validFieldName(a.header):
		return fmt.Errorf("%.100q is not a header name", a.header)
	case refusedHeaders[name] || name == "Content-Type":
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
