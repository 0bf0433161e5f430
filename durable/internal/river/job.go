package river

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"time"
)

// Job is a delivery to one target as it is kept in River's table, or to several targets
// that depend on each other. River refuses a second job with the same fields marked
// unique, if it is to be inserted once.
type Job struct {
	Dispatch      string            `json:"dispatch" river:"unique"`
	Target        string            `json:"target,omitempty" river:"unique"` // empty if there are several
	Set           string            `json:"set,omitempty" river:"unique"`    // names the several
	Targets       []string          `json:"targets"`                         // one, or the several
	Submitted     int64             `json:"submitted"`                       // milliseconds
	CorrelationID string            `json:"correlation_id,omitempty"`        // if it is not the dispatch's ID
	Trace         map[string]string `json:"trace,omitempty"`                 // of the submitter, by W3C Trace Context
	Payload       *Content          `json:"payload,omitempty"`
	Sealed        []byte            `json:"sealed,omitempty"` // Payload, encrypted

	next time.Time // when the next round is due
}

// Content is the part of a job that can be encrypted.
type Content struct {
	Key         string      `json:"key,omitempty"` // if it is not the dispatch's ID
	Type        string      `json:"type,omitempty"`
	ContentType string      `json:"content_type,omitempty"`
	Header      http.Header `json:"header,omitempty"`
	Body        []byte      `json:"body,omitempty"`
}

// Kind implements river.JobArgs.
func (Job) Kind() string { return "fanout" }

// Names are the targets that the job is for.
func (j *Job) Names() []string {
	if j.Target != "" {
		return []string{j.Target}
	}
	return j.Targets
}

// SetOf names a set of targets: readable, and different from any other set's.
func SetOf(names []string) string {
	all := strings.Join(names, "\x00")
	sum := sha256.Sum256([]byte(all))
	readable := strings.FieldsFunc(strings.ToLower(strings.Join(names, "_")), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
	slug := strings.Join(readable, "_")
	slug = strings.TrimSuffix(slug[:min(len(slug), 32)], "_")
	return strings.Join(append(strings.Fields(idleLane+" "+slug), hex.EncodeToString(sum[:6])), "_")
}

// idleLane is a queue of River's without jobs, as River wants one to begin with. The names
// of all lanes begin with its name.
const idleLane = "fanout"
