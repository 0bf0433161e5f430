package durable_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
)

func TestBacklog_CountsWhatWaitsAndWhatIsDead(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{Schedule: []time.Duration{time.Hour}})
		var never atomic.Bool
		d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{refusing("strict", &never), sending("down", func(*fanout.Request) error { return errDown })}})
		for range 3 {
			submit(t, d, "entry")
		}
		eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 3 }, "all at one to be dead")
		eventually(t, func() bool {
			snapshot := d.Snapshot(t.Context())
			return snapshot.Targets[0].Backlog.DeadLetters == 3 && snapshot.Targets[1].Backlog.Deliveries == 3
		}, "a true snapshot")
		snapshot := d.Snapshot(t.Context())
		assert.Zero(t, snapshot.Targets[0].Backlog.Deliveries)
		assert.Zero(t, snapshot.Targets[1].Backlog.DeadLetters)
		assert.InDelta(t, 5, time.Since(snapshot.Targets[1].Backlog.Oldest).Seconds(), 5.1)
	})
}

func TestBacklog_ThatCannotBeReadIsNotEmpty(t *testing.T) {
	q, _ := inFile(t, durable.Config{})
	require.NoError(t, q.Hold(t.Context(), "crm"))
	for _, table := range []string{"fanout_holds", "river_job"} {
		_, err := q.DB().Exec("ALTER TABLE " + table + " RENAME TO away")
		require.NoError(t, err)
		backlog, err := q.Backlog(t.Context())
		require.ErrorContains(t, err, "durable: ")
		assert.Nil(t, backlog, "and not half a list")
		_, err = q.DB().Exec("ALTER TABLE away RENAME TO " + table)
		require.NoError(t, err)
	}
	backlog, err := q.Backlog(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []fanout.Backlog{{Target: "crm", Held: true}}, backlog)
	require.NoError(t, q.Close(t.Context()))
}
