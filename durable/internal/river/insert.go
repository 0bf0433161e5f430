package river

import (
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// everyState makes an insert with the caller's own ID unique among jobs of every state.
// The same delivery is thus accepted once, also after the first one was delivered.
var everyState = []rivertype.JobState{
	rivertype.JobStateAvailable, rivertype.JobStateCancelled, rivertype.JobStateCompleted, rivertype.JobStateDiscarded,
	rivertype.JobStatePending, rivertype.JobStateRetryable, rivertype.JobStateRunning, rivertype.JobStateScheduled,
}

// Insert is a job to be inserted.
type Insert struct {
	Job      Job
	Rounds   int    // the most rounds that the job may have
	Once     bool   // a second job with the same dispatch and target is ignored
	OrderKey string // empty if the order does not matter
}

func (i Insert) params() river.InsertManyParams {
	metadata := orderMetadata(i.OrderKey)
	opts := &river.InsertOpts{
		Queue:       SetOf(i.Job.Names()),
		MaxAttempts: i.Rounds,
		Metadata:    metadata,
		Pending:     metadata != nil,
	}
	if i.Once {
		opts.UniqueOpts = river.UniqueOpts{ByArgs: true, ByState: everyState}
	}
	return river.InsertManyParams{Args: i.Job, InsertOpts: opts}
}
