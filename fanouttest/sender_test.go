package fanouttest_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestSender_FailsByItsScriptAndRecords(t *testing.T) {
	down := errors.New("down")
	sender := fanouttest.NewSender(fanout.NotSent(down), nil)
	target := sender.Target("ledger")
	target.Retry.InitialBackoff = time.Millisecond
	d, err := fanout.New(fanout.Config{Targets: []fanout.Target{target}})
	require.NoError(t, err)
	results, err := d.Dispatch(t.Context(), "entry")
	require.NoError(t, err)
	require.NoError(t, sender.Wait(t.Context(), 2))
	assert.Equal(t, 2, sender.Count())
	assert.Equal(t, "entry", sender.Requests()[1].Payload.Value)
	assert.ErrorIs(t, results["ledger"].Attempts[0].Err, down)
}

func TestSender_WithoutAScriptSucceeds(t *testing.T) {
	response, err := fanouttest.NewSender().Send(t.Context(), &fanout.Request{})
	require.NoError(t, err)
	assert.Nil(t, response)
}
