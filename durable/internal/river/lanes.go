package river

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// lanes are River's queues: one for each target, or for each set of targets whose
// deliveries are made together. A lane is open while there is work in it, and for idleFor
// after, as each open lane costs a look into the database every second.
type lanes struct {
	tables      *tables
	client      client
	holds       *Holds
	concurrency func(target string) int
	complain    func(what string, err error)

	wakeOpen func(lane string)                      // on SQLite; it does not wait
	announce func(ctx context.Context, lane string) // on Postgres, where River does it for what is inserted

	delivering atomic.Bool // false in a process that only submits, or looks
	idleFor    time.Duration

	mu     sync.Mutex
	byName map[string]*lane
}

// lane is one of River's queues. It goes from shut to opening, open, shutting and back to
// shut. It is stuck if it could not be shut, and then it is tried again.
type lane struct {
	name    string
	targets []string
	state   laneState
	running int
	used    time.Time
	blocked time.Time // since when nothing is let through to its targets; zero if something is
}

type laneState int

const (
	shut laneState = iota
	opening
	open
	shutting
	stuck // on a delivery that it fetched when it was to be shut
)

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
	case !l.delivering.Load(), l.holds.any(one.targets):
	case one.state == shut:
		l.openSoon(one)
	case one.state == open && l.wakeOpen != nil:
		l.wakeOpen(name)
	}
}

// openSoon opens a lane in the background. A lane that was opened looks for work at once.
// l.mu is held.
func (l *lanes) openSoon(one *lane) {
	one.state = opening
	workers := 0
	for _, target := range one.targets {
		workers = max(workers, l.concurrency(target))
	}
	go func() {
		err := l.client.open(one.name, workers)
		l.mu.Lock()
		defer l.mu.Unlock()
		one.state = open
		if err != nil {
			one.state = shut
			l.complain("opening a lane", err)
		}
	}()
}

// begin is called when a delivery begins; what it returns, when it has ended.
func (l *lanes) begin(name string, targets []string) (end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.get(name, targets)
	one.running++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		one.running--
		one.used = time.Now()
	}
}

// notLetThrough is told that a target let nothing through, such as by an open breaker. It
// returns for how long to leave the lane's targets alone: as long as that has lasted, at
// least 2 s and at most a minute. So a large backlog does not keep the database busy.
func (l *lanes) notLetThrough(name string, targets []string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.get(name, targets)
	if one.blocked.IsZero() {
		one.blocked = time.Now()
	}
	return min(max(time.Since(one.blocked), 2*time.Second), time.Minute)
}

// letThrough is told that something was let through.
func (l *lanes) letThrough(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if one := l.byName[name]; one != nil {
		one.blocked = time.Time{}
	}
}

// lanesWithWork skips from lane to lane by the index, however many deliveries there are.
const lanesWithWork = `WITH RECURSIVE lanes(name) AS (
	SELECT min(queue) FROM @job WHERE state = 'available' AND queue > 'fanout_'
	UNION ALL
	SELECT (SELECT min(queue) FROM @job WHERE state = 'available' AND queue > lanes.name) FROM lanes WHERE lanes.name IS NOT NULL
) SELECT name FROM lanes WHERE name IS NOT NULL AND name < 'fanout` + "`" + `'`

// openWithWork opens lanes in which there is work from a time before this process, or by
// another one.
func (l *lanes) openWithWork(ctx context.Context) error {
	names, err := l.tables.strings(ctx, lanesWithWork)
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
	if one := l.get(name, targets); one.state == shut && !l.holds.any(one.targets) {
		l.openSoon(one)
	}
}

// targets are known for a lane that was used here. Else they stand in any of its jobs.
func (l *lanes) targets(ctx context.Context, name string) ([]string, error) {
	l.mu.Lock()
	one := l.byName[name]
	l.mu.Unlock()
	if one != nil {
		return one.targets, nil
	}
	var targets []string
	err := l.tables.each(ctx, "SELECT args->>'target', args->>'targets' FROM @job WHERE queue = $1 AND kind = 'fanout' AND state = 'available' LIMIT 1", []any{name}, func(rows *sql.Rows) error {
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

// shutIdle shuts lanes that have been idle for long, or whose targets are held.
func (l *lanes) shutIdle(ctx context.Context) {
	for _, one := range l.toShut() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutTimeout)
		err := l.client.shut(ctx, one.name)
		cancel()
		l.wasShut(one, err)
	}
}

// toShut marks them as shutting, so that nobody opens them meanwhile.
func (l *lanes) toShut() []*lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []*lane
	for name, one := range l.byName {
		held, idle := l.holds.any(one.targets), time.Since(one.used) >= l.idleFor
		switch {
		case one.running > 0:
		case one.state == shut && idle && !held:
			delete(l.byName, name)
		case one.state == open && (idle || held), one.state == stuck:
			one.state = shutting
			all = append(all, one)
		}
	}
	return all
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
		l.complain("shutting a lane", err)
	case l.holds.any(one.targets):
	case time.Since(one.used) < l.idleFor:
		l.openSoon(one)
	default:
		delete(l.byName, one.name)
	}
}

// changed wakes a lane in which a job was made available, in whatever process it is open.
// One that is open nowhere is found by openWithWork.
func (l *lanes) changed(ctx context.Context, name string) {
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
