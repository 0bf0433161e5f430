package durable

import (
	"context"
	"errors"
	"time"
)

// beatInterval is how often a process looks after what no event tells it.
const beatInterval = time.Second

// stayAlive says that this process is, and takes over from those that are not. It goes
// on while deliveries end, or others would take them over.
func (q *Queue) stayAlive(ctx context.Context) {
	q.everyBeat(ctx, "saying that this process is alive", func(int) error { return q.guard.beat(ctx) })
}

// keepHouse opens and shuts lanes, and forgets what is no longer needed.
func (q *Queue) keepHouse(ctx context.Context) {
	q.everyBeat(ctx, "looking after the queue", func(beats int) error {
		errs := []error{q.readHolds(ctx), q.lanes.keep(ctx)}
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
	})
}

func (q *Queue) everyBeat(ctx context.Context, what string, do func(beats int) error) {
	ticker := time.NewTicker(beatInterval)
	defer ticker.Stop()
	for beats := 0; ; beats++ {
		err := do(beats)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			q.complain(what, err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (q *Queue) complain(what string, err error) {
	q.logger.Error("durable: "+what+" failed, and is tried again", "error", err)
}
