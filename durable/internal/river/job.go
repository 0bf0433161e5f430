package river

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"time"
)

// Job is a delivery as it is stored in River's table. It goes to one target, or to
// several targets that depend on each other. If a job is to be inserted once, River
// ignores a second job whose fields marked "unique" are the same.
type Job struct {
	Dispatch      string            `json:"dispatch" river:"unique"`
	Target        string            `json:"target,omitempty" river:"unique"` // empty if there are several targets
	Set           string            `json:"set,omitempty" river:"unique"`    // stands for the several targets, see SetOf
	Targets       []string          `json:"targets"`                         // all targets, also if it is one
	Submitted     int64             `json:"submitted"`                       // milliseconds since 1970
	CorrelationID string            `json:"correlation_id,omitempty"`        // empty if it is the same as Dispatch
	Trace         map[string]string `json:"trace,omitempty"`                 // the submitter's, as W3C Trace Context
	Payload       *Content          `json:"payload,omitempty"`
	Sealed        []byte            `json:"sealed,omitempty"` // Payload, if it is encrypted

	next time.Time // when the next round is due
}

// Content is the part of a job that can be encrypted.
type Content struct {
	Key         string      `json:"key,omitempty"` // empty if it is the same as Dispatch
	Type        string      `json:"type,omitempty"`
	ContentType string      `json:"content_type,omitempty"`
	Header      http.Header `json:"header,omitempty"`
	Body        []byte      `json:"body,omitempty"`
}

// Kind implements river.JobArgs.
func (Job) Kind() string { return "fanout" }

// Names returns the targets of the job.
func (j *Job) Names() []string {
	if j.Target != "" {
		return []string{j.Target}
	}
	return j.Targets
}

// SetOf returns a name for a set of targets. It is readable, and different for every set.
// For example, {"email"} is "fanout_email_" and twelve hexadecimal digits.
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

// idleLane is a River queue that never has jobs: River needs one to start with. The names
// of all lanes begin with its name.
const idleLane = "fanout"
