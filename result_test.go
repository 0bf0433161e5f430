package fanout_test

import (
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
