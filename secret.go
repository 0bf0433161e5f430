package fanout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
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
	return &fileSecret{file: watchedFile[Secret]{path: path, parse: func(content []byte) (Secret, error) {
		content = bytes.TrimRight(content, "\r\n")
		if len(content) == 0 {
			return Secret{}, errors.New("empty")
		}
		return NewSecret(string(content)), nil
	}}}
}

type fileSecret struct{ file watchedFile[Secret] }

func (f *fileSecret) Secret(context.Context) (Secret, error) { return f.file.get() }

// watchedFile is what was made of a file, made again when it changes.
type watchedFile[T any] struct {
	path  string
	parse func([]byte) (T, error)

	mu     sync.Mutex
	looked time.Time
	info   os.FileInfo // as it was when read
	value  T
	known  bool
}

const lookEvery = time.Second

func (f *watchedFile[T]) get() (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known && time.Since(f.looked) < lookEvery {
		return f.value, nil
	}
	if err := f.look(); err != nil && !f.known {
		return f.value, fmt.Errorf("%s: %w", f.path, err)
	}
	return f.value, nil
}

func (f *watchedFile[T]) look() error {
	f.looked = time.Now()
	info, err := os.Stat(f.path)
	if err != nil {
		return errors.Unwrap(err)
	}
	if f.known && os.SameFile(info, f.info) && info.ModTime().Equal(f.info.ModTime()) && info.Size() == f.info.Size() {
		return nil
	}
	content, err := readSmallFile(f.path)
	if err != nil {
		return err
	}
	value, err := f.parse(content)
	if err != nil {
		return err
	}
	f.value, f.known, f.info = value, true, info
	return nil
}

const maxSecret = 64 << 10

func readSmallFile(path string) ([]byte, error) {
	// Opening something else, such as a pipe, could wait for ever.
	info, err := os.Stat(path)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	file, err := os.Open(path) //nolint:gosec // whoever wrote the configuration names it
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxSecret+1))
	switch {
	case err != nil:
		return nil, err
	case len(content) > maxSecret:
		return nil, fmt.Errorf("longer than %d bytes", maxSecret)
	}
	return content, nil
}
