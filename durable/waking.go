package durable

import (
	"context"
	"errors"
	"sync"

	"github.com/riverqueue/river/riverdriver"
)

// waking is a driver of River for a database that tells nobody of what is inserted.
// River's own looks into a table every 50 ms; as one process delivers from a file,
// it can be told directly.
type waking[Tx any] struct {
	riverdriver.Driver[Tx]
	listener *listener
}

func newWaking[Tx any](driver riverdriver.Driver[Tx]) *waking[Tx] {
	return &waking[Tx]{driver, &listener{notes: make(chan string, 1), due: map[string]bool{}}}
}

func (d *waking[Tx]) SupportsListener() bool     { return true }
func (d *waking[Tx]) SupportsListenNotify() bool { return false }
func (d *waking[Tx]) GetListener(params *riverdriver.GetListenenerParams) riverdriver.Listener {
	d.listener.schema = params.Schema
	return d.listener
}

// listener hands each lane that is to be woken to River once.
type listener struct {
	schema string
	notes  chan string // one that says that some are due

	mu  sync.Mutex
	due map[string]bool
}

func (l *listener) wake(lane string) {
	l.mu.Lock()
	l.due[lane] = true
	l.mu.Unlock()
	select {
	case l.notes <- "":
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

// errInUse is what the second process on a file gets.
var errInUse = errors.New("another queue, of this process or another, delivers from it")
