package fanouttest

import (
	"context"

	"github.com/fanout-go/fanout"
)

// Sender is a fake [fanout.Sender]. It returns errors by a script and records its
// requests. It is safe for concurrent use.
type Sender struct {
	script   script[error]
	received record[fanout.Request]
}

// NewSender returns a sender that returns the errors one after the other, one for each
// attempt, and repeats the last one. A nil error is a success. Without errors it always
// succeeds. Mark errors with [fanout.Refused], [fanout.Permanent] or [fanout.NotSent] to
// say what happened to the attempt.
func NewSender(errs ...error) *Sender {
	if len(errs) == 0 {
		errs = []error{nil}
	}
	return &Sender{script: script[error]{steps: errs}}
}

// Send records the request and returns the next error.
func (s *Sender) Send(_ context.Context, r *fanout.Request) (*fanout.Response, error) {
	err := s.script.next()
	s.received.add(*r)
	return nil, err
}

// Target returns the definition of a target that uses this fake.
func (s *Sender) Target(name string) fanout.Target {
	return fanout.Target{Name: name, Sender: s}
}

// Requests returns the attempts made so far, the first one first.
func (s *Sender) Requests() []fanout.Request { return s.received.all() }

// Count returns the number of attempts made so far.
func (s *Sender) Count() int { return len(s.received.all()) }

// Wait waits until n attempts were made. If ctx ends before, it returns ctx's error.
func (s *Sender) Wait(ctx context.Context, n int) error { return s.received.wait(ctx, n) }
