package river_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/durable/internal/river"
)

func TestBacklog_CountsAJobForEachOfItsTargets(t *testing.T) {
	onBoth(t, func(t *testing.T, e *river.Engine) {
		began := time.Now()
		insert(t, e, "stock")
		set := river.Job{Dispatch: "order", Set: river.SetOf([]string{"payment", "stock"}), Targets: []string{"stock", "payment"}, Payload: &river.Content{}}
		require.NoError(t, e.Insert(t.Context(), nil, []river.Insert{{Job: set, Rounds: 1}}))
		insert(t, e, "dead")
		require.NoError(t, e.Exec(t.Context(), "UPDATE @job SET state = 'cancelled', finalized_at = @now WHERE args->>'target' = 'dead'"))
		backlog, err := e.Backlog(t.Context())
		require.NoError(t, err)
		assert.Len(t, backlog, 3)
		assert.Equal(t, []int{2, 1, 0}, []int{backlog["stock"].Jobs, backlog["payment"].Jobs, backlog["dead"].Jobs})
		assert.Equal(t, []int{0, 0, 1}, []int{backlog["stock"].Dead, backlog["payment"].Dead, backlog["dead"].Dead})
		assert.WithinDuration(t, began, backlog["stock"].Oldest, 10*time.Second)
		assert.Zero(t, backlog["dead"].Oldest)
	})
}

func TestBacklog_ThatCannotBeReadIsAnError(t *testing.T) {
	onBoth(t, func(t *testing.T, e *river.Engine) {
		insert(t, e, "stock")
		unreadable := `json_patch(args, '{"target": "", "targets": 5}')`
		if e.OnPostgres() {
			unreadable = `args || '{"target": "", "targets": 5}'`
		}
		require.NoError(t, e.Exec(t.Context(), "UPDATE @job SET args = "+unreadable))
		backlog, err := e.Backlog(t.Context())
		require.Error(t, err)
		assert.Nil(t, backlog)
	})
}
