package river_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/durable/internal/river"
)

// The seconds in which maintenance does rarer work.
const (
	releasesLeftBehind = 10
	releasesLost       = 15
	forgetsJournal     = 660
)

func TestMaintenance_ReleasesWhatThisProcessHasLost(t *testing.T) {
	onBoth(t, func(t *testing.T, e *river.Engine) {
		begun, end := make(chan struct{}), make(chan struct{})
		require.NoError(t, e.Start(t.Context(), func(context.Context, river.Round) river.Verdict {
			close(begun)
			<-end
			return river.Done()
		}))
		defer close(end)
		insert(t, e, "slow")
		<-begun
		for _, target := range []string{"lost", "young"} {
			require.NoError(t, e.Holds.Add(t.Context(), target)) // so that nobody begins them
			insert(t, e, target)
		}
		require.NoError(t, e.PretendRunning(t.Context(), "slow", e.Self(), 62*time.Second))
		require.NoError(t, e.PretendRunning(t.Context(), "lost", e.Self(), 62*time.Second))
		require.NoError(t, e.PretendRunning(t.Context(), "young", e.Self(), 30*time.Second))
		require.NoError(t, e.Maintain(t.Context(), releasesLost))
		assert.Equal(t, map[string]string{"slow": "running", "lost": "available", "young": "running"}, states(t, e))
		rounds, err := e.Strings(t.Context(), "SELECT attempt FROM @job WHERE args->>'target' = 'lost'")
		require.NoError(t, err)
		assert.Equal(t, []string{"0"}, rounds, "the round does not count")
	})
}

func TestMaintenance_ForgetsTheJournalOfAJobThatIsGone(t *testing.T) {
	onBoth(t, func(t *testing.T, e *river.Engine) {
		insert(t, e, "ledger")
		for job := range int64(2) {
			require.NoError(t, e.Journal.Write(t.Context(), job+1, river.Entry{Kind: river.StepEnded, Target: "ledger", Record: []byte("{}")}))
		}
		entries := func(job int64) int {
			all, err := e.Journal.Read(t.Context(), job, river.StepEnded)
			require.NoError(t, err)
			return len(all)
		}
		require.NoError(t, e.Maintain(t.Context(), forgetsJournal-1))
		assert.Equal(t, []int{1, 1}, []int{entries(1), entries(2)})
		require.NoError(t, e.Maintain(t.Context(), forgetsJournal))
		assert.Equal(t, []int{1, 0}, []int{entries(1), entries(2)})
	})
}

func TestMaintenance_SaysWhatItCouldNotDo(t *testing.T) {
	onBoth(t, func(t *testing.T, e *river.Engine) {
		if e.OnPostgres() {
			t.Skip("the triggers are in SQLite's dialect")
		}
		insert(t, e, "lost")
		require.NoError(t, e.PretendRunning(t.Context(), "lost", e.Self(), time.Hour))
		require.NoError(t, e.Insert(t.Context(), nil, []river.Insert{{Job: river.Job{Target: "left", Targets: []string{"left"}, Payload: &river.Content{}}, Rounds: 1, OrderKey: "k"}}))
		require.NoError(t, e.Journal.Write(t.Context(), 1000, river.Entry{Kind: river.StepEnded, Target: "gone", Record: []byte("{}")}))
		for table, what := range map[string]string{"@job": "UPDATE", "@journal": "DELETE"} {
			require.NoError(t, e.Exec(t.Context(), "CREATE TRIGGER no_"+what+" BEFORE "+what+" ON "+table+" BEGIN SELECT RAISE(ABORT, 'refused'); END"))
		}
		require.NoError(t, e.Maintain(t.Context(), 1))
		for _, second := range []int{releasesLeftBehind, releasesLost, forgetsJournal} {
			require.ErrorContains(t, e.Maintain(t.Context(), second), "refused", second)
		}
		require.NoError(t, e.Exec(t.Context(), "ALTER TABLE @holds RENAME TO away"))
		require.ErrorContains(t, e.Maintain(t.Context(), 1), "fanout_holds")
	})
}

func TestRunning_RemembersTheEndOfALongDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := river.Running()
		endShort, endLong := r.Begin(1), r.Begin(2)
		time.Sleep(29 * time.Second)
		assert.True(t, r.Knows(1))
		endShort()
		assert.False(t, r.Knows(1), "the database cannot show it as running for a minute")
		time.Sleep(10 * time.Minute)
		assert.True(t, r.Knows(2), "it runs")
		endLong()
		time.Sleep(time.Minute)
		assert.True(t, r.Knows(2), "its end may not be stored yet")
		time.Sleep(time.Second)
		assert.False(t, r.Knows(2))
	})
}
