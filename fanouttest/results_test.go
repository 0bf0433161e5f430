package fanouttest_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestResults_WaitReturnsWhatThereIsWhenItsContextEnds(t *testing.T) {
	var results fanouttest.Results
	over, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := results.Wait(over, "")
	require.EqualError(t, err, "fanouttest: no dispatch ID: did Submit fail?")
	got, err := results.Wait(over, "d-1")
	require.EqualError(t, err, "fanouttest: dispatch d-1: no result yet of [any target]: context canceled")
	require.ErrorIs(t, err, context.Canceled)
	assert.Empty(t, got)

	results.OnResult(t.Context(), fanout.Result{Target: "crm", Payload: &fanout.Payload{ID: "d-1"}})
	results.OnResult(t.Context(), fanout.Result{Target: "email", Payload: &fanout.Payload{ID: "d-2"}})
	got, err = results.Wait(over, "d-1", "email", "crm", "ledger")
	require.EqualError(t, err, "fanouttest: dispatch d-1: no result yet of [email ledger]: context canceled")
	assert.Len(t, got, 1)
	assert.Equal(t, "crm", got["crm"].Target)
	got, err = results.Wait(over, "d-1")
	require.NoError(t, err)
	assert.Len(t, got, 1)
}
