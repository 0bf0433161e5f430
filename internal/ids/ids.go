// Package ids makes IDs that no two of are equal.
package ids

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"strings"
	"sync"
)

// An ID is 120 random bits in base32: letters and digits only.
const idBytes, idLength = 15, 24

// shared makes IDs a batch at a time, since every dispatch needs one: an allocation
// and a read of randomness for 64 of them.
var shared mint

type mint struct {
	mu   sync.Mutex
	left string
}

// Hash stands for a text that cannot stand for itself, for example because it is too
// long. It is 32 hexadecimal digits, the same for equal texts.
func Hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// New returns 24 letters and digits.
func New() string { return shared.next() }

func (m *mint) next() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left == "" {
		var random [64 * idBytes]byte
		_, _ = rand.Read(random[:]) // never fails, by its documentation
		m.left = base32.StdEncoding.EncodeToString(random[:])
	}
	id := m.left[:idLength]
	m.left = m.left[idLength:]
	return id
}

const maxKey = 128

// ValidKey reports whether a key can be sent in a header: 1 to 128 visible ASCII characters.
func ValidKey(key string) bool {
	if key == "" || len(key) > maxKey {
		return false
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return false
		}
	}
	return true
}

// KeySuffix tells the keys of one dispatch apart. It is the target's name where
// that can stand in a header, for whoever reads the logs, else its hash.
func KeySuffix(name string) string {
	if len(name) <= 64 && ValidKey(name) && !strings.Contains(name, ":") {
		return ":" + name
	}
	return ":" + Hash(name)
}

// Valid reports whether id is 1 to 128 ASCII letters, digits and characters of
// "-._~:/+=@": what is safe in a header, a log and a URL's query.
func Valid(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-', c == '.', c == '_', c == '~', c == ':', c == '/', c == '+', c == '=', c == '@':
		default:
			return false
		}
	}
	return true
}
