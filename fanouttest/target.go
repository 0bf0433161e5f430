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

// TB is what a fake needs of a test: [testing.TB], or anything else that runs
// functions at its end.
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

// NewTarget starts a fake on loopback that takes the steps in turn, one for
// each request, and repeats the last one. Without steps it answers 200 and "{}".
// It is closed at the end of the test, and whatever it still does then ends.
func NewTarget(t TB, steps ...Step) *Target {
	f := newFake(steps)
	server := httptest.NewUnstartedServer(nil)
	f.start(t, server)
	f.url = server.URL
	return f
}

// NewMemoryTarget is a [NewTarget] without a network: a real server and a real
// [http.Transport] over [net.Pipe]. Made within a [testing/synctest] bubble, and
// used nowhere else, all of its waiting is in virtual time.
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
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // its troubles are on purpose
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

// serve takes the whole request before it acts, so that what was recorded is
// complete and the end of the client is noticed.
func (f *Target) serve(w http.ResponseWriter, r *http.Request) {
	request, err := receive(r)
	if err != nil {
		return
	}
	step := f.script.next()
	f.received.add(request)
	step(w, r)
}

// Target is a definition that goes to this fake. Add to it what the test is
// about: a method, a path, a policy.
func (f *Target) Target(name string) fanout.Target {
	t := fanout.Target{Name: name, URL: f.url}
	if f.transport != nil {
		t.Transport = f.transport
	}
	return t
}

// For is the definition, but sent to this fake, with the path and query it has:
// for targets that were loaded from a file.
func (f *Target) For(t fanout.Target) fanout.Target {
	if u, err := url.Parse(t.URL); err == nil {
		t.URL = f.url + u.RequestURI()
	}
	t.Transport = f.Target(t.Name).Transport
	return t
}

// URL is where the fake listens. That of one in memory means nothing without
// the transport in [Target.Target].
func (f *Target) URL() string { return f.url }

// Requests returns what arrived so far, attempt by attempt.
func (f *Target) Requests() []Request { return f.received.all() }

// Count is how many requests arrived so far.
func (f *Target) Count() int { return len(f.received.all()) }

// Wait returns when n requests have arrived, or with ctx's error.
func (f *Target) Wait(ctx context.Context, n int) error { return f.received.wait(ctx, n) }

// Connections is how many connections the fake has accepted so far.
func (f *Target) Connections() int { return int(f.connections.Load()) }
