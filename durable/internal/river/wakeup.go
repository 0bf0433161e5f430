package river

import (
	"context"
	"sync"

	"github.com/riverqueue/river/riverdriver"
)

// wakingDriver is a driver of River's for SQLite, which tells nobody of what is inserted.
// River's own way is to look into a table every 50 ms. As one process delivers from a
// file, it can be told directly.
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

// listener hands each lane that is to be woken to River once.
type listener struct {
	schema string
	notes  chan struct{} // says that some are due

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
