package durable

import (
	"context"
	"database/sql"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/riverqueue/river"
)

// lanes is River's queues, one for each target, or for each set of targets whose deliveries are made
// together. A lane is open while there is work in it, since each costs some looking.
type lanes struct {
	q        *Queue
	wakeLane func(lane string)                      // on SQLite; it does not wait
	announce func(ctx context.Context, lane string) // on Postgres, where River does it for what is inserted

	mu     sync.Mutex
	byName map[string]*lane
	held   map[string]bool     // targets
	ends   map[int64]time.Time // of deliveries that took long; zero while they are under way
}

type lane struct {
	name    string
	targets []string
	open    bool
	opening bool
	running int
	used    time.Time
}

func (l *lanes) init(q *Queue) {
	l.q, l.byName, l.held = q, map[string]*lane{}, map[string]bool{}
	l.ends = map[int64]time.Time{}
}

// idleFor is how long a lane without work stays open.
const idleFor = time.Minute

// get finds or makes a lane. l.mu is held.
func (l *lanes) get(name string, targets []string) *lane {
	one := l.byName[name]
	if one == nil {
		one = &lane{name: name, targets: targets}
		l.byName[name] = one
	}
	one.used = time.Now()
	return one
}

// wake has a lane look for work now. It does not wait for the database, in which a
// transaction of the caller may be open.
func (l *lanes) wake(name string, targets []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.get(name, targets)
	switch {
	case l.q.worker == nil, one.opening, l.isHeld(one):
	case one.open:
		if l.wakeLane != nil {
			l.wakeLane(name)
		}
	default:
		l.openSoon(one)
	}
}

// openSoon opens a lane in the background, which looks for work at once. l.mu is held.
func (l *lanes) openSoon(one *lane) {
	one.opening = true
	workers := 0
	for _, target := range one.targets {
		workers = max(workers, l.q.config.concurrency(target))
	}
	go func() {
		err := l.q.engine.open(one.name, river.QueueConfig{MaxWorkers: workers})
		l.mu.Lock()
		defer l.mu.Unlock()
		one.opening, one.open = false, err == nil
		if err != nil {
			l.q.complain("opening a lane", err)
		}
	}()
}

// work is called when a delivery begins; what it returns, when it has ended.
func (l *lanes) work(id int64, name string, targets []string) (done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.get(name, targets)
	one.running++
	l.ends[id] = time.Time{}
	began := one.used
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		one.running--
		one.used = time.Now()
		l.ends[id] = one.used
		if one.used.Sub(began) < lostAfter/2 {
			delete(l.ends, id)
		}
	}
}

// knows reports whether a delivery is under way, or its end may not be written yet.
func (l *lanes) knows(id int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, known := l.ends[id]
	return known
}

// forgetEnds forgets those that are written, or lost.
func (l *lanes) forgetEnds() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, end := range l.ends {
		if !end.IsZero() && time.Since(end) > lostAfter {
			delete(l.ends, id)
		}
	}
}

func (l *lanes) isHeld(one *lane) bool {
	return slices.ContainsFunc(one.targets, func(target string) bool { return l.held[target] })
}

// hold is told which targets are held.
func (l *lanes) hold(targets []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.held)
	for _, target := range targets {
		l.held[target] = true
	}
}

// lanesWithWork skips from lane to lane by the index, however many deliveries there are.
const lanesWithWork = `WITH RECURSIVE lanes(name) AS (
	SELECT min(queue) FROM @job WHERE state = 'available' AND queue > 'fanout_'
	UNION ALL
	SELECT (SELECT min(queue) FROM @job WHERE state = 'available' AND queue > lanes.name) FROM lanes WHERE lanes.name IS NOT NULL
) SELECT name FROM lanes WHERE name IS NOT NULL AND name < 'fanout` + "`" + `'`

// keep opens lanes in which there is work, from a time before this process or by
// another one, and shuts those that have been idle for long.
func (l *lanes) keep(ctx context.Context) error {
	names, err := l.q.store.strings(ctx, lanesWithWork)
	if err != nil {
		return err
	}
	for _, name := range names {
		targets, err := l.targets(ctx, name)
		if err != nil {
			return err
		}
		if len(targets) > 0 {
			l.openIfShut(name, targets)
		}
	}
	for _, one := range l.idle() {
		if err := l.q.engine.shut(ctx, one.name); err != nil {
			return err
		}
		l.forget(one)
	}
	return nil
}

func (l *lanes) openIfShut(name string, targets []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if one := l.get(name, targets); !one.open && !one.opening && !l.isHeld(one) {
		l.openSoon(one)
	}
}

// targets are known for a lane that was used here, and else stand in any job of it.
func (l *lanes) targets(ctx context.Context, name string) ([]string, error) {
	l.mu.Lock()
	one := l.byName[name]
	l.mu.Unlock()
	if one != nil {
		return one.targets, nil
	}
	var targets []string
	err := l.q.store.each(ctx, "SELECT args->>'target', args->>'targets' FROM @job WHERE queue = $1 AND kind = 'fanout' AND state = 'available' LIMIT 1", []any{name}, func(rows *sql.Rows) error {
		var target, all sql.NullString
		if err := rows.Scan(&target, &all); err != nil {
			return err
		}
		if target.String != "" {
			targets = []string{target.String}
			return nil
		}
		return json.Unmarshal([]byte(all.String), &targets)
	})
	return targets, err
}

func (l *lanes) idle() []*lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	var idle []*lane
	for name, one := range l.byName {
		switch {
		case one.running > 0 || one.opening || time.Since(one.used) < idleFor:
		case one.open:
			one.opening = true // nobody opens it meanwhile
			idle = append(idle, one)
		default:
			delete(l.byName, name)
		}
	}
	return idle
}

// forget opens a lane again if it was used while it was being shut.
func (l *lanes) forget(one *lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one.open, one.opening = false, false
	if time.Since(one.used) < idleFor {
		l.openSoon(one)
		return
	}
	delete(l.byName, one.name)
}

// together names the lanes of sagas with the target.
func (l *lanes) together(target string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for name, one := range l.byName {
		if len(one.targets) > 1 && slices.Contains(one.targets, target) {
			names = append(names, name)
		}
	}
	return names
}

// revived wakes a lane in whose deliveries something was changed, wherever it is
// open. One that is open nowhere is found by keep.
func (l *lanes) revived(ctx context.Context, name string) {
	l.mu.Lock()
	one := l.byName[name]
	l.mu.Unlock()
	if one != nil {
		l.wake(name, one.targets)
	}
	if l.announce != nil {
		l.announce(ctx, name)
	}
}
