// Package ids makes random IDs, and checks the form of IDs and keys.
package ids

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"strings"
	"sync"
)

// An ID is 120 random bits in base32: 24 letters and digits.
const idBytes, idLength = 15, 24

// shared makes all IDs of the process. Every dispatch needs one, so it makes 64 at a
// time, with one allocation and one read of randomness.
var shared mint

type mint struct {
	mu   sync.Mutex
	left string
}

// Hash returns 32 hexadecimal digits that replace a text, for example one that is too
// long. Equal texts have equal hashes.
func Hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// New returns a random ID of 24 letters and digits.
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

// KeySuffix returns a suffix that makes the keys of one dispatch different for each
// target. It is the target's name, which helps whoever reads the logs, if the name can be
// sent in a header. Otherwise it is the name's hash.
func KeySuffix(name string) string {
	if len(name) <= 64 && ValidKey(name) && !strings.Contains(name, ":") {
		return ":" + name
	}
	return ":" + Hash(name)
}

// Valid reports whether id is 1 to 128 ASCII letters, digits and characters of
// "-._~:/+=@". These are safe in a header, in a log, and in the query of a URL.
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
