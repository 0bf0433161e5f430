package fanout_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestGuard_KnowsAddressesInAnySpelling(t *testing.T) {
	const ok, no = true, false
	// What is let through goes to a proxy, so that nothing leaves this machine.
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer proxy.Close()
	through, err := url.Parse(proxy.URL)
	require.NoError(t, err)
	guard := &fanout.Guard{Proxy: through}
	for host, public := range map[string]bool{
		"1.1.1.1": ok, "8.8.8.8": ok, "93.184.216.34": ok, "100.63.255.255": ok, "100.128.0.1": ok, "172.15.255.255": ok, "172.32.0.1": ok,
		"192.167.255.255": ok, "192.169.0.1": ok, "169.253.255.255": ok, "198.17.255.255": ok, "198.20.0.1": ok, "223.255.255.254": ok, "11.0.0.1": ok, "126.255.255.255": ok, "128.0.0.1": ok,
		"[2606:4700:4700::1111]": ok, "[2a00:1450:4001:80b::200e]": ok, "[2620:fe::fe]": ok, "[2003::1]": ok,

		"127.0.0.1": no, "127.1.2.3": no, "127.255.255.255": no, "0.0.0.0": no, "0.1.2.3": no,
		"10.0.0.1": no, "10.255.255.255": no, "172.16.0.1": no, "172.31.255.255": no, "192.168.0.1": no, "192.168.255.255": no,
		"169.254.169.254": no, "169.254.0.1": no, "169.254.170.2": no, "168.63.129.16": no, "100.64.0.1": no, "100.100.100.200": no, "100.127.255.255": no,
		"192.0.0.192": no, "192.0.2.1": no, "192.88.99.1": no, "198.18.0.1": no, "198.19.255.255": no, "198.51.100.7": no, "203.0.113.7": no,
		"224.0.0.1": no, "239.255.255.255": no, "240.0.0.1": no, "255.255.255.255": no, "192.31.196.1": no, "192.52.193.1": no, "192.175.48.1": no,
		"[::1]": no, "[::]": no, "[0:0:0:0:0:0:0:1]": no, "[::127.0.0.1]": no, "[::ffff:127.0.0.1]": no, "[::ffff:7f00:1]": no, "[::ffff:169.254.169.254]": no, "[::ffff:a9fe:a9fe]": no, "[::ffff:10.0.0.1]": no,
		"[::ffff:8.8.8.8]": ok, "[64:ff9b::8.8.8.8]": ok, "[64:ff9b::808:808]": ok, "[64:ff9b::a9fe:a9fe]": no, "[64:ff9b::7f00:1]": no, "[64:ff9b::a00:1]": no, "[64:ff9b::c000:201]": no,
		"[64:ff9b::6440:1]": no, "[64:ff9b::a83f:8110]": no, "[64:ff9b:1::1]": no, "[64:ff9b:1::808:808]": no, "[64:ff9b::1:808:808]": no,
		"[2002:7f00:1::]": no, "[2002:a9fe:a9fe::1]": no, "[2001:0:1::1]": no, "[2001::1]": no, "[2001:db8::1]": no, "[2001:10::1]": no, "[2001:20::1]": no, "[2620:4f:8000::1]": no, "[3fff::1]": no,
		"[fc00::1]": no, "[fd00:ec2::254]": no, "[fe80::1]": no, "[fe80::1%25eth0]": no, "[febf::1]": no, "[fec0::1]": no, "[ff02::1]": no, "[100::1]": no, "[5f00::1]": no, "[4000::1]": no,
	} {
		d := newDispatcher(t, fanout.Target{Name: "hook", URL: "http://" + host + "/", Guard: guard})
		r := dispatch(t.Context(), d)["hook"]
		if public {
			require.NoError(t, r.Err(), host)
		} else {
			require.ErrorIs(t, r.Err(), fanout.ErrAddressBlocked, host)
		}
	}
}

