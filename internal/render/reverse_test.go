package render

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"drawbridge/internal/spec"
)

func TestReverseZones(t *testing.T) {
	for _, c := range []struct{ prefixes, want string }{
		{"192.168.122.0/24", "122.168.192.in-addr.arpa"},
		{"10.0.0.0/8", "10.in-addr.arpa"},
		{"172.16.0.0/14", "16.172.in-addr.arpa 17.172.in-addr.arpa 18.172.in-addr.arpa 19.172.in-addr.arpa"},
		{"192.168.8.0/23", "8.168.192.in-addr.arpa 9.168.192.in-addr.arpa"},
		{"10.1.2.4/30", "4.2.1.10.in-addr.arpa 5.2.1.10.in-addr.arpa 6.2.1.10.in-addr.arpa 7.2.1.10.in-addr.arpa"},
		{"fd12:3456:789a:1::/64", "1.0.0.0.a.9.8.7.6.5.4.3.2.1.d.f.ip6.arpa"},
		{"fd00::/63", "0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa 1.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa"},
		{"192.168.122.0/24 fd00:0:0:5::/64", "122.168.192.in-addr.arpa 5.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa"},
	} {
		var subnets []spec.Subnet
		for p := range strings.FieldsSeq(c.prefixes) {
			subnets = append(subnets, spec.Subnet{Prefix: netip.MustParsePrefix(p)})
		}
		if got := strings.Join(reverseZones(subnets), " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.prefixes, got, c.want)
		}
	}
}

// Whatever the length, the zones hold the subnet's addresses and no others, and
// there are never more than systemd-resolved takes (256, LINK_SEARCH_DOMAINS_MAX
// in resolved-link.h up to version 247).
func TestReverseZonesHoldTheSubnetAndNoMore(t *testing.T) {
	name := func(a netip.Addr) string {
		if a.Is4() {
			return reverseName(a, 4, 0) + "in-addr.arpa"
		}
		return reverseName(a, 32, 0) + "ip6.arpa"
	}
	for _, base := range []string{"10.170.85.204", "fd5a:a5c3:3c96:6901:1234:5678:9abc:def0"} {
		addr := netip.MustParseAddr(base)
		for bits := 1; bits <= addr.BitLen(); bits++ {
			p := netip.PrefixFrom(addr, bits).Masked()
			zones := reverseZones([]spec.Subnet{{Prefix: p}})
			if len(zones) > 128 {
				t.Errorf("%s has %d zones", p, len(zones))
			}
			// The address with one bit turned is in the subnet if that bit is free.
			for bit := range addr.BitLen() {
				raw := addr.AsSlice()
				raw[bit/8] ^= 0x80 >> (bit % 8)
				other, _ := netip.AddrFromSlice(raw)
				in := slices.ContainsFunc(zones, func(z string) bool { return strings.HasSuffix("."+name(other), "."+z) })
				if in != p.Contains(other) {
					t.Fatalf("%s in the zones of %s: %v", other, p, in)
				}
			}
		}
	}
}
