package river

import (
	"context"
	"errors"
	"time"
)

// maintenance does regularly what no event triggers.
type maintenance struct {
	holds    *Holds
	lanes    *lanes
	order    *order
	running  *running
	journal  *Journal
	complain func(what string, err error)
}

func (m *maintenance) run(ctx context.Context) {
	everySecond(ctx, func(second int) {
		if err := m.once(ctx, second); err != nil && ctx.Err() == nil {
			m.complain("maintenance of the queue", err)
		}
	})
}

// once is called every second. Rarer work is spread over different seconds.
func (m *maintenance) once(ctx context.Context, second int) error {
	errs := []error{m.holds.read(ctx)}
	m.lanes.shutIdle(ctx)
	errs = append(errs, m.lanes.openWithWork(ctx))
	if m.order.seen.Load() || second%10 == 0 {
		errs = append(errs, m.order.releaseLeftBehind(ctx))
	}
	if second%10 == 5 {
		errs = append(errs, m.running.releaseLost(ctx))
	}
	if second%600 == 60 {
		errs = append(errs, m.journal.forget(ctx))
	}
	return errors.Join(errs...)
}

func everySecond(ctx context.Context, do func(second int)) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for second := 0; ; second++ {
		do(second)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}
