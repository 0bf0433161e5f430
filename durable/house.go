package durable

import (
	"context"
	"errors"
	"time"
)

// beatInterval is how often a process looks after what no event tells it.
const beatInterval = time.Second

// keepHouse says that this process is alive, takes over from those that are not,
// opens and shuts lanes, and forgets what is no longer needed.
func (q *Queue) keepHouse(ctx context.Context) {
	ticker := time.NewTicker(beatInterval)
	defer ticker.Stop()
	for beats := 0; ; beats++ {
		err := q.beat(ctx, beats)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			q.complain("looking after the queue", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (q *Queue) beat(ctx context.Context, beats int) error {
	errs := []error{q.guard.beat(ctx), q.readHolds(ctx), q.lanes.keep(ctx)}
	if q.order.used() || beats%10 == 0 {
		errs = append(errs, q.releaseOrdered(ctx))
	}
	if beats%10 == 5 {
		errs = append(errs, q.findLost(ctx))
	}
	if beats%600 == 60 {
		errs = append(errs, q.forgetEntries(ctx))
	}
	return errors.Join(errs...)
}

func (q *Queue) complain(what string, err error) {
	q.logger.Error("durable: "+what+" failed, and is tried again", "error", err)
}
