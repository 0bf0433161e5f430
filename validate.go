package fanout

import (
	"context"
	"fmt"
)

const defaultMaxPayloadBytes = 16 << 20

// validate looks at a payload before anything is sent.
func (d *Dispatcher) validate(ctx context.Context, s *Submission) error {
	if d.maxPayloadBytes > 0 && len(s.Body) > d.maxPayloadBytes {
		return invalidPayload("Body", fmt.Errorf("%w: %d bytes, limit %d", ErrPayloadTooLarge, len(s.Body), d.maxPayloadBytes))
	}
	var errs []error
	if d.validator != nil {
		errs = append(errs, validateBy(ctx, d.validator, s, ""))
	}
	for _, t := range s.targets {
		if t.Validate != nil {
			errs = append(errs, validateBy(ctx, t.Validate, s, t.Name))
		}
	}
	return join(errs...)
}

func validateBy(ctx context.Context, validator func(context.Context, *Submission) error, s *Submission, target string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = newPanicError(p)
		}
		if err != nil {
			err = refusedBy(err, target)
		}
	}()
	return validator(ctx, s)
}

// refusedBy keeps the place that a validator gave.
func refusedBy(err error, target string) error {
	invalid := InvalidError{Target: target, Field: "Payload", Err: err}
	if own, ok := err.(*InvalidError); ok { //nolint:errorlint // what wraps one has a text of its own
		invalid = *own
	}
	invalid.Err = fmt.Errorf("%w: %w", ErrPayloadRefused, invalid.Err)
	return &invalid
}
