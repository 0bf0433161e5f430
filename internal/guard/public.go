package guard

import (
	"net/netip"
	"slices"
)

// The tables below are maintained by hand, for two reasons. First, the core needs no
// other module for them. Second, they are stricter than the IANA registries of
// special-purpose addresses (RFC 6890). For example, they also block 192.31.196.0/24
// (AS112), which the registry calls globally reachable although it serves a protocol of
// its own. And they block addresses that a cloud serves to its own machines, such as
// 168.63.129.16 (Azure).
//
// A test in internal/interop compares the tables with one that is generated from the
// registries. Our tables must block everything that the registries block. The test lists,
// with a reason, what ours block in addition.
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
	// global6 is the range that is assigned as global unicast. Addresses outside of it are
	// loopback, mapped, NAT64, unique local, link-local, multicast, segment routing, or not
	// assigned.
	global6  = netip.MustParsePrefix("2000::/3")
	special6 = prefixes(
		"2001::/23",         // Teredo, ORCHID and other protocols
		"2001:db8::/32",     // documentation
		"2002::/16",         // 6to4
		"2620:4f:8000::/48", // AS112
		"3fff::/20",         // documentation
	)
)

// Public reports whether an address belongs to the public Internet. It returns false for
// an IPv4 address mapped to IPv6, such as ::ffff:8.8.8.8: unmap it before. It also
// returns false for an address with a zone, and for the zero Addr.
func Public(ip netip.Addr) bool {
	if ip.Is4() {
		return !contains(special4, ip)
	}
	return global6.Contains(ip) && !contains(special6, ip)
}

// Blocked returns the prefixes in which Public is false. All IPv6 addresses outside of
// 2000::/3 are blocked too, and are not listed.
func Blocked() []netip.Prefix { return slices.Concat(special4, special6) }

func prefixes(all ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, len(all))
	for i, s := range all {
		parsed[i] = netip.MustParsePrefix(s)
	}
	return parsed
}
