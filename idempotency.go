package fanout

import (
	"cmp"
	"net/http"
	"strings"

	"github.com/fanout-go/fanout/internal/header"
)

// Idempotency says how a target is told that two attempts are the same
// operation, since a target that does not answer may have acted. Every delivery has one key: the same on all its attempts, and
// unlike that of any other target or dispatch. HTTP targets get it in a header,
// as the IETF draft "The Idempotency-Key HTTP Header Field" describes; a
// [Sender] finds it in [Request.IdempotencyKey].
//
// For a keyed request a 409 means that an earlier attempt is still being worked
// on: it is retried, and ends in [Unknown]. A 422 means that the key was used for
// something else, and is not.
type Idempotency struct {
	// Header is the name of the header. Default "Idempotency-Key"; "-" sends
	// none, and then POST and PATCH are retried only where nothing can have
	// reached the target.
	Header string
	// Format of the header's value. Default [KeyPlain].
	Format KeyFormat
}

// KeyFormat is how an idempotency key is written in its header.
type KeyFormat string

const (
	// KeyPlain writes the key as it is, which most APIs expect.
	KeyPlain KeyFormat = "plain"
	// KeyStructured writes it as a Structured Field string (RFC 9651), in
	// quotes, which the IETF draft asks for.
	KeyStructured KeyFormat = "structured"
)

func (i Idempotency) over(base Idempotency) Idempotency {
	return Idempotency{Header: cmp.Or(i.Header, base.Header), Format: cmp.Or(i.Format, base.Format)}
}

func (i Idempotency) withDefaults() Idempotency {
	return i.over(Idempotency{Header: "Idempotency-Key", Format: KeyPlain})
}

func (i Idempotency) check() error {
	switch {
	case i.Header != "" && i.Header != "-" && !header.ValidName(i.Header):
		return invalid("Idempotency.Header", "%q is not a header name", i.Header)
	case taken(http.CanonicalHeaderKey(i.Header)):
		return invalid("Idempotency.Header", "%s has another meaning", i.Header)
	case i.Format != "" && i.Format != KeyPlain && i.Format != KeyStructured:
		return invalid("Idempotency.Format", "%q is neither %q nor %q", i.Format, KeyPlain, KeyStructured)
	}
	return nil
}

// taken reports whether a header cannot carry a key.
func taken(name string) bool {
	switch name {
	case "Idempotency-Key":
		return false
	case "Accept", "Authorization", "Content-Encoding", "Content-Type", "Cookie", "Expect", "User-Agent":
		return true
	}
	return header.Reserved(name)
}

// off reports whether no key is sent.
func (i Idempotency) off() bool { return i.Header == "-" }

func (i Idempotency) value(key string) string {
	if i.Format == KeyStructured {
		return `"` + structuredEscaper.Replace(key) + `"`
	}
	return key
}

var structuredEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`)
