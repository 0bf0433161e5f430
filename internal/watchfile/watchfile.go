// Package watchfile reads small files, such as secrets and certificates, and reads them
// again when they change.
package watchfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// File holds a value that was parsed from a file. When the file changes, it is parsed
// again. It is safe for concurrent use.
type File[T any] struct {
	path  string
	parse func([]byte) (T, error)

	mu     sync.Mutex
	looked time.Time
	info   os.FileInfo // of the file when it was read
	value  T
	known  bool
}

const lookEvery = time.Second // the longest time for which a change is not seen

// New does not read the file yet. parse is called with the content of the file, and never
// more than once at a time.
func New[T any](path string, parse func([]byte) (T, error)) *File[T] {
	return &File[T]{path: path, parse: parse}
}

// Get looks at the file at most once a second, and returns its value. If the file can no
// longer be read or parsed, Get returns the last good value. It returns an error only if
// there never was a good value.
func (f *File[T]) Get() (T, error) {
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

func (f *File[T]) look() error {
	f.looked = time.Now()
	info, err := os.Stat(f.path)
	if err != nil {
		return errors.Unwrap(err)
	}
	if f.known && os.SameFile(info, f.info) && info.ModTime().Equal(f.info.ModTime()) && info.Size() == f.info.Size() {
		return nil
	}
	content, err := Read(f.path)
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

const maxSize = 64 << 10

// Read reads a regular file of at most 64 KiB. Its errors do not name the path.
func Read(path string) ([]byte, error) {
	// Opening something else, such as a pipe, could wait forever.
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
	content, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	switch {
	case err != nil:
		return nil, err
	case len(content) > maxSize:
		return nil, fmt.Errorf("longer than %d bytes", maxSize)
	}
	return content, nil
}
