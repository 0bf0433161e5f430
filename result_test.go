package fanout_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestResults_OptionalTargetStaysOptionalWhenRefused(t *testing.T) {
	target := via("crm", answering(200))
	target.Optional = true
	results, err := newDispatcher(t, target).Dispatch(t.Context(), make(chan int), fanout.To("crm"))
	require.Error(t, err)
	assert.NoError(t, results.Err())
}

func TestResults_WithAMisspeltNameDoNotReadAsSuccess(t *testing.T) {
	results := dispatch(t.Context(), newDispatcher(t, via("crm", answering(200))))
	require.NoError(t, results["crm"].Err())
	require.EqualError(t, results["crmm"].Err(), "fanout: no such target in the results")
	assert.NotEqual(t, fanout.Delivered, results["crmm"].Outcome)
	require.Error(t, fanout.Result{Target: "crm", Outcome: fanout.Failed}.Err(), "made by hand, without a reason")
}

func TestOutcome_IsTextBothWays(t *testing.T) {
	names := map[string]bool{}
	for outcome := fanout.Delivered; outcome <= fanout.CompensationFailed; outcome++ {
		text, err := outcome.MarshalText()
		require.NoError(t, err)
		var read fanout.Outcome
		require.NoError(t, read.UnmarshalText(text))
		assert.Equal(t, outcome, read)
		names[string(text)] = true
	}
	assert.Len(t, names, 8)
	var none fanout.Outcome
	require.Error(t, none.UnmarshalText(nil), "the zero value is no outcome")
}

func TestAttemptKind_IsTextBothWays(t *testing.T) {
	for kind, want := range map[fanout.AttemptKind]string{0: "", fanout.HedgeAttempt: "hedge", fanout.FallbackAttempt: "fallback", fanout.CompensationAttempt: "compensation"} {
		text, err := kind.MarshalText()
		require.NoError(t, err)
		assert.Equal(t, want, string(text))
		var read fanout.AttemptKind
		require.NoError(t, read.UnmarshalText(text))
		assert.Equal(t, kind, read)
	}
}

func TestDecode_ShowsNothingOfTheBody(t *testing.T) {
	d := newDispatcher(t, via("crm", func(*http.Request) (*http.Response, error) { return answer(200, `{"id": 5500000012345678}`), nil }))
	_, err := fanout.Decode[struct{ ID int8 }](dispatch(t.Context(), d)["crm"])
	require.EqualError(t, err, `fanout: crm: answer is not the JSON expected: field "ID" cannot be a int8`)
}

// quotingType is a type that says in its error what it could not read.
type quotingType struct{}

func (*quotingType) UnmarshalJSON(b []byte) error { return fmt.Errorf("cannot read %s", b) }

func TestDecode_ShowsNothingOfWhatATypeQuotes(t *testing.T) {
	d := newDispatcher(t, via("crm", func(*http.Request) (*http.Response, error) { return answer(200, `{"Card": "5500000012345678"}`), nil }))
	_, err := fanout.Decode[struct{ Card quotingType }](dispatch(t.Context(), d)["crm"])
	require.ErrorContains(t, err, "fanout: crm: answer is not the JSON expected")
	assert.NotContains(t, err.Error(), "5500000012345678")
}

func TestResult_KeepsItsOrderAttemptsAndMeaningInJSON(t *testing.T) {
	results := dispatch(t.Context(), newDispatcher(t, with(via("zeta", answering(503)), fanout.Policy{Retry: fanout.Retry{ThrottledBackoff: 1}}), via("alpha", answering(400))))
	read := fanout.Results{}
	for name, r := range results {
		text, err := json.Marshal(r)
		require.NoError(t, err)
		var back fanout.Result
		require.NoError(t, json.Unmarshal(text, &back))
		read[name] = back
		assert.Equal(t, r.IsDeadLetter(), back.IsDeadLetter())
		var e *fanout.TargetError
		require.ErrorAs(t, back.Err(), &e)
		assert.Equal(t, len(r.Attempts), e.Attempts)
	}
	require.EqualError(t, read.Err(), results.Err().Error())
	assert.Equal(t, "zeta", read.Sorted()[0].Target, "in definition order")
}
