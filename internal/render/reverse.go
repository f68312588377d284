package render

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"drawbridge/internal/spec"
)

// reverseZones lists the zones that hold the names of all subnets' addresses,
// and of no others. A subnet that ends within a label (RFC 1035 section 3.5, RFC
// 3596 section 2.5) has several: /23 two, /25 one for each of its 128 addresses.
func reverseZones(subnets []spec.Subnet) []string {
	var zones []string
	for _, s := range subnets {
		p := s.Prefix.Masked()
		label, suffix := 8, "in-addr.arpa"
		if p.Addr().Is6() {
			label, suffix = 4, "ip6.arpa"
		}
		labels := (p.Bits() + label - 1) / label
		for i := range 1 << (labels*label - p.Bits()) {
			zones = append(zones, reverseName(p.Addr(), labels, i)+suffix)
		}
	}
	slices.Sort(zones)
	return zones
}

// reverseName writes the first labels of an address backwards, the last of them
// raised by add, each with a dot behind it.
func reverseName(a netip.Addr, labels, add int) string {
	var parts []string
	for i, b := range a.AsSlice() {
		if a.Is4() {
			parts = append(parts, fmt.Sprint(int(b)+raise(i, labels, add)))
			continue
		}
		parts = append(parts,
			fmt.Sprintf("%x", int(b>>4)+raise(2*i, labels, add)),
			fmt.Sprintf("%x", int(b&15)+raise(2*i+1, labels, add)))
	}
	parts = parts[:labels]
	slices.Reverse(parts)
	if labels == 0 {
		return ""
	}
	return strings.Join(parts, ".") + "."
}

// raise is add for the last label that counts, else 0.
func raise(i, labels, add int) int {
	if i == labels-1 {
		return add
	}
	return 0
}
