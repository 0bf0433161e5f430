package fanouttest

import (
	"context"

	"github.com/fanout-go/fanout"
)

// Sender is a fake [fanout.Sender]: it fails by a script and records what it
// was given. It is safe for concurrent use.
type Sender struct {
	script   script[error]
	received record[fanout.Request]
}

// NewSender returns a sender that fails with the errors in turn, one for each
// attempt, and repeats the last one; nil is a success. Without errors it always
// succeeds. Mark errors with [fanout.Refused], [fanout.Permanent] or
// [fanout.NotSent] to say how far the attempt came.
func NewSender(errs ...error) *Sender {
	if len(errs) == 0 {
		errs = []error{nil}
	}
	return &Sender{script: script[error]{steps: errs}}
}

// Send records the request and answers by the script.
func (s *Sender) Send(_ context.Context, r *fanout.Request) (*fanout.Response, error) {
	err := s.script.next()
	s.received.add(*r)
	return nil, err
}

// Target is a definition that goes to this fake.
func (s *Sender) Target(name string) fanout.Target {
	return fanout.Target{Name: name, Sender: s}
}

// Requests returns what was sent so far, attempt by attempt.
func (s *Sender) Requests() []fanout.Request { return s.received.all() }

// Count is how many attempts were made so far.
func (s *Sender) Count() int { return len(s.received.all()) }

// Wait returns when n attempts have been made, or with ctx's error.
func (s *Sender) Wait(ctx context.Context, n int) error { return s.received.wait(ctx, n) }
