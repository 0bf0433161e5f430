package fanout

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"syscall"

	"github.com/fanout-go/fanout/internal/guard"
)

// Guard protects against targets whose URLs strangers choose. It blocks what they must
// not reach: this machine, private networks, the metadata service of a cloud. Only
// addresses of the public Internet are allowed. Blocked are addresses that the IANA
// special-purpose registries (RFC 6890) set aside, and those that contain another
// address, as 6to4 and Teredo do. Of an address of NAT64 (64:ff9b::/96, RFC 6052) the IPv4
// address inside is checked.
//
// An address is checked when it is dialled, after the name was resolved. So it does not
// help an attacker to let a name resolve to another address later. Guarded targets share
// connections only with targets whose Guard and TLS are the same.
//
// The zero value, which [PublicOnly] returns, allows ports 80 and 443 of public
// addresses. A blocked address ends the delivery with [ErrAddressBlocked]. For tests on
// loopback addresses:
//
//	&fanout.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, AnyPort: true}
type Guard struct {
	// Allow are addresses that are allowed although they are not public, for example of a
	// partner's private network. Default none.
	Allow []netip.Prefix
	// Deny are addresses that are blocked although they are public, for example your own. An
	// address in both Allow and Deny is blocked. Default none.
	Deny []netip.Prefix
	// Ports are the allowed ports. Nil or empty means the default, 80 and 443.
	Ports []uint16
	// AnyPort allows every port. If it is set, Ports must be empty. Default false.
	AnyPort bool
	// Proxy is a proxy for all requests to guarded targets. It resolves names and must check
	// addresses itself. The guard then checks only the ports and addresses in URLs, and
	// blocks names that have other characters than letters, digits, dots, hyphens and
	// underscores. Default nil: no proxy, even if the environment names one.
	Proxy *url.URL
}

// PublicOnly returns a new zero [Guard], which the caller may change.
func PublicOnly() *Guard { return &Guard{} }

// settings returns the same text for guards that allow the same.
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

// checkURL blocks what is known to be wrong before anything is dialled. If there is a
// proxy, nothing else is known.
func (g *Guard) checkURL(u *url.URL) error {
	return blocked(g.rules().Host(u.Hostname(), uint16(guard.Port(u)))) //nolint:gosec // URLs are checked for it
}

// control is called by a dialler with each address, before it connects.
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
