package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

// wire connects the contenders with their targets.
type wire struct {
	name      string
	urls      func(n int) []string
	transport func() http.RoundTripper // nil: each contender uses its own
}

// memory answers every request at once, without a network.
var memory = wire{
	name: "memory",
	urls: func(n int) []string {
		urls := make([]string, n)
		for i := range urls {
			urls[i] = fmt.Sprintf("http://target-%d.example/v1/events", i)
		}
		return urls
	},
	transport: func() http.RoundTripper { return atOnce{} },
}

type atOnce struct{}

var answerHeader = http.Header{"Content-Type": {"application/json"}}

func (atOnce) RoundTrip(r *http.Request) (*http.Response, error) {
	_, _ = io.Copy(io.Discard, r.Body)
	_ = r.Body.Close()
	return &http.Response{StatusCode: http.StatusAccepted, Header: answerHeader, Body: http.NoBody, Request: r}, nil
}

// newTransport returns net/http's transport with enough idle connections.
func newTransport() http.RoundTripper {
	return &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute}
}

// servers are targets on loopback addresses. They run in a process of their own, so that
// their CPU time and allocations are not counted for the contenders.
type servers struct {
	process *exec.Cmd
	stdin   io.Closer
	all     []string
}

const serveArgument = "serve-targets"

func startServers(n int) (*servers, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &servers{process: exec.Command(self, serveArgument)} //nolint:gosec,noctx // it is this program, and is stopped
	s.process.Stderr = os.Stderr
	stdin, err := s.process.StdinPipe()
	if err != nil {
		return nil, err
	}
	s.stdin = stdin
	stdout, err := s.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.process.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(stdout)
	for len(s.all) < n && lines.Scan() {
		s.all = append(s.all, lines.Text())
	}
	if len(s.all) < n {
		s.stop()
		return nil, fmt.Errorf("only %d of %d servers started", len(s.all), n)
	}
	return s, nil
}

func (s *servers) stop() {
	_ = s.stdin.Close()
	_ = s.process.Wait()
}

func (s *servers) wire() wire {
	return wire{name: "loopback", urls: func(n int) []string { return s.all[:n] }}
}

// serve runs in the process of the servers until its standard input ends.
func serve() {
	accept := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusAccepted)
	})
	for range counts[len(counts)-1] {
		listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // nothing to cancel
		if err != nil {
			fmt.Fprintln(os.Stderr, strings.TrimSpace(err.Error()))
			return
		}
		go func() { _ = http.Serve(listener, accept) }() //nolint:gosec // for this program only
		fmt.Printf("http://%s/v1/events\n", listener.Addr())
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}
