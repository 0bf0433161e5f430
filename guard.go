package fanout

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"syscall"

	"github.com/fanout-go/fanout/internal/guard"
)

// Guard keeps a target from reaching where a stranger who chose its URL must not
// reach: this machine, private networks, the metadata service of a cloud. Addresses
// are checked when they are dialled, after the name was resolved. A name that resolves
// to another address by then gains nothing. Guarded targets share connections only with
// targets whose Guard and TLS are the same. Only addresses of the public Internet pass:
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
	// and addresses in URLs, and blocks names that are not letters, digits, dots,
	// hyphens and underscores. Default none, whatever the environment says.
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

func (g *Guard) rules() *guard.Rules {
	return &guard.Rules{Allow: g.Allow, Deny: g.Deny, Ports: g.ports(), AnyPort: g.AnyPort, Proxied: g.Proxy != nil}
}

// checkURL blocks what can be known before anything is dialled, for a proxy hides
// the rest.
func (g *Guard) checkURL(u *url.URL) error {
	return blocked(g.rules().Host(u.Hostname(), uint16(guard.Port(u)))) //nolint:gosec // URLs are checked for it
}

// control is for a dialler, which calls it with each address before connecting.
func (g *Guard) control(network, address string, _ syscall.RawConn) error {
	return blocked(g.rules().Dial(network, address))
}

func blocked(reason error) error {
	if reason == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrAddressBlocked, reason)
}

func (g *Guard) validate() error {
	switch {
	case g.AnyPort && len(g.Ports) > 0:
		return invalid("Guard.AnyPort", "set together with Ports")
	case g.Proxy != nil && g.Proxy.Host == "":
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
