package river_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/durable/internal/river"
)

func TestDeadLetters_AreListedOverSeveralPages(t *testing.T) {
	onBoth(t, func(t *testing.T, e *river.Engine) {
		const n = 1001 // two full pages, and one more
		inserts := make([]river.Insert, n)
		for i := range inserts {
			inserts[i] = river.Insert{Job: river.Job{Dispatch: "d", Target: "crm", Targets: []string{"crm"}, Payload: &river.Content{}}, Rounds: 1}
		}
		require.NoError(t, e.Insert(t.Context(), nil, inserts))
		require.NoError(t, e.Exec(t.Context(), "UPDATE @job SET state = 'discarded', finalized_at = @now"))
		var ids []int64
		for dead, err := range e.DeadLetters.List(t.Context(), river.Filter{}) {
			require.NoError(t, err)
			ids = append(ids, dead.ID)
		}
		assert.Len(t, slices.Compact(slices.Clone(ids)), n)
		assert.True(t, slices.IsSorted(ids))
	})
}
