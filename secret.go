package fanout

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
// and some test libraries do, still sees it. In a payload, too, it has to be
// revealed. It is a [SecretSource] of itself.
type Secret struct {
	value *string // so that fmt, which cannot call methods of a field that is not exported, sees an address
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

// Secret implements [SecretSource].
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

// SecretSource gives a secret when it is needed, so that it can be rotated while the
// service runs. It is safe for concurrent use, and honours its context.
type SecretSource interface {
	Secret(context.Context) (Secret, error)
}

// EnvSecret is an environment variable, looked up when needed. It must not be empty.
func EnvSecret(name string) SecretSource { return envSecret(name) }

type envSecret string

func (e envSecret) Secret(context.Context) (Secret, error) {
	if value := os.Getenv(string(e)); value != "" {
		return NewSecret(value), nil
	}
	return Secret{}, fmt.Errorf("environment variable %.200q is not set, or empty", string(e))
}

// FileSecret is what a regular file of at most 64 KiB holds, less line ends at its
// end. It is looked at once a second at most, and read again if it has changed. While
// it cannot be read, what it held last is used.
func FileSecret(path string) SecretSource {
	return &fileSecret{watchfile.New(path, func(content []byte) (Secret, error) {
		content = bytes.TrimRight(content, "\r\n")
		if len(content) == 0 {
			return Secret{}, errors.New("empty")
		}
		return NewSecret(string(content)), nil
	})}
}

type fileSecret struct{ file *watchfile.File[Secret] }

func (f *fileSecret) Secret(context.Context) (Secret, error) { return f.file.Get() }
