package river

import (
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// everyState has a job with the ID of a caller's own inserted once, whatever became of the
// first one.
var everyState = []rivertype.JobState{
	rivertype.JobStateAvailable, rivertype.JobStateCancelled, rivertype.JobStateCompleted, rivertype.JobStateDiscarded,
	rivertype.JobStatePending, rivertype.JobStateRetryable, rivertype.JobStateRunning, rivertype.JobStateScheduled,
}

// Insert is a job to be inserted.
type Insert struct {
	Job      Job
	Rounds   int    // at most
	Once     bool   // a second one of the same dispatch and target changes nothing
	OrderKey string // empty if its order does not matter
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
