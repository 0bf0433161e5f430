package fanouttest

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"

	"github.com/fanout-go/fanout"
)

// TB is the part of [testing.TB] that a fake needs. Anything that calls the functions at
// its end will do.
type TB interface {
	Cleanup(func())
}

// Target is a fake target API. It is safe for concurrent use.
type Target struct {
	script      script[Step]
	received    record[Request]
	connections atomic.Int64
	url         string
	transport   *http.Transport // nil on loopback
}

// NewTarget starts a fake on a loopback address. It takes the steps one after the other,
// one for each request, and repeats the last one. Without steps it answers 200 and "{}".
// It is closed at the end of the test. Steps that are still running are then ended.
func NewTarget(t TB, steps ...Step) *Target {
	f := newFake(steps)
	server := httptest.NewUnstartedServer(nil)
	f.start(t, server)
	f.url = server.URL
	return f
}

// NewMemoryTarget is like [NewTarget], but without a network: a real server and a real
// [http.Transport] are connected by [net.Pipe]. If it is made and used only within a
// [testing/synctest] bubble, everything in it waits in virtual time.
func NewMemoryTarget(t TB, steps ...Step) *Target {
	f := newFake(steps)
	pipes := newPipeListener()
	f.start(t, &httptest.Server{Listener: pipes, Config: &http.Server{}}) //nolint:gosec // it lives for one test
	f.url = "http://" + memoryHost
	f.transport = &http.Transport{DialContext: pipes.dial}
	t.Cleanup(f.transport.CloseIdleConnections)
	return f
}

func newFake(steps []Step) *Target {
	if len(steps) == 0 {
		steps = []Step{Reply(http.StatusOK, "{}")}
	}
	return &Target{script: script[Step]{steps: steps}}
}

func (f *Target) start(t TB, server *httptest.Server) {
	ctx, cancel := context.WithCancel(context.Background())
	server.Config.Handler = http.HandlerFunc(f.serve)
	server.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // its errors are intended
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			f.connections.Add(1)
		}
	}
	server.Start()
	t.Cleanup(func() {
		cancel()
		server.CloseClientConnections()
		server.Close()
	})
}

// serve reads the whole request before it calls the step. So the recorded request is
// complete, and the server notices when the client disconnects.
func (f *Target) serve(w http.ResponseWriter, r *http.Request) {
	request, err := receive(r)
	if err != nil {
		return
	}
	step := f.script.next()
	f.received.add(request)
	step(w, r)
}

// Target returns the definition of a target that uses this fake. Add what the test is
// about: a method, a path, a policy.
func (f *Target) Target(name string) fanout.Target {
	t := fanout.Target{Name: name, URL: f.url}
	if f.transport != nil {
		t.Transport = f.transport
	}
	return t
}

// For returns a definition that uses this fake, but keeps the path and query of t. It is
// for targets that were loaded from a file.
func (f *Target) For(t fanout.Target) fanout.Target {
	if u, err := url.Parse(t.URL); err == nil {
		t.URL = f.url + u.RequestURI()
	}
	t.Transport = f.Target(t.Name).Transport
	return t
}

// URL returns the address of the fake. For a fake in memory it is useless without the
// transport that [Target.Target] sets.
func (f *Target) URL() string { return f.url }

// Requests returns the requests that arrived so far, the first one first.
func (f *Target) Requests() []Request { return f.received.all() }

// Count returns the number of requests that arrived so far.
func (f *Target) Count() int { return len(f.received.all()) }

// Wait waits until n requests have arrived. If ctx ends before, it returns ctx's error.
func (f *Target) Wait(ctx context.Context, n int) error { return f.received.wait(ctx, n) }

// Connections returns the number of connections that the fake has accepted so far.
func (f *Target) Connections() int { return int(f.connections.Load()) }
