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

// lanes manages River's queues. A lane is one of River's queues: the queue of one target,
// or of a set of targets whose deliveries are made together. For example, the target
// "email" has a lane, and a saga of "stock" and "payment" has another one.
//
// A lane is open while there is work in it, and for idleFor after that. An open lane
// costs a query every second, so that lanes without work are shut.
type lanes struct {
	tables      *tables
	client      client
	holds       *Holds
	concurrency func(target string) int
	complain    func(what string, err error)

	wakeOpen func(lane string)                      // wakes an open lane, on SQLite; it does not wait
	announce func(ctx context.Context, lane string) // wakes it in all processes, on Postgres; for inserts River does so

	delivering atomic.Bool // false in a process that only submits, or only inspects
	idleFor    time.Duration

	mu     sync.Mutex
	byName map[string]*lane
}

// lane is one of River's queues. Its state goes from shut to opening, open, shutting, and
// back to shut. It is stuck if it could not be shut. Shutting it is then tried again.
type lane struct {
	name        string
	targets     []string
	state       laneState
	running     int
	used        time.Time
	closedSince time.Time // since when its targets' gates let nothing through; zero if they do
}

type laneState int

const (
	shut laneState = iota
	opening
	open
	shutting
	stuck // it fetched a delivery just when it was to be shut
)

// get finds or makes a lane. The caller holds l.mu.
func (l *lanes) get(name string, targets []string) *lane {
	one := l.byName[name]
	if one == nil {
		one = &lane{name: name, targets: targets}
		l.byName[name] = one
	}
	one.used = time.Now()
	return one
}

// wake makes a lane look for work now. It does not wait for the database: the caller may
// have a transaction open that occupies the only connection.
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

// openSoon opens a lane in the background. An opened lane looks for work at once. The
// caller holds l.mu.
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

// begin is called when a delivery begins. The function that it returns is called when the
// delivery has ended.
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

// notLetThrough is called when a gate of a target, such as an open breaker, did not let a
// delivery through. It returns how long the delivery should wait: as long as the gate has
// been closed, at least 2 s and at most a minute. For example, if the breaker has been
// open for 20 s, the delivery waits 20 s. So a large backlog does not keep the database
// busy.
func (l *lanes) notLetThrough(name string, targets []string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.get(name, targets)
	if one.closedSince.IsZero() {
		one.closedSince = time.Now()
	}
	return min(max(time.Since(one.closedSince), 2*time.Second), time.Minute)
}

// letThrough is called when a delivery got through the gates of its targets.
func (l *lanes) letThrough(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if one := l.byName[name]; one != nil {
		one.closedSince = time.Time{}
	}
}

// lanesWithWork finds the names of lanes with the index on queues: one step for each
// lane, however many jobs a lane has.
const lanesWithWork = `WITH RECURSIVE lanes(name) AS (
	SELECT min(queue) FROM @job WHERE state = 'available' AND queue > 'fanout_'
	UNION ALL
	SELECT (SELECT min(queue) FROM @job WHERE state = 'available' AND queue > lanes.name) FROM lanes WHERE lanes.name IS NOT NULL
) SELECT name FROM lanes WHERE name IS NOT NULL AND name < 'fanout` + "`" + `'`

// openWithWork opens lanes that have work which this process was not told of: work from
// before its start, or from another process.
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

// openIfShut opens a lane, unless its targets are held.
func (l *lanes) openIfShut(name string, targets []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if one := l.get(name, targets); one.state == shut && !l.holds.any(one.targets) {
		l.openSoon(one)
	}
}

// targets returns the targets of a lane. If the lane is not known in this process, it
// reads them from any of the lane's jobs.
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

// shutIdle shuts lanes that have been idle for idleFor, or whose targets are held.
func (l *lanes) shutIdle(ctx context.Context) {
	for _, one := range l.toShut() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutTimeout)
		err := l.client.shut(ctx, one.name)
		cancel()
		l.wasShut(one, err)
	}
}

// toShut returns the lanes to be shut. It marks them as shutting, so that nobody opens
// one at the same time.
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

// wasShut ends what toShut began. If the lane was used meanwhile, it is opened again: a
// wake during that time saw the state "shutting" and did nothing.
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

// changed wakes a lane in which a job was made available, in every process in which it is
// open. If no process has it open, openWithWork finds it.
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
