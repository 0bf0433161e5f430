package fanout

import (
	"cmp"
	"net/http"
	"strings"

	"github.com/fanout-go/fanout/internal/header"
)

// Idempotency says how a target can recognize that two attempts are the same operation.
// This matters because a target may have acted although its answer was lost.
//
// Every delivery has one key. All its attempts carry it, and no other target has the same
// one. Another dispatch has other keys, unless it is given the same [Payload.Key]. HTTP
// targets get the key in a header, as the IETF draft "The Idempotency-Key HTTP Header
// Field" describes. A [Sender] finds it in [Request.Key].
//
// If a request with a key is answered with 409, the target is still working on an earlier
// attempt. It is retried, unless you have set [Retry.Statuses] without 409. If the
// delivery ends with a 409, its outcome is [Unknown]. A 422 means that the key was used
// for another operation, and is not retried.
type Idempotency struct {
	// Header is the name of the header. Empty means the default, "Idempotency-Key"; "-"
	// means that no key is sent. POST and PATCH are then only retried if nothing can have
	// reached the target.
	Header string
	// Format is the format of the header's value. Empty means the default, [KeyPlain].
	Format KeyFormat
}

// KeyFormat says how an idempotency key is written in its header.
type KeyFormat string

const (
	// KeyPlain writes the key as it is. Most APIs expect that.
	KeyPlain KeyFormat = "plain"
	// KeyStructured writes the key as a Structured Field string (RFC 9651), in quotes. The
	// IETF draft asks for that.
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

// taken reports whether a header has another purpose, so that it cannot carry a key.
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
