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
	noCard := func(_ context.Context, s *fanout.Submission) error {
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
		"for all":    {fanout.Config{Validate: noCard}, "fanout: Payload: has a card number"},
		"for one":    {fanout.Config{Targets: []fanout.Target{strict}}, `fanout: target "strict": Payload: has a card number`},
		"its length": {fanout.Config{MaxPayloadBytes: 10}, "fanout: Payload.Body: 15 bytes, limit 10"},
		"a panic": {fanout.Config{Validate: func(context.Context, *fanout.Submission) error { panic("oops") }},
			"fanout: Payload: panic: oops"},
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
