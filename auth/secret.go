package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/fanout-go/fanout/internal/watchfile"
)

// Secret is a value that does not show itself: it prints, formats, logs and encodes as
// "[redacted]". Only programs that read memory directly still see it, such as debuggers
// and some test libraries. To send a secret in a payload, call [Secret.Reveal]. The zero
// value is an empty secret. A Secret is also a [SecretSource] that returns itself.
type Secret struct {
	value *string // a pointer, because fmt cannot call the methods of an unexported field: it then prints only an address
}

const redactedText = "[redacted]"

// NewSecret makes a Secret of a value.
func NewSecret(value string) Secret { return Secret{&value} }

// Reveal returns the value. Call it only where the value is needed.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.Reveal() == "" }

// Secret implements [SecretSource]. It never fails.
func (s Secret) Secret(context.Context) (Secret, error) { return s, nil }

// Format implements [fmt.Formatter], for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redactedText) }

// String implements [fmt.Stringer].
func (Secret) String() string { return redactedText }

// GoString implements [fmt.GoStringer].
func (Secret) GoString() string { return redactedText }

// LogValue implements [slog.LogValuer].
func (Secret) LogValue() slog.Value { return slog.StringValue(redactedText) }

// MarshalText implements [encoding.TextMarshaler]. It is also used for JSON.
func (Secret) MarshalText() ([]byte, error) { return []byte(redactedText), nil }

// UnmarshalText reads the value. It is for configuration files.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(string(text))
	return nil
}

// SecretSource returns a secret when it is needed, so that the secret can be rotated
// while the service runs. Secret is called for every attempt, also concurrently, and must
// return when its context ends. An error of it ends the delivery. The error is shown, so
// it must not contain any part of the secret.
type SecretSource interface {
	Secret(context.Context) (Secret, error)
}

// Env returns the value of an environment variable. It is looked up for each attempt. It
// is an error if the variable is not set, or is empty.
func Env(name string) SecretSource { return env(name) }

type env string

func (e env) Secret(context.Context) (Secret, error) {
	if value := os.Getenv(string(e)); value != "" {
		return NewSecret(value), nil
	}
	return Secret{}, fmt.Errorf("environment variable %.200q is not set, or empty", string(e))
}

// File returns the content of a file, without line ends at its end. The file must be
// regular, not empty, and not longer than 64 KiB.
//
// When the secret is needed, the file is looked at, but at most once a second. It is read
// again if it has changed. If the file can no longer be read, the last good value is
// used. It is an error if there was none.
func File(path string) SecretSource {
	return file{watchfile.New(path, func(content []byte) (Secret, error) {
		content = bytes.TrimRight(content, "\r\n")
		if len(content) == 0 {
			return Secret{}, errors.New("empty")
		}
		return NewSecret(string(content)), nil
	})}
}

type file struct{ *watchfile.File[Secret] }

func (f file) Secret(context.Context) (Secret, error) { return f.Get() }
