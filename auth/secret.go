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

// Secret is a value that shows itself to nobody: it prints, formats, logs and
// encodes as "[redacted]". Only what reads memory past a value's methods, as debuggers
// and some test libraries do, still sees it. To send a secret in a payload, call
// [Secret.Reveal]. The zero value is an empty secret. A Secret is also a
// [SecretSource]: of itself.
type Secret struct {
	value *string // a pointer, because fmt cannot call methods of a field that is not exported: it then prints an address
}

const redactedText = "[redacted]"

// NewSecret hides a value.
func NewSecret(value string) Secret { return Secret{&value} }

// Reveal returns the value, for the one place that needs it.
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

// MarshalText implements [encoding.TextMarshaler], for JSON too.
func (Secret) MarshalText() ([]byte, error) { return []byte(redactedText), nil }

// UnmarshalText reads the value, for configuration files.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(string(text))
	return nil
}

// SecretSource gives a secret when it is needed, so that the secret can be rotated
// while the service runs. Secret is called for every attempt, concurrently, and must
// return when its context ends. An error of it ends the delivery, and is shown: it must
// hold nothing of the secret.
type SecretSource interface {
	Secret(context.Context) (Secret, error)
}

// Env is an environment variable, looked up each time. A variable that is not set, or
// is empty, is an error.
func Env(name string) SecretSource { return env(name) }

type env string

func (e env) Secret(context.Context) (Secret, error) {
	if value := os.Getenv(string(e)); value != "" {
		return NewSecret(value), nil
	}
	return Secret{}, fmt.Errorf("environment variable %.200q is not set, or empty", string(e))
}

// File is what a file holds, without line ends at its end. The file is regular, has at
// most 64 KiB and is not empty. It is looked at once a second at most, when the secret
// is needed, and read again if it has changed. While it cannot be read, the last good
// value is used; before there was one, that is an error.
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
