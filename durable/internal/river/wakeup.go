package river

import (
	"context"
	"sync"

	"github.com/riverqueue/river/riverdriver"
)

// wakingDriver is River's SQLite driver, and wakes lanes in addition. SQLite cannot
// notify other connections of an insert, so River would query a table every 50 ms. As
// only one process delivers from a file, this process can wake its lanes directly.
type wakingDriver[Tx any] struct {
	riverdriver.Driver[Tx]
	listener *listener
}

func newWakingDriver[Tx any](driver riverdriver.Driver[Tx]) *wakingDriver[Tx] {
	return &wakingDriver[Tx]{driver, &listener{notes: make(chan struct{}, 1), due: map[string]bool{}}}
}

func (d *wakingDriver[Tx]) SupportsListener() bool     { return true }
func (d *wakingDriver[Tx]) SupportsListenNotify() bool { return false }
func (d *wakingDriver[Tx]) GetListener(params *riverdriver.GetListenenerParams) riverdriver.Listener {
	d.listener.schema = params.Schema
	return d.listener
}

// listener passes the names of lanes to River. A lane that is woken several times before
// River asks is passed once.
type listener struct {
	schema string
	notes  chan struct{} // has an element if due is not empty

	mu  sync.Mutex
	due map[string]bool
}

func (l *listener) wake(lane string) {
	l.mu.Lock()
	l.due[lane] = true
	l.mu.Unlock()
	select {
	case l.notes <- struct{}{}:
	default:
	}
}

func (l *listener) next() (lane string, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for lane = range l.due {
		delete(l.due, lane)
		return lane, true
	}
	return "", false
}

// WaitForNotification implements [riverdriver.Listener].
func (l *listener) WaitForNotification(ctx context.Context) (*riverdriver.Notification, error) {
	for {
		if lane, ok := l.next(); ok {
			return &riverdriver.Notification{Topic: "river_insert", Payload: `{"queue": "` + lane + `"}`}, nil
		}
		select {
		case <-l.notes:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *listener) Close(context.Context) error            { return nil }
func (l *listener) Connect(context.Context) error          { return nil }
func (l *listener) Listen(context.Context, string) error   { return nil }
func (l *listener) Unlisten(context.Context, string) error { return nil }
func (l *listener) Ping(context.Context) error             { return nil }
func (l *listener) Schema() string                         { return l.schema }
func (l *listener) SetAfterConnectExec(string)             {}
