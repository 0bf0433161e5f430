// Package guard decides which addresses belong to the public Internet. It is the part of
// fanout.Guard that knows nothing of targets and deliveries.
package guard

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Rules say which addresses and ports may be dialled. Its methods return nil for what may
// be dialled, and otherwise the reason why not.
type Rules struct {
	Allow, Deny []netip.Prefix
	Ports       []uint16
	AnyPort     bool // any port may be dialled
	Proxied     bool // a proxy resolves names and dials
}

// Dial checks an address that is about to be dialled. Its parameters are those of the
// Control function of a [net.Dialer].
func (r *Rules) Dial(network, address string) error {
	if r.Proxied {
		return nil // the proxy is dialled, not the target
	}
	if network != "tcp4" && network != "tcp6" {
		return fmt.Errorf("network %s", network)
	}
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return errors.New("not an address")
	}
	return r.address(target)
}

// Host checks the host and port of a URL before anything is dialled. Without a proxy,
// every name is accepted here, because Dial checks the address later. With a proxy,
// nothing else is known about the target's address. So the host must clearly be an
// address or clearly be a name.
func (r *Rules) Host(host string, port uint16) error {
	host = strings.TrimSuffix(host, ".")
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil && r.Proxied && !PlainName(host):
		return errors.New("some resolvers may read it as an address")
	case err != nil:
		return r.port(port)
	case r.Proxied && ip.Zone() != "":
		return errors.New("it has a zone")
	}
	return r.address(netip.AddrPortFrom(ip, port))
}

// address checks the IPv4 address in an IPv6 address that is mapped. For example, a
// system that dials ::ffff:10.0.0.1 reaches 10.0.0.1.
func (r *Rules) address(target netip.AddrPort) error {
	if err := r.port(target.Port()); err != nil {
		return err
	}
	ip := target.Addr().WithZone("").Unmap()
	inner := translated(ip)
	switch {
	case contains(r.Deny, ip), contains(r.Deny, inner):
		return fmt.Errorf("%s is in Guard.Deny", ip)
	case contains(r.Allow, ip), contains(r.Allow, inner):
		return nil
	case !Public(inner):
		return fmt.Errorf("%s is not public", ip)
	}
	return nil
}

// nat64 is the well-known prefix of RFC 6052, section 2.1. In a network of IPv6 alone, DNS64
// answers with it for a host that has only an IPv4 address, and NAT64 reaches that address.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// translated is the IPv4 address that NAT64 reaches for an IPv6 one, or the address itself.
// Prefixes that a network chooses itself, such as those of RFC 8215, are not known here.
func translated(ip netip.Addr) netip.Addr {
	if !nat64.Contains(ip) {
		return ip
	}
	bytes := ip.As16()
	return netip.AddrFrom4([4]byte(bytes[12:]))
}

func (r *Rules) port(port uint16) error {
	if r.AnyPort || slices.Contains(r.Ports, port) {
		return nil
	}
	return fmt.Errorf("port %d is not among Guard.Ports", port)
}

func contains(prefixes []netip.Prefix, ip netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(ip) })
}