func TestGuard_NamesThatMeanLoopbackToSomeResolversReachNothing(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("reached") }))
	defer server.Close()
	port := strconv.Itoa(server.Listener.Addr().(*net.TCPAddr).Port)
	guard := &fanout.Guard{AnyPort: true}
	for _, host := range []string{"localhost", "LOCALHOST", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "127.0.0.1.", "localhost."} {
		d := newDispatcher(t, with(fanout.Target{Name: "hook", URL: "http://" + host + ":" + port, Guard: guard}, fanout.Policy{Timeout: 2 * time.Second}))
		assert.NotEqual(t, fanout.Delivered, dispatch(t.Context(), d)["hook"].Outcome, host)
	}
}

func TestGuard_LooksAtWhatIsDialled(t *testing.T) {
	var reached int
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }))
	defer server.Close()
	address := server.Listener.Addr().(*net.TCPAddr)
	port := uint16(address.Port)
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	byName := "http://localhost:" + strconv.Itoa(address.Port) + "/x"
	for name, test := range map[string]struct {
		url   string
		guard fanout.Guard
		want  string // of the error; empty if it is let through
	}{
		"public only":           {server.URL, fanout.Guard{}, "port " + strconv.Itoa(address.Port)},
		"no ports":              {server.URL, fanout.Guard{Ports: []uint16{}}, "port " + strconv.Itoa(address.Port)},
		"any port":              {server.URL, fanout.Guard{AnyPort: true}, "127.0.0.1 is not public"},
		"a name":                {byName, fanout.Guard{AnyPort: true}, "is not public"},
		"allowed":               {server.URL, fanout.Guard{Ports: []uint16{port}, Allow: []netip.Prefix{loopback}}, ""},
		"allowed, not the port": {server.URL, fanout.Guard{Allow: []netip.Prefix{loopback}}, "port " + strconv.Itoa(address.Port)},
		"allowed and denied":    {server.URL, fanout.Guard{Ports: []uint16{port}, Allow: []netip.Prefix{loopback}, Deny: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}, "127.0.0.1 is in Guard.Deny"},
	} {
		reached = 0
		target := fanout.Target{Name: "hook", URL: test.url, Guard: &test.guard}
		r := dispatch(t.Context(), newDispatcher(t, target))["hook"]
		if test.want == "" {
			require.NoError(t, r.Err(), name)
			continue
		}
		require.ErrorContains(t, r.Err(), test.want, name)
		require.ErrorIs(t, r.Err(), fanout.ErrAddressBlocked, name)
		assert.Equal(t, fanout.Failed, r.Outcome, name)
		assert.Len(t, r.Attempts, 1, "%s: not retried", name)
		assert.Zero(t, reached, name)
	}
}

func TestGuard_TargetsUseNobodyElsesConnections(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	d := newDispatcher(t, fanout.Target{Name: "own", URL: server.URL}, fanout.Target{Name: "hook", URL: server.URL, Guard: &fanout.Guard{AnyPort: true}})
	require.NoError(t, dispatch(t.Context(), d, fanout.To("own"))["own"].Err(), "whose connection is now idle")
	require.ErrorIs(t, dispatch(t.Context(), d, fanout.To("hook"))["hook"].Err(), fanout.ErrAddressBlocked)
}

func TestGuard_AProxyIsOnlyUsedOnPurpose(t *testing.T) {
	var asked string
	proxy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked = r.URL.String() }))
	defer proxy.Close()
	t.Setenv("HTTP_PROXY", proxy.URL)
	through, err := url.Parse(proxy.URL)
	require.NoError(t, err)
	guard := &fanout.Guard{Proxy: through}
	for address, blocked := range map[string]bool{"http://hook.example/x": false, "http://10.0.0.1/x": true, "http://hook.example:22/x": true, "http://[::1]/x": true,
		"http://127.1/x": true, "http://2130706433/x": true, "http://0x7f.0.0.1/x": true, "http://127.0.0.1./x": true, "http://\u2460\u2461\u2466.0.0.1/x": true, "http://\u2139.example/x": true, "http://127.0.0.1;x.example/": true, "http://127.0.0.1,x/": true, "http://[2606:4700::1%25x]/": true, "http://a-b_c.hook.example/x": false} {
		asked = ""
		r := dispatch(t.Context(), newDispatcher(t, fanout.Target{Name: "hook", URL: address, Guard: guard}))["hook"]
		if blocked {
			require.ErrorIs(t, r.Err(), fanout.ErrAddressBlocked, address)
			assert.Empty(t, asked)
		} else {
			require.NoError(t, r.Err())
			assert.Equal(t, address, asked)
		}
	}
}

