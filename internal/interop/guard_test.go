package interop

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"code.dny.dev/ssrf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/internal/guard"
)

// stricter holds the prefixes that our guard blocks and that the table of package ssrf,
// which is generated from the IANA registries, allows. Each has our reason.
var stricter = map[netip.Prefix]string{
	netip.MustParsePrefix("168.63.129.16/32"): "Azure serves metadata and DNS to its own machines there; it is a public address of Microsoft's, which no registry sets aside",
}

// The test compares addresses as they are. An IPv4 address mapped to IPv6 is outside
// 2000::/3, and so both tables block it. A fanout.Guard unmaps it before it asks.
func TestGuard_BlocksAllThatTheIANARegistriesSetAside(t *testing.T) {
	theirs := ssrf.New(ssrf.WithAnyPort())
	used := make(map[netip.Prefix]bool)
	for _, ip := range addressesAround(slices.Concat(guard.Blocked(), tablesOfOthers())) {
		ours, their := !guard.Public(ip), theirs.SafeAddr(ip) != nil
		if their {
			require.True(t, ours, "%s: theirs denies it", ip)
		}
		if ours && !their {
			prefix, reason := reasonFor(ip)
			require.NotEmpty(t, reason, "%s: only ours blocks it, and no reason is given", ip)
			used[prefix] = true
		}
	}
	for prefix, reason := range stricter {
		assert.True(t, used[prefix], "%s is no longer stricter: %s", prefix, reason)
	}
}

func tablesOfOthers() []netip.Prefix {
	all := netip.MustParsePrefix
	return slices.Concat(ssrf.IPv4DeniedPrefixes, ssrf.IPv6DeniedPrefixes,
		[]netip.Prefix{ssrf.IPv6GlobalUnicast, ssrf.IPv6NAT64Prefix, all("0.0.0.0/0"), all("::/0"), all("::ffff:0:0/96")})
}

func reasonFor(ip netip.Addr) (netip.Prefix, string) {
	for prefix, reason := range stricter {
		if prefix.Contains(ip) {
			return prefix, reason
		}
	}
	return netip.Prefix{}, ""
}

// addressesAround returns the first and the last address of each prefix, the ones before
// and after it, and some inside. The seed is fixed, so that a failure can be repeated.
func addressesAround(prefixes []netip.Prefix) []netip.Addr {
	random := rand.New(rand.NewPCG(1, 2))
	var all []netip.Addr
	for _, p := range prefixes {
		first, last := p.Masked().Addr(), filled(p, func() byte { return 0xff })
		all = append(all, first, last, first.Prev(), last.Next())
		for range 500 {
			all = append(all, filled(p, func() byte { return byte(random.Uint32()) }))
		}
	}
	// The very first address has none before it, and the very last none after it.
	return slices.DeleteFunc(all, func(ip netip.Addr) bool { return !ip.IsValid() })
}

// filled returns the address in p whose bits after the prefix are those of next.
func filled(p netip.Prefix, next func() byte) netip.Addr {
	bytes := p.Masked().Addr().AsSlice()
	for i := range bytes {
		fixed := min(max(p.Bits()-8*i, 0), 8)
		bytes[i] |= next() & (0xff >> fixed)
	}
	ip, _ := netip.AddrFromSlice(bytes)
	return ip
}
