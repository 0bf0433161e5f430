package fanout

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// newTransport makes a transport for a dispatcher that was given none. It shares no
// settings, cookies or idle connections with anything else. When closing ends, its
// connections are closed. That includes connections which net/http is still opening for
// an attempt that has already given up.
func newTransport(closing context.Context, guard *Guard, tlsConfig *tls.Config) *ownTransport {
	dialer := &net.Dialer{Timeout: 3 * time.Second, KeepAlive: 30 * time.Second}
	proxy := http.ProxyFromEnvironment
	if guard != nil {
		dialer.Control = guard.control
		proxy = http.ProxyURL(guard.Proxy)
	}
	if tlsConfig != nil {
		proxy = inTheClear(proxy)
	}
	return &ownTransport{guard: guard, Transport: &http.Transport{
		Proxy: proxy,
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
			if answer.StatusCode != http.StatusOK {
				return fmt.Errorf("proxy: %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
			}
			return nil
		},
		TLSClientConfig: tlsConfig,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			defer context.AfterFunc(closing, cancel)()
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			counted := &countedConn{Conn: conn}
			counted.release = context.AfterFunc(closing, func() { _ = conn.Close() })
			return counted, nil
		},
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second},
		MaxIdleConns:           1024,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    10 * time.Second,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}}
}

// inTheClear refuses a proxy that is reached over TLS. net/http would show it the client
// certificate that is meant for the target.
func inTheClear(proxy func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	return func(r *http.Request) (*url.URL, error) {
		u, err := proxy(r)
		if u != nil && u.Scheme == "https" {
			return nil, errors.New("an https proxy cannot be used together with TLS settings of a target")
		}
		return u, err
	}
}

// ownTransport is a transport of the dispatcher. The type tells it from one that a user
// configured.
type ownTransport struct {
	*http.Transport
	guard *Guard // nil if the target is not guarded
}

// RoundTrip lets the guard check the URL first. With a proxy, the address of the target
// is not dialled here, so that nothing else could be checked.
func (t *ownTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.guard != nil {
		if err := t.guard.checkURL(r.URL); err != nil {
			_ = r.Body.Close()
			return nil, err
		}
	}
	return t.Transport.RoundTrip(r)
}

// transports holds the transports that a dispatcher has made, by guard and TLS settings.
type transports struct {
	closing context.Context // its end closes their connections

	mu   sync.Mutex
	made map[transportKey]http.RoundTripper
}

type transportKey struct {
	guard string
	tls   TLS
}

func (t *transports) get(guard *Guard, own *TLS) (http.RoundTripper, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := transportKey{guard: guard.settings()}
	if own != nil {
		key.tls = *own
	}
	if made, ok := t.made[key]; ok {
		return made, nil
	}
	if guard != nil {
		if err := guard.validate(); err != nil {
			return nil, err
		}
		guard = guard.clone()
	}
	var config *tls.Config
	if own != nil {
		var err error
		if config, err = own.config(); err != nil {
			return nil, err
		}
	}
	if t.made == nil {
		t.made = make(map[transportKey]http.RoundTripper)
	}
	t.made[key] = newTransport(t.closing, guard, config)
	return t.made[key], nil
}

// countedConn counts the bytes written to it. The count tells whether an attempt failed
// before or after its request was sent.
type countedConn struct {
	net.Conn
	written atomic.Int64
	release func() bool // lets closing forget the connection, which it would otherwise keep
}

func (c *countedConn) Close() error {
	c.release()
	return c.Conn.Close()
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

// wireTrace records what an attempt did on the wire. Its fields are atomic, because
// goroutines of the transport may still report after RoundTrip has returned.
type wireTrace struct {
	trace     httptrace.ClientTrace
	asked     atomic.Bool // a connection was requested; not so for a protocol that a user registered
	connected atomic.Bool
	conn      atomic.Pointer[countedConn] // nil if the transport is not ours
	before    atomic.Int64                // bytes written to conn for earlier requests
}

// watch adds its trace to the one that the context may have.
func (s *wireTrace) watch(ctx context.Context, own bool) context.Context {
	s.asked.Store(own)
	if !own {
		s.trace.GetConn = func(string) { s.asked.Store(true) }
	}
	s.trace.GotConn = s.gotConn
	return httptrace.WithClientTrace(ctx, &s.trace)
}

func (s *wireTrace) gotConn(info httptrace.GotConnInfo) {
	if conn := counted(info.Conn); conn != nil {
		s.before.Store(conn.written.Load())
		s.conn.Store(conn)
	}
	s.connected.Store(true)
}

// counted finds the countedConn below TLS. It returns nil for HTTP/2, where the number of
// bytes says nothing: another goroutine writes the request, possibly after RoundTrip has
// returned.
func counted(conn net.Conn) *countedConn {
	if secure, ok := conn.(*tls.Conn); ok {
		if secure.ConnectionState().NegotiatedProtocol == "h2" {
			return nil
		}
		conn = secure.NetConn()
	}
	c, _ := conn.(*countedConn)
	return c
}

// nothingSent reports whether it is certain that no byte of the request was sent.
func (s *wireTrace) nothingSent() bool {
	if !s.connected.Load() {
		return s.asked.Load()
	}
	conn := s.conn.Load()
	return conn != nil && conn.written.Load() == s.before.Load()
}