func TestGuard_WhatAProxySaysIsNotRepeated(t *testing.T) {
	proxy := listener(t, func(c *net.TCPConn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 407 s3cr3t\r\nContent-Length: 0\r\n\r\n")
	})
	guard := &fanout.Guard{Proxy: &url.URL{Scheme: "http", Host: proxy}}
	r := deliverTo(t, fanout.Target{Name: "hook", URL: "https://hook.example", Guard: guard}, once)
	require.ErrorContains(t, r.Err(), "proxy: 407 Proxy Authentication Required")
	assert.NotContains(t, r.Err().Error(), "s3cr3t")
}

func TestGuard_AProxyOverTLSIsNotShownTheCertificateForTheTarget(t *testing.T) {
	guard := &fanout.Guard{Proxy: &url.URL{Scheme: "https", Host: "127.0.0.1:1"}}
	r := deliverTo(t, fanout.Target{Name: "hook", URL: "https://hook.example", Guard: guard, TLS: &fanout.TLS{}}, once)
	require.ErrorContains(t, r.Err(), "an https proxy cannot be used together with TLS settings of a target")
}

func TestGuard_EqualGuardsShareConnections(t *testing.T) {
	var connections atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	d := newDispatcher(t)
	for i := range 10 {
		guard := &fanout.Guard{AnyPort: true, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
		target := fanout.Target{Name: fmt.Sprint("hook ", i), URL: server.URL, Guard: guard}
		require.NoError(t, dispatch(t.Context(), d, fanout.ToTargets(target)).Err())
	}
	assert.EqualValues(t, 1, connections.Load())
}

func TestGuard_ChangedLaterGuardsAsBefore(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("reached") }))
	defer server.Close()
	guard := &fanout.Guard{AnyPort: true, Deny: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
	d := newDispatcher(t, fanout.Target{Name: "hook", URL: server.URL, Guard: guard})
	guard.Deny[0], guard.Allow = netip.MustParsePrefix("10.0.0.0/8"), []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	require.ErrorContains(t, dispatch(t.Context(), d)["hook"].Err(), "127.0.0.1 is in Guard.Deny")
}

func TestGuard_ThatCannotWorkIsRefused(t *testing.T) {
	for want, guard := range map[string]*fanout.Guard{
		"Guard: an invalid prefix": {Allow: []netip.Prefix{{}}},
		"Guard: ::ffff:10.0.0.0/104 is IPv4 mapped to IPv6: write it as IPv4": {Deny: []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}},
		"Guard.AnyPort: set together with Ports":                              {AnyPort: true, Ports: []uint16{8443}},
		"Guard.Proxy: no host":                                                {Proxy: &url.URL{Path: "proxy.example"}},
	} {
		_, err := fanout.New(fanout.Config{Targets: []fanout.Target{{Name: "hook", URL: "https://hook.example", Guard: guard}}})
		require.EqualError(t, err, `fanout: target "hook": `+want)
	}
}

func TestGuard_ABlockedAddressSaysNothingAboutTheTarget(t *testing.T) {
	d := newDispatcher(t, fanout.Target{Name: "hook", URL: "http://10.0.0.1", Guard: fanout.PublicOnly(), Policy: fanout.Policy{Breaker: fanout.Breaker{ConsecutiveFailures: 1}}})
	for range 3 {
		require.ErrorIs(t, dispatch(context.Background(), d)["hook"].Err(), fanout.ErrAddressBlocked)
	}
	state, _ := d.BreakerState("hook")
	assert.Equal(t, fanout.BreakerClosed, state)
}

func TestGuard_PublicOnlyIsNobodyElses(t *testing.T) {
	fanout.PublicOnly().AnyPort = true
	assert.Equal(t, &fanout.Guard{}, fanout.PublicOnly())
}
