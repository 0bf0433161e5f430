package fanout

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"unicode"
)

// Guard keeps a target from reaching where a stranger who chose its URL must not
// reach: this machine, private networks, the metadata service of a cloud. Addresses
// are checked when they are dialled, after the name was resolved, so that a name
// that resolves to something else by then gains nothing. Connections of guarded
// targets are shared with no others. Only addresses of the public Internet pass:
// those that the IANA special-purpose registries (RFC 6890) do not set aside,
// and none that carry another address in them, as NAT64, 6to4 and Teredo do.
//
// The zero value, which [PublicOnly] returns, lets through ports 80 and 443 of public
// addresses. A blocked address ends the delivery with [ErrAddressBlocked]. For tests
// on loopback:
//
//	&fanout.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, AnyPort: true}
type Guard struct {
	// Allow are addresses to let through though they are not public: a test server,
	// a partner's private network. Default none.
	Allow []netip.Prefix
	// Deny are addresses to block though they are public: your own, say. It wins
	// over Allow. Default none.
	Deny []netip.Prefix
	// Ports are those that may be dialled. Default, nil or empty, 80 and 443.
	Ports []uint16
	// AnyPort lets every port through; Ports must be empty then. Default false.
	AnyPort bool
	// Proxy is the way to all guarded targets. It resolves names by itself, and has
	// to check addresses by itself: the guard then looks at nothing but the ports
	// and addresses in URLs, and blocks names that are not letters, digits, dots and
	// hyphens. Default none, whatever the environment says.
	Proxy *url.URL
}

// PublicOnly returns a new zero [Guard], which is the caller's to change.
func PublicOnly() *Guard { return &Guard{} }

// settings are the same for guards that let through the same.
func (g *Guard) settings() string {
	if g == nil {
		return ""
	}
	return fmt.Sprint(g.Allow, g.Deny, g.ports(), g.AnyPort, g.Proxy)
}

func (g *Guard) clone() *Guard {
	c := &Guard{Allow: slices.Clone(g.Allow), Deny: slices.Clone(g.Deny), Ports: slices.Clone(g.Ports), AnyPort: g.AnyPort}
	if g.Proxy != nil {
		proxy := *g.Proxy
		c.Proxy = &proxy
	}
	return c
}

func (g *Guard) ports() []uint16 {
	if len(g.Ports) == 0 {
		return []uint16{80, 443}
	}
	return g.Ports
}

// check blocks an address that is about to be dialled.
func (g *Guard) check(network, address string) error {
	if network != "tcp4" && network != "tcp6" {
		return blockedAddress("network %s", network)
	}
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return blockedAddress("not an address")
	}
	return g.checkAddress(target)
}

func (g *Guard) checkAddress(target netip.AddrPort) error {
	ip := target.Addr().WithZone("").Unmap()
	switch {
	case !g.allowsPort(target.Port()):
		return blockedPort(target.Port())
	case contains(g.Deny, ip):
		return blockedAddress("%s is in Guard.Deny", ip)
	case contains(g.Allow, ip):
		return nil
	case !public(ip):
		return blockedAddress("%s is not public", ip)
	}
	return nil
}

func (g *Guard) allowsPort(port uint16) bool {
	return g.AnyPort || slices.Contains(g.ports(), port)
}

func blockedPort(port uint16) error {
	return blockedAddress("port %d is not among Guard.Ports", port)
}

func blockedAddress(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrAddressBlocked}, args...)...)
}

func contains(prefixes []netip.Prefix, ip netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// public follows the IANA registries of special-purpose addresses, and more
// strictly: what is there for a protocol of its own is blocked too.
func public(ip netip.Addr) bool {
	if ip.Is4() {
		return !contains(special4, ip)
	}
	return global6.Contains(ip) && !contains(special6, ip)
}

var (
	special4 = prefixes(
		"0.0.0.0/8",        // this network
		"10.0.0.0/8",       // private
		"100.64.0.0/10",    // carrier-grade NAT
		"127.0.0.0/8",      // loopback
		"168.63.129.16/32", // metadata and DNS of Azure
		"169.254.0.0/16",   // link-local, and the metadata of most clouds
		"172.16.0.0/12",    // private
		"192.0.0.0/24",     // protocol assignments
		"192.0.2.0/24",     // documentation
		"192.31.196.0/24",  // AS112
		"192.52.193.0/24",  // AMT
		"192.88.99.0/24",   // 6to4 relays
		"192.168.0.0/16",   // private
		"192.175.48.0/24",  // AS112
		"198.18.0.0/15",    // benchmarks
		"198.51.100.0/24",  // documentation
		"203.0.113.0/24",   // documentation
		"224.0.0.0/4",      // multicast
		"240.0.0.0/4",      // reserved, and broadcast
	)
	// What is outside is loopback, mapped, NAT64, unique local, link-local,
	// multicast, segment routing or not assigned.
	global6  = netip.MustParsePrefix("2000::/3")
	special6 = prefixes(
		"2001::/23",         // Teredo, ORCHID and other protocols
		"2001:db8::/32",     // documentation
		"2002::/16",         // 6to4
		"2620:4f:8000::/48", // AS112
		"3fff::/20",         // documentation
	)
)

func prefixes(all ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, len(all))
	for i, s := range all {
		parsed[i] = netip.MustParsePrefix(s)
	}
	return parsed
}

// checkURL blocks what can be known before anything is dialled, for a proxy hides
// the rest.
func (g *Guard) checkURL(u *url.URL) error {
	host, port := strings.TrimSuffix(u.Hostname(), "."), uint16(portOf(u)) //nolint:gosec // URLs are checked for it
	ip, err := netip.ParseAddr(host)
	if err != nil {
		switch {
		case g.Proxy != nil && !plainName(host):
			return blockedAddress("it may be an address in disguise")
		case !g.allowsPort(port):
			return blockedPort(port)
		}
		return nil
	}
	if g.Proxy != nil && ip.Zone() != "" {
		return blockedAddress("it has a zone")
	}
	return g.checkAddress(netip.AddrPortFrom(ip, port))
}

// plainName reports whether a proxy reads a host as a name and as nothing else: not
// so 127.1, or digits that IDNA maps to those of ASCII.
func plainName(host string) bool {
	last := strings.ToLower(host[strings.LastIndexByte(host, '.')+1:])
	return strings.Trim(last, "0123456789") != "" && !strings.HasPrefix(last, "0x") &&
		!strings.ContainsFunc(host, func(r rune) bool {
			return r != '-' && r != '.' && r != '_' && (r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r))
		})
}

// control is for a dialler, which calls it with each address before connecting.
func (g *Guard) control(network, address string, _ syscall.RawConn) error {
	if g.Proxy != nil {
		return nil // it is the proxy that is dialled
	}
	return g.check(network, address)
}

func (g *Guard) validate() error {
	if g.AnyPort && len(g.Ports) > 0 {
		return invalid("Guard.AnyPort", "set together with Ports")
	}
	if g.Proxy != nil && g.Proxy.Host == "" {
		return invalid("Guard.Proxy", "no host")
	}
	for _, p := range slices.Concat(g.Allow, g.Deny) {
		switch {
		case !p.IsValid():
			return invalid("Guard", "an invalid prefix")
		case p.Addr().Is4In6():
			return invalid("Guard", "%s is IPv4 mapped to IPv6: write it as IPv4", p)
		}
	}
	return nil
}
