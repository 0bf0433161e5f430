package guard_test

import (
	"math"
	"net/netip"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/internal/guard"
)

func TestPublic_EndsWhereABlockedPrefixEnds(t *testing.T) {
	for first, last := range map[string]string{
		"0.0.0.0": "0.255.255.255", "10.0.0.0": "10.255.255.255", "100.64.0.0": "100.127.255.255", "127.0.0.0": "127.255.255.255",
		"168.63.129.16": "168.63.129.16", "169.254.0.0": "169.254.255.255", "172.16.0.0": "172.31.255.255", "192.168.0.0": "192.168.255.255",
		"192.0.2.0": "192.0.2.255", "198.18.0.0": "198.19.255.255", "224.0.0.0": "255.255.255.255",
		"::": "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001::": "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8::": "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
		"2002::": "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "4000::": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
	} {
		from, to := netip.MustParseAddr(first), netip.MustParseAddr(last)
		assert.False(t, guard.Public(from), first)
		assert.False(t, guard.Public(to), last)
		if before := from.Prev(); before.IsValid() {
			assert.True(t, guard.Public(before), before)
		}
		if after := to.Next(); after.IsValid() {
			assert.True(t, guard.Public(after), after)
		}
	}
}

func TestPublic_IsFalseOfWhatIsNoPlainAddress(t *testing.T) {
	assert.False(t, guard.Public(netip.Addr{}))
	assert.False(t, guard.Public(netip.MustParseAddr("::ffff:8.8.8.8")), "to be unmapped first")
	assert.False(t, guard.Public(netip.MustParseAddr("2606:4700::1%eth0")))
}

func TestBlocked_HoldsNothingPublicAndIsNobodyElsesToChange(t *testing.T) {
	assert.Contains(t, guard.Blocked(), netip.MustParsePrefix("10.0.0.0/8"))
	assert.Contains(t, guard.Blocked(), netip.MustParsePrefix("2001:db8::/32"))
	for i, p := range guard.Blocked() {
		assert.False(t, guard.Public(p.Addr()), p)
		assert.Equal(t, p.Masked(), p)
		guard.Blocked()[i] = netip.Prefix{}
	}
	assert.False(t, guard.Public(netip.MustParseAddr("10.0.0.1")))
}

func TestRules_DialOnlyWhatIsTCPAndAnAddress(t *testing.T) {
	rules := &guard.Rules{AnyPort: true}
	require.NoError(t, rules.Dial("tcp4", "8.8.8.8:25"))
	require.NoError(t, rules.Dial("tcp6", "[::ffff:8.8.8.8]:25"))
	require.EqualError(t, rules.Dial("tcp6", "[::ffff:10.0.0.1]:25"), "10.0.0.1 is not public")
	require.EqualError(t, rules.Dial("tcp6", "[fe80::1%eth0]:25"), "fe80::1 is not public")
	require.EqualError(t, rules.Dial("udp4", "8.8.8.8:53"), "network udp4")
	require.EqualError(t, rules.Dial("unix", "/run/docker.sock"), "network unix")
	require.EqualError(t, rules.Dial("tcp4", "localhost:80"), "not an address")
}

func TestRules_NoPortsMeanNone(t *testing.T) {
	require.EqualError(t, (&guard.Rules{}).Dial("tcp4", "8.8.8.8:80"), "port 80 is not among Guard.Ports")
}

func TestPlainName_IsNoAddressInDisguise(t *testing.T) {
	for _, host := range []string{"hook.example", "a-b_c.hook.example", "HOOK", "1.example", "0x.example", "x0"} {
		assert.True(t, guard.PlainName(host), host)
	}
	for _, host := range []string{"", ".", "127.1", "2130706433", "0x7f000001", "1.0X7f", "0177.0.0.1", "127.0.0.1", "::1", "a;b", "a,b", "a b", "a%b", "\u2460.example", "\u2139.example", "\uff0eexample"} {
		assert.False(t, guard.PlainName(host), host)
	}
}

func FuzzPlainName(f *testing.F) {
	for _, host := range []string{"hook.example", "127.1", "::1", "0x7f.1", "1.2.3.4", "fe80::1%x"} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if _, err := netip.ParseAddr(host); err == nil {
			assert.False(t, guard.PlainName(host))
		}
	})
}

func TestRules_DialAllowsAndDeniesByPrefix(t *testing.T) {
	rules := &guard.Rules{
		AnyPort: true,
		Allow:   []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
		Deny:    []netip.Prefix{netip.MustParsePrefix("10.1.2.0/24"), netip.MustParsePrefix("8.8.4.0/24")},
	}
	require.NoError(t, rules.Dial("tcp4", "10.1.1.1:80"))
	require.EqualError(t, rules.Dial("tcp4", "10.1.2.1:80"), "10.1.2.1 is in Guard.Deny", "though it is allowed too")
	require.EqualError(t, rules.Dial("tcp6", "[::ffff:8.8.4.4]:80"), "8.8.4.4 is in Guard.Deny")
	require.EqualError(t, rules.Dial("tcp4", "10.2.0.1:80"), "10.2.0.1 is not public")
}

func TestRules_HostRefusesWhatAProxyCouldMistake(t *testing.T) {
	for _, test := range []struct {
		host            string
		port            uint16
		direct, proxied string // what is said; empty if it may be called
	}{
		{"hook.example", 443, "", ""},
		{"hook.example.", 443, "", ""},
		{"hook.example", 25, "port 25 is not among Guard.Ports", "port 25 is not among Guard.Ports"},
		{"127.1", 443, "", "some resolvers may read it as an address"},
		{"8.8.8.8", 443, "", ""},
		{"8.8.8.8.", 443, "", ""},
		{"8.8.8.8", 25, "port 25 is not among Guard.Ports", "port 25 is not among Guard.Ports"},
		{"10.0.0.1", 443, "10.0.0.1 is not public", "10.0.0.1 is not public"},
		{"2606:4700::1", 443, "", ""},
		{"2606:4700::1%eth0", 443, "", "it has a zone"},
	} {
		for proxied, want := range map[bool]string{false: test.direct, true: test.proxied} {
			rules := &guard.Rules{Ports: []uint16{443}, Proxied: proxied}
			said := ""
			if err := rules.Host(test.host, test.port); err != nil {
				said = err.Error()
			}
			assert.Equal(t, want, said, "%s, proxied: %t", test.host, proxied)
		}
	}
}

func TestRules_DialLeavesTheProxyAlone(t *testing.T) {
	require.NoError(t, (&guard.Rules{Proxied: true}).Dial("tcp4", "10.0.0.1:3128"))
}

func TestPort_IsThatOfTheURLOrItsScheme(t *testing.T) {
	for address, want := range map[string]int{
		"https://crm.example": 443, "http://crm.example": 80, "https://crm.example:8443": 8443, "http://[2606:4700::1]:81": 81,
		"https://crm.example:99999999999999999999": math.MaxInt,
	} {
		u, err := url.Parse(address)
		require.NoError(t, err)
		assert.Equal(t, want, guard.Port(u), address)
	}
}
