// Package secrets has secrets from the managers that gocloud.dev knows: AWS Secrets
// Manager and Parameter Store, Google Secret Manager, etcd, HTTP, and files and
// buckets, which a key in Vault, AWS, Azure or Google decrypts if the decoder says
// so. Import the driver you need beside it:
//
//	import _ "gocloud.dev/runtimevar/awssecretsmanager"
//
//	key, err := secrets.Open(ctx, "awssecretsmanager://crm-key?region=eu-central-1&decoder=string")
//	...
//	Auth: auth.Bearer(key),
//
// It is a module of its own, so that only those who use it depend on gocloud.dev.
package secrets

import (
	"context"
	"errors"
	"regexp"

	"gocloud.dev/runtimevar"

	"github.com/fanout-go/fanout/auth"
)

// Source is a secret that is watched, and rotated while the service runs. It is a
// [auth.SecretSource]. Whoever opened it closes it.
type Source struct{ variable *runtimevar.Variable }

var _ auth.SecretSource = (*Source)(nil)

// Open opens a secret by its URL, whose decoder must be string or bytes, or
// "decrypt+string" or "decrypt+bytes" with RUNTIMEVAR_KEEPER_URL set, as gocloud.dev
// describes.
func Open(ctx context.Context, url string) (*Source, error) {
	variable, err := runtimevar.OpenVariable(ctx, url)
	if err != nil {
		return nil, &hidden{err}
	}
	return New(variable), nil
}

// New takes a variable of strings or bytes, which the Source then owns.
func New(variable *runtimevar.Variable) *Source { return &Source{variable} }

// Secret returns the latest good value, and waits for the first one.
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

// hidden is an error whose text has nothing that it quotes, and of a URL neither
// credentials nor query.
type hidden struct{ err error }

var credentials = regexp.MustCompile(`"(?:[^"\\]|\\.)*"?|\?\S*|//\S*@`)

func (h *hidden) Error() string {
	return "secrets: " + credentials.ReplaceAllString(h.err.Error(), "…")
}
func (h *hidden) Unwrap() error { return h.err }

// Close stops watching.
func (s *Source) Close() error { return s.variable.Close() }
