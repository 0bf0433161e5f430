// Package ids makes IDs that no two of are equal.
package ids

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
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
