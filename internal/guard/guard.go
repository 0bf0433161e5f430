// Package guard tells addresses of the public Internet from all others, for
// fanout.Guard. It knows nothing of targets or deliveries.
package guard

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Rules say what may be dialled. Its methods return nil for what may, and else the
// reason why not.
type Rules struct {
	Allow, Deny []netip.Prefix
	Ports       []uint16
	AnyPort     bool // Ports do not matter
	Proxied     bool // a proxy dials, and resolves names
}

// Dial judges an address that is about to be dialled, as the Control function of a
// [net.Dialer] is told it.
func (r *Rules) Dial(network, address string) error {
	if r.Proxied {
		return nil // it is the proxy that is dialled
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

// Host judges the host and port of a URL, before anything is dialled. Without a proxy
// a name passes here, and Dial judges what it resolves to. With a proxy nothing else
// is seen of the target, so that the host must be plainly an address or a name.
func (r *Rules) Host(host string, port uint16) error {
	host = strings.TrimSuffix(host, ".")
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil && r.Proxied && !PlainName(host):
		return errors.New("it may be an address in disguise")
	case err != nil:
		return r.port(port)
	case r.Proxied && ip.Zone() != "":
		return errors.New("it has a zone")
	}
	return r.address(netip.AddrPortFrom(ip, port))
}

// address unmaps what it is given: a system that dials ::ffff:10.0.0.1 reaches
// 10.0.0.1.
func (r *Rules) address(target netip.AddrPort) error {
	if err := r.port(target.Port()); err != nil {
		return err
	}
	ip := target.Addr().WithZone("").Unmap()
	switch {
	case contains(r.Deny, ip):
		return fmt.Errorf("%s is in Guard.Deny", ip)
	case contains(r.Allow, ip):
		return nil
	case !Public(ip):
		return fmt.Errorf("%s is not public", ip)
	}
	return nil
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
