package durable

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
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

	idleFor time.Duration // a lane without work stays open

	mu     sync.Mutex
	byName map[string]*lane
	held   map[string]bool     // targets
	ends   map[int64]time.Time // of deliveries that took long; zero while they are under way
}

type lane struct {
	name    string
	targets []string
	state   laneState
	running int
	used    time.Time
	barred  time.Time // since when nothing is let through to its targets; zero if something is
}

type laneState int

const (
	shut laneState = iota
	opening
	open
	shutting
	stuck // on a delivery that it fetched when it was to be shut
)

func (l *lanes) init(q *Queue) {
	l.q, l.byName, l.held = q, map[string]*lane{}, map[string]bool{}
	l.ends, l.idleFor = map[int64]time.Time{}, time.Minute
}

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
	case !l.q.delivers(), l.isHeld(one.targets):
	case one.state == shut:
		l.openSoon(one)
	case one.state == open && l.wakeLane != nil:
		l.wakeLane(name)
	}
}

// openSoon opens a lane in the background, which looks for work at once. l.mu is held.
func (l *lanes) openSoon(one *lane) {
	one.state = opening
	workers := 0
	for _, target := range one.targets {
		workers = max(workers, l.q.config.concurrency(target))
	}
	go func() {
		err := l.q.engine.open(one.name, river.QueueConfig{MaxWorkers: workers})
		l.mu.Lock()
		defer l.mu.Unlock()
		one.state = open
		if err != nil {
			one.state = shut
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

// postponed is how long to leave a lane's targets alone that let nothing through: as
// long as that lasts already, so that a large backlog does not keep the database busy.
func (l *lanes) postponed(name string, targets []string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.get(name, targets)
	if one.barred.IsZero() {
		one.barred = time.Now()
	}
	return min(max(time.Since(one.barred), 2*time.Second), time.Minute)
}

// letThrough is told that something was.
func (l *lanes) letThrough(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if one := l.byName[name]; one != nil {
		one.barred = time.Time{}
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

func (l *lanes) isHeld(targets []string) bool {
	return slices.ContainsFunc(targets, func(target string) bool { return l.held[target] })
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
// another one, and shuts those that are held or have been idle for long.
func (l *lanes) keep(ctx context.Context) error {
	l.shutThoseWithout(ctx)
	return l.openThoseWithWork(ctx)
}

func (l *lanes) openThoseWithWork(ctx context.Context) error {
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
	return nil
}

func (l *lanes) openIfShut(name string, targets []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if one := l.get(name, targets); one.state == shut && !l.isHeld(one.targets) {
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

// shutTimeout bounds the wait for a delivery that a lane fetched just when it was to be
// shut, while which no other lane can be opened.
const shutTimeout = 200 * time.Millisecond

// shutThoseWithout shuts lanes without work, or whose targets are held.
func (l *lanes) shutThoseWithout(ctx context.Context) {
	for _, one := range l.without() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutTimeout)
		err := l.q.engine.shut(ctx, one.name)
		cancel()
		l.wasShut(one, err)
	}
}

func (l *lanes) without() []*lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	var without []*lane
	for name, one := range l.byName {
		held, idle := l.isHeld(one.targets), time.Since(one.used) >= l.idleFor
		switch {
		case one.running > 0:
		case one.state == shut && idle && !held:
			delete(l.byName, name)
		case one.state == open && (idle || held), one.state == stuck:
			one.state = shutting // nobody opens it meanwhile
			without = append(without, one)
		}
	}
	return without
}

// wasShut opens a lane again if it was used while it was being shut.
func (l *lanes) wasShut(one *lane, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one.state = shut
	if err != nil {
		one.state = stuck
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
	case err != nil:
		l.q.complain("shutting a lane", err)
	case l.isHeld(one.targets):
	case time.Since(one.used) < l.idleFor:
		l.openSoon(one)
	default:
		delete(l.byName, one.name)
	}
}

// holds reports whether one of the targets is held.
func (l *lanes) holds(targets []string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.isHeld(targets)
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
