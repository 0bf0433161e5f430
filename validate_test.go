package fanout_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestAPayloadIsValidatedBeforeAnythingIsSent(t *testing.T) {
	noCard := func(_ context.Context, s *fanout.Payload) error {
		if strings.Contains(string(s.Body), "card") {
			return errors.New("has a card number")
		}
		return nil
	}
	strict := via("strict", answering(200))
	strict.Validate = noCard
	for name, test := range map[string]struct {
		config fanout.Config
		want   string
	}{
		"for all":    {fanout.Config{Validate: noCard}, "fanout: Payload: refused: has a card number"},
		"for one":    {fanout.Config{Targets: []fanout.Target{strict}}, `fanout: target "strict": Payload: refused: has a card number`},
		"its length": {fanout.Config{MaxPayloadBytes: 10}, "fanout: Payload.Body: too large: 15 bytes, limit 10"},
		"a panic": {fanout.Config{Validate: func(context.Context, *fanout.Payload) error { panic("oops") }},
			"fanout: Payload: refused: panic: oops"},
	} {
		j := &journal{}
		test.config.Targets = append(test.config.Targets, j.step("crm", answering(200), nil))
		d := newWith(t, test.config)
		results, err := d.Dispatch(t.Context(), map[string]string{"card": "4711"})
		require.ErrorIs(t, err, fanout.ErrInvalid, name)
		require.ErrorContains(t, err, test.want, name)
		assert.Equal(t, fanout.Rejected, results["crm"].Outcome, name)
		_, err = d.Submit(t.Context(), map[string]string{"card": "4711"})
		require.ErrorContains(t, err, test.want, name)
		assert.Empty(t, j.entries, name)
	}
}

func TestAPayloadOfAnyLengthIsSentIfNothingBoundsIt(t *testing.T) {
	long := strings.Repeat("x", 17<<20)
	_, err := newDispatcher(t, via("crm", answering(200))).Dispatch(t.Context(), long)
	require.ErrorContains(t, err, "limit 16777216")
	_, err = newWith(t, fanout.Config{MaxPayloadBytes: -1, Targets: []fanout.Target{via("crm", answering(200))}}).Dispatch(t.Context(), long)
	require.NoError(t, err)
}

func TestInvalidError_WrapsWhoseFaultItIs(t *testing.T) {
	no := errors.New("has a card number")
	configured := fanout.Config{Targets: []fanout.Target{via("crm", answering(200))}}
	short, strict, placed, other := configured, configured, configured, configured
	short.MaxPayloadBytes = 3
	strict.Validate = func(context.Context, *fanout.Payload) error { return no }
	placed.Validate = func(context.Context, *fanout.Payload) error {
		return &fanout.InvalidError{Field: "Payload.card", Err: no}
	}
	other.Validate = func(context.Context, *fanout.Payload) error { return fanout.ErrInvalid }
	for name, test := range map[string]struct {
		config  fanout.Config
		payload any
		options []fanout.Option
		is      error
		want    string
	}{
		"too large":          {short, "hello", nil, fanout.ErrPayloadTooLarge, "fanout: Payload.Body: too large: 7 bytes, limit 3"},
		"refused":            {strict, "hello", nil, fanout.ErrPayloadRefused, "fanout: Payload: refused: has a card number"},
		"refused in a place": {placed, "hello", nil, fanout.ErrPayloadRefused, "fanout: Payload.card: refused: has a card number"},
		"refused as invalid": {other, "hello", nil, fanout.ErrPayloadRefused, "fanout: Payload: refused: invalid"},
		"key":                {configured, fanout.Payload{Key: "a b"}, nil, fanout.ErrIdempotencyKey, "fanout: Payload.Key: must be 1 to 128 visible ASCII characters"},
		"none configured":    {fanout.Config{}, "hello", nil, fanout.ErrNoTargets, "fanout: Targets: no targets are configured"},
		"none chosen":        {configured, "hello", []fanout.Option{fanout.To()}, fanout.ErrNoTargets, "fanout: Targets: no targets were chosen by the options of the call"},
	} {
		d := newWith(t, test.config)
		_, err := d.Dispatch(t.Context(), test.payload, forDispatch(test.options)...)
		require.EqualError(t, err, test.want, name)
		require.ErrorIs(t, err, fanout.ErrInvalid, name)
		_, submitted := d.Submit(t.Context(), test.payload, forSubmit(test.options)...)
		require.EqualError(t, submitted, test.want, name)
		for _, sentinel := range []error{fanout.ErrPayloadTooLarge, fanout.ErrPayloadRefused, fanout.ErrIdempotencyKey, fanout.ErrNoTargets} {
			assert.Equal(t, sentinel == test.is, errors.Is(err, sentinel), "%s: %v", name, sentinel) //nolint:errorlint // the very one
		}
	}
}
