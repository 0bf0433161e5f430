package durable

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Hold stops deliveries to a target: in this process at once, in others within a
// second or two. What is under way ends as it does; what is submitted meanwhile is
// kept. It lasts until [Queue.Resume], over restarts too. A saga is held if one of its
// targets is. A name that no target has can be held, too.
func (q *Queue) Hold(ctx context.Context, target string) error {
	if target == "" {
		return errors.New("durable: no target to hold is named")
	}
	_, err := q.store.exec(ctx, "INSERT INTO @holds (target, since) VALUES ($1, $2) ON CONFLICT (target) DO NOTHING", target, time.Now().UnixMilli())
	if err == nil {
		err = q.readHolds(ctx)
	}
	if err != nil {
		return fmt.Errorf("durable: holding %q: %w", target, err)
	}
	return nil
}

var snoozedFor = "UPDATE @job SET scheduled_at = @now WHERE kind = 'fanout' AND state = 'available' AND scheduled_at > @now AND " +
	isFor("args->>'target'", "args->>'targets'", 1)

// Resume undoes [Queue.Hold].
func (q *Queue) Resume(ctx context.Context, target string) error {
	_, err := q.store.exec(ctx, "DELETE FROM @holds WHERE target = $1", target)
	if err == nil {
		err = q.readHolds(ctx)
	}
	if err == nil {
		_, err = q.store.exec(ctx, snoozedFor, target, q.store.holding(target))
	}
	if err == nil && q.delivers() {
		err = q.lanes.openThoseWithWork(ctx)
	}
	if err != nil {
		return fmt.Errorf("durable: resuming %q: %w", target, err)
	}
	return nil
}

// Held names the targets that are held.
func (q *Queue) Held(ctx context.Context) ([]string, error) {
	return q.store.strings(ctx, "SELECT target FROM @holds ORDER BY target")
}

// readHolds does not let an older reading overtake a newer one.
func (q *Queue) readHolds(ctx context.Context) error {
	q.holds.Lock()
	defer q.holds.Unlock()
	held, err := q.Held(ctx)
	if err == nil {
		q.lanes.hold(held)
	}
	return err
}
