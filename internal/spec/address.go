package spec

import (
	"encoding/hex"
	"net/netip"
	"strings"
)

// LastAddr returns the highest address of a prefix, the broadcast address in
// an IPv4 subnet.
func LastAddr(p netip.Prefix) netip.Addr {
	raw := p.Masked().Addr().AsSlice()
	for i := range raw {
		free := min(max(8*(i+1)-p.Bits(), 0), 8)
		raw[i] |= byte(1<<free - 1)
	}
	last, _ := netip.AddrFromSlice(raw)
	return last
}

// NewSubnet fills in what a person leaves open: the gateway is the first
// address unless p names another host address, and DHCP gives away all the
// rest of an IPv4 prefix that lies on the larger side of the gateway.
func NewSubnet(p netip.Prefix) Subnet {
	s := Subnet{Prefix: p.Masked(), Gateway: p.Addr(), LeaseSeconds: DefaultLeaseSeconds}
	if p.Addr() == s.Prefix.Addr() {
		s.Gateway = s.Prefix.Addr().Next()
	}
	if !p.Addr().Is4() {
		s.LeaseSeconds = 0
		return s
	}
	first, last := s.Prefix.Addr().Next(), LastAddr(s.Prefix).Prev()
	below, above := distance(first, s.Gateway), distance(s.Gateway, last)
	if below > above {
		s.Range = Range{First: first, Last: s.Gateway.Prev()}
	} else if above > 0 {
		s.Range = Range{First: s.Gateway.Next(), Last: last}
	}
	return s
}

func distance(a, b netip.Addr) int {
	x, y := a.As4(), b.As4()
	n := func(v [4]byte) int { return int(v[0])<<24 | int(v[1])<<16 | int(v[2])<<8 | int(v[3]) }
	return n(y) - n(x)
}

var macSeparators = strings.NewReplacer(":", "", "-", "", ".", "")

// ParseMAC reads a unicast Ethernet address in the usual spellings and returns
// it in lower case with colons.
func ParseMAC(s string) (string, error) {
	plain := macSeparators.Replace(strings.ToLower(s))
	raw, err := hex.DecodeString(plain)
	if err != nil || len(raw) != 6 || len(s) < 12 || len(s) > 17 {
		return "", invalid("mac", "%q is not a hardware address such as 52:54:00:12:34:56", s)
	}
	if raw[0]&1 == 1 {
		return "", invalid("mac", "%s is a group address; a guest's is unicast", s)
	}
	if plain == "000000000000" {
		return "", invalid("mac", "%s is the null address", s)
	}
	return FormatMAC([6]byte(raw)), nil
}

// FormatMAC writes a hardware address in lower case with colons.
func FormatMAC(raw [6]byte) string {
	var b strings.Builder
	for i, c := range raw {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(hex.EncodeToString([]byte{c}))
	}
	return b.String()
}

// ParsePrefix reads a subnet as people type it: a prefix, in which host bits
// name the gateway.
func ParsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(strings.TrimSpace(s))
	if err != nil {
		return p, invalid("subnet", "%q is not a prefix such as 192.168.122.0/24", s)
	}
	return p, nil
}

// ParseRange reads A-B.
func ParseRange(s string) (Range, error) {
	a, b, ok := strings.Cut(s, "-")
	first, err1 := netip.ParseAddr(strings.TrimSpace(a))
	last, err2 := netip.ParseAddr(strings.TrimSpace(b))
	if !ok || err1 != nil || err2 != nil {
		return Range{}, invalid("dhcp-range", "%q is not a range such as 192.168.122.100-192.168.122.200", s)
	}
	return Range{First: first, Last: last}, nil
}
