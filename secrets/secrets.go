// Package secrets reads secrets from the managers that gocloud.dev supports: AWS Secrets
// Manager and Parameter Store, Google Secret Manager, etcd, HTTP, files and buckets. A
// file or bucket can be encrypted with a key in Vault, AWS, Azure or Google. Import the
// driver you need:
//
//	import _ "gocloud.dev/runtimevar/awssecretsmanager"
//
//	key, err := secrets.Open(ctx, "awssecretsmanager://crm-key?region=eu-central-1&decoder=string")
//	...
//	Auth: auth.Bearer(key),
//
// This package is a module of its own, so that only those who use it depend on
// gocloud.dev.
package secrets

import (
	"context"
	"errors"
	"regexp"

	"gocloud.dev/runtimevar"

	"github.com/fanout-go/fanout/auth"
)

// Source is a secret that is watched: when it is rotated, the new value is used without a
// restart. It is an [auth.SecretSource]. Whoever opened it must close it.
type Source struct{ variable *runtimevar.Variable }

var _ auth.SecretSource = (*Source)(nil)

// Open opens a secret by its URL, in the form that gocloud.dev describes. The decoder in
// the URL must be "string" or "bytes". For an encrypted secret it is "decrypt+string" or
// "decrypt+bytes", and the environment variable RUNTIMEVAR_KEEPER_URL must be set.
func Open(ctx context.Context, url string) (*Source, error) {
	variable, err := runtimevar.OpenVariable(ctx, url)
	if err != nil {
		return nil, &hidden{err}
	}
	return New(variable), nil
}

// New makes a Source of a variable of strings or bytes. Closing the Source closes the
// variable.
func New(variable *runtimevar.Variable) *Source { return &Source{variable} }

// Secret returns the latest good value. If there is none yet, it waits for the first one.
func (s *Source) Secret(ctx context.Context) (auth.Secret, error) {
	snapshot, err := s.variable.Latest(ctx)
	if err != nil {
		return auth.Secret{}, &hidden{err}
	}
	switch value := snapshot.Value.(type) {
	case string:
		return auth.NewSecret(value), nil
	case []byte:
		return auth.NewSecret(string(value)), nil
	}
	return auth.Secret{}, errors.New("secrets: the decoder must be string or bytes")
}

// hidden replaces the text of an error: quoted parts are removed, and so are the
// credentials and the query of a URL.
type hidden struct{ err error }

var credentials = regexp.MustCompile(`"(?:[^"\\]|\\.)*"?|\?\S*|//\S*@`)

func (h *hidden) Error() string {
	return "secrets: " + credentials.ReplaceAllString(h.err.Error(), "…")
}
func (h *hidden) Unwrap() error { return h.err }

// Close stops watching.
func (s *Source) Close() error { return s.variable.Close() }
