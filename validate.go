package fanout

import (
	"context"
	"errors"
	"fmt"
)

const defaultMaxPayloadBytes = 16 << 20

// validate looks at a payload before anything is sent.
func (d *Dispatcher) validate(ctx context.Context, s *Submission) error {
	if d.maxPayloadBytes > 0 && len(s.Body) > d.maxPayloadBytes {
		return invalidPayload("Body", fmt.Errorf("%d bytes, limit %d", len(s.Body), d.maxPayloadBytes))
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
		if err != nil && !errors.Is(err, ErrInvalid) {
			err = &InvalidError{Target: target, Field: "Payload", Err: err}
		}
	}()
	return validator(ctx, s)
}
