package fanout_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

// wire is a transport in memory: a target as a function.
type wire func(*http.Request) (*http.Response, error)

// RoundTrip takes the body as a real transport must.
func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	_, _ = io.Copy(io.Discard, r.Body)
	_ = r.Body.Close()
	return w(r)
}

// roundTripper is a transport as a function, which may leave the body unread.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answering is a target that answers with the statuses in turn, the last one
// for ever.
func answering(statuses ...int) wire {
	next := inTurn(statuses...)
	return func(*http.Request) (*http.Response, error) { return answer(next(), "{}"), nil }
}

// hanging is a target that never answers.
func hanging(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// slow answers after d, or not at all if its context ends before.
func slow(d time.Duration) wire {
	return func(r *http.Request) (*http.Response, error) {
		select {
		case <-time.After(d):
			return answer(200, ""), nil
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}

// delayed answers after d, whatever the answer, or not at all if its context ends.
func delayed(d time.Duration, then wire) wire {
	return func(r *http.Request) (*http.Response, error) {
		select {
		case <-time.After(d):
			return then(r)
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}

// turns answers each request by the next of the functions, the last one for ever.
func turns(w ...wire) wire {
	next := inTurn(w...)
	return func(r *http.Request) (*http.Response, error) { return next()(r) }
}

// saying is answering, with a Retry-After in each answer that is not a success.
func saying(retryAfter string, statuses ...int) wire {
	next := inTurn(statuses...)
	return func(*http.Request) (*http.Response, error) {
		a := answer(next(), "")
		if a.StatusCode >= 300 {
			a.Header.Set("Retry-After", retryAfter)
		}
		return a, nil
	}
}

// lost is a target whose connection breaks before it has answered.
func lost(*http.Request) (*http.Response, error) { return nil, errors.New("connection lost") }

// answer is a target's answer with the status and body given.
func answer(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
}

// via is an HTTP target over the wire given.
func via(name string, w wire) fanout.Target {
	return fanout.Target{Name: name, URL: "https://" + name + ".example/v1", Transport: w}
}

// sending is a target with the function as its Sender.
func sending(name string, send fanout.SenderFunc) fanout.Target {
	return fanout.Target{Name: name, Sender: send}
}

// senderOf is a target named "crm" whose Sender always returns what is given.
func senderOf(response *fanout.Response, err error) fanout.Target {
	return sending("crm", func(context.Context, *fanout.Request) (*fanout.Response, error) { return response, err })
}

// misbehavingSenders are targets whose user code panics or ends its goroutine.
func misbehavingSenders() map[string]fanout.Target {
	return map[string]fanout.Target{
		"panic":  sending("bad", func(context.Context, *fanout.Request) (*fanout.Response, error) { panic("oops") }),
		"goexit": sending("bad", func(context.Context, *fanout.Request) (*fanout.Response, error) { runtime.Goexit(); return nil, nil }),
	}
}

// listening is a target on loopback that also counts its connections.
func listening(t *testing.T, handler http.HandlerFunc) (fanout.Target, *atomic.Int64) {
	t.Helper()
	var connections atomic.Int64
	server := httptest.NewUnstartedServer(handler)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	return fanout.Target{Name: "crm", URL: server.URL + "/contacts?list=7"}, &connections
}

// listener accepts connections and gives each to handle.
func listener(t *testing.T, handle func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() })
			handle(conn.(*net.TCPConn))
		}
	}()
	return l.Addr().String()
}

// peer is a server that is anything but HTTP: it takes a request's bytes and
// writes what it likes.
func peer(t *testing.T, answer func(request string) string) fanout.Target {
	t.Helper()
	return fanout.Target{Name: "crm", URL: "http://" + listener(t, func(conn *net.TCPConn) {
		request := make([]byte, 4096)
		n, _ := conn.Read(request)
		_, _ = io.WriteString(conn, answer(string(request[:n])))
	})}
}

// inTurn returns the values one after the other, and the last one for ever.
func inTurn[T any](values ...T) func() T {
	var mu sync.Mutex
	calls := 0
	return func() T {
		mu.Lock()
		defer mu.Unlock()
		calls++
		return values[min(calls, len(values))-1]
	}
}

// callLog is what was called, in order.
type callLog struct {
	mu      sync.Mutex
	entries []string
}

func (j *callLog) add(entry string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = append(j.entries, entry)
}

// step is a target that notes that it was called, and then does as told. So is its
// compensation.
func (j *callLog) step(name string, does, undoes wire) fanout.Target {
	noting := func(entry string, then wire) wire {
		return func(r *http.Request) (*http.Response, error) {
			j.add(entry)
			return then(r)
		}
	}
	t := via(name, noting(name, does))
	if undoes != nil {
		undo := via("", noting("undo "+name, undoes))
		undo.URL = "https://" + name + ".example/undo"
		t.Compensate = &undo
	}
	return t
}

func (j *callLog) count() map[string]int {
	j.mu.Lock()
	defer j.mu.Unlock()
	counts := map[string]int{}
	for _, call := range j.entries {
		counts[call]++
	}
	return maps.Clone(counts)
}

// readFunc is a reader as a function.
type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// errBroken is what a brokenReader returns.
var errBroken = errors.New("broken")

// brokenReader is a body that cannot be read.
type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }

// manualQueue gives its only delivery to whoever asks.
type manualQueue struct {
	worker   *fanout.Worker
	delivery *fanout.Delivery
}

func (q *manualQueue) Start(w *fanout.Worker) error { q.worker = w; return nil }
func (q *manualQueue) Submit(_ context.Context, all []fanout.Delivery) error {
	q.delivery = &all[0]
	return nil
}
func (q *manualQueue) Close(context.Context) error { return nil }

// deliver makes a round of the delivery.
func (q *manualQueue) deliver(ctx context.Context, n *crashingJournal) (fanout.Results, error) {
	return resultsByTarget(q.worker.Deliver(ctx, q.delivery, n.round()))
}

// unreadableBacklog is a queue in memory whose backlog cannot be read.
type unreadableBacklog struct{ fanout.Queue }

func (unreadableBacklog) Backlog(context.Context) ([]fanout.Backlog, error) {
	return nil, errors.New("database is away")
}

// wrappedQueue is a queue around another one.
type wrappedQueue struct{ inner fanout.Queue }

func (w wrappedQueue) Start(worker *fanout.Worker) error { return w.inner.Start(worker) }
func (w wrappedQueue) Submit(ctx context.Context, all []fanout.Delivery) error {
	return w.inner.Submit(ctx, all)
}
func (w wrappedQueue) Close(ctx context.Context) error { return w.inner.Close(ctx) }
func (w wrappedQueue) Unwrap() fanout.Queue            { return w.inner }

// closeCounter counts how often it is closed.
type closeCounter struct {
	fanout.Queue
	times int
	fails error
}

func (c *closeCounter) Start(w *fanout.Worker) error {
	if c.fails != nil {
		return c.fails
	}
	return c.Queue.Start(w)
}

func (c *closeCounter) Close(ctx context.Context) error {
	c.times++
	return c.Queue.Close(ctx)
}
