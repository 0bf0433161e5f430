package river_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/durable/internal/river"
)

func TestOrder_LeftBehindIsReleasedOneAfterTheOther(t *testing.T) {
	onBoth(t, func(t *testing.T, e *river.Engine) { // which is not started: nothing is released when it is inserted
		for _, dispatch := range []string{"a1", "a2", "b1"} {
			job := river.Job{Dispatch: dispatch, Target: "crm", Targets: []string{"crm"}, Submitted: time.Now().UnixMilli(), Payload: &river.Content{}}
			require.NoError(t, e.Insert(t.Context(), nil, []river.Insert{{Job: job, Rounds: 1, OrderKey: dispatch[:1]}}))
		}
		released := func() []string {
			t.Helper()
			require.NoError(t, e.Maintain(t.Context(), releasesLeftBehind))
			all, err := e.Strings(t.Context(), "SELECT args->>'dispatch' FROM @job WHERE state <> 'pending' ORDER BY id")
			require.NoError(t, err)
			return all
		}
		assert.Equal(t, []string{"a1", "b1"}, released())
		for _, state := range []string{"running", "retryable", "scheduled"} {
			require.NoError(t, e.Exec(t.Context(), "UPDATE @job SET state = '"+state+"' WHERE args->>'dispatch' = 'a1'"))
			assert.Equal(t, []string{"a1", "b1"}, released(), "a1 is "+state)
		}
		require.NoError(t, e.Exec(t.Context(), "UPDATE @job SET state = 'completed', finalized_at = @now WHERE args->>'dispatch' = 'a1'"))
		assert.Equal(t, []string{"a1", "a2", "b1"}, released())
	})
}

func TestOrder_LooksOnceHoweverManyWereAdded(t *testing.T) {
	o := river.Order()
	for range 3 {
		o.Look("fanout_crm", "a")
	}
	o.Look("fanout_crm", "b")
	assert.Equal(t, 2, o.Take())
	assert.Zero(t, o.Take(), "they are forgotten")
}
