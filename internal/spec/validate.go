package spec

import (
	"net/netip"
	"slices"
	"strings"
)

// Validate checks a settled network by itself: names, addresses, ranges and
// reservations. It returns the first *InvalidError found.
func (n Network) Validate() error {
	if err := ValidateName(n.Name); err != nil {
		return err
	}
	if n.UUID != "" && !isUUID(n.UUID) {
		return invalid("uuid", "%q is not a UUID in lower case", n.UUID)
	}
	if n.Bridge != "" {
		if err := ValidateInterface("bridge", n.Bridge); err != nil {
			return err
		}
	}
	if err := n.validateUplinks(); err != nil {
		return err
	}
	if err := n.Tags.Validate(); err != nil {
		return err
	}
	if n.Domain != "" {
		if err := validateDomain(n.Domain); err != nil {
			return err
		}
	}
	if err := n.validateMTU(); err != nil {
		return err
	}
	if _, prefix := n.IPv6.Prefix(); n.IPv6 != "" && n.IPv6 != IPv6Auto && n.IPv6 != IPv6Off && !prefix {
		return invalid("ipv6", "%q is not auto, off or an IPv6 prefix", n.IPv6)
	}
	for i, s := range n.Subnets {
		if err := s.validate(); err != nil {
			return err
		}
		for _, o := range n.Subnets[:i] {
			if s.Prefix.Overlaps(o.Prefix) {
				return invalid("subnet", "%s overlaps %s of the same network", s.Prefix, o.Prefix)
			}
			if s.Prefix.Addr().Is4() == o.Prefix.Addr().Is4() {
				return invalid("subnet", "%s and %s are of the same family; a network has at most one IPv4 and one IPv6 subnet", o.Prefix, s.Prefix)
			}
		}
	}
	for _, u := range n.AllowUsers {
		if u == "" || strings.ContainsAny(u, ": \t\n/") {
			return invalid("allow-users", "%q is not a user name", u)
		}
	}
	if err := n.validateReservations(); err != nil {
		return err
	}
	return n.validateForwards()
}

func (n Network) validateUplinks() error {
	for i, u := range n.Uplinks {
		if err := ValidateInterface("uplink", u); err != nil {
			return err
		}
		if u == n.Bridge {
			return invalid("uplink", "%q cannot be a port of itself", u)
		}
		if slices.Contains(n.Uplinks[:i], u) {
			return invalid("uplink", "%q is given twice", u)
		}
	}
	if n.Adopt && n.STP {
		return invalid("stp", "bridge %q is the host's own and stays as it is", n.Bridge)
	}
	return nil
}

func (n Network) validateMTU() error {
	least := MinMTU
	if _, six := n.Subnet6(); six {
		least = MinMTU6
	}
	if n.MTU != 0 && (n.MTU < least || n.MTU > MaxMTU) {
		return invalid("mtu", "%d is not between %d and %d", n.MTU, least, MaxMTU)
	}
	return nil
}

func (n Network) validateReservations() error {
	macs, addrs, names := map[string]bool{}, map[netip.Addr]string{}, map[string]string{}
	for _, r := range n.Reservations {
		if mac, err := ParseMAC(r.MAC); err != nil || mac != r.MAC {
			return invalid("mac", "%q is not a hardware address such as 52:54:00:12:34:56", r.MAC)
		}
		if macs[r.MAC] {
			return invalid("mac", "%s is reserved twice", r.MAC)
		}
		if other, taken := addrs[r.Addr]; taken {
			return invalid("ip", "%s is reserved for %s already", r.Addr, other)
		}
		if r.Hostname != "" {
			if !isLabel(strings.ToLower(r.Hostname)) {
				return invalid("hostname", "%q is not a DNS label (letters, digits and '-', at most 63)", r.Hostname)
			}
			if other, taken := names[strings.ToLower(r.Hostname)]; taken {
				return invalid("hostname", "%q is reserved for %s already", r.Hostname, other)
			}
			names[strings.ToLower(r.Hostname)] = r.MAC
		}
		if err := n.reservable(r.Addr); err != nil {
			return err
		}
		macs[r.MAC], addrs[r.Addr] = true, r.MAC
	}
	return nil
}

func (n Network) reservable(a netip.Addr) error {
	for _, s := range n.Subnets {
		if !s.Prefix.Contains(a) {
			continue
		}
		if a == s.Gateway {
			return invalid("ip", "%s is the host's own address on network %q", a, n.Name)
		}
		if a.Is4() && (a == s.Prefix.Addr() || a == LastAddr(s.Prefix)) {
			return invalid("ip", "%s is the network or broadcast address of %s", a, s.Prefix)
		}
		return nil
	}
	return invalid("ip", "%s is in no subnet of network %q", a, n.Name)
}

func (s Subnet) validate() error {
	p := s.Prefix
	if !p.IsValid() || p != p.Masked() {
		return invalid("subnet", "%s is not a prefix such as 192.168.122.0/24", p)
	}
	if p.Addr().Is4() && (p.Bits() < 8 || p.Bits() > 30) {
		return invalid("subnet", "%s: an IPv4 subnet is between /8 and /30", p)
	}
	if p.Addr().Is6() && p.Bits() != 64 {
		return invalid("subnet", "%s: an IPv6 subnet is a /64, else guests cannot configure themselves (RFC 4862)", p)
	}
	if a := p.Addr(); a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.IsUnspecified() || a.Is4In6() {
		return invalid("subnet", "%s cannot be used for guests", p)
	}
	if !p.Contains(s.Gateway) || s.Gateway == p.Addr() || (p.Addr().Is4() && s.Gateway == LastAddr(p)) {
		return invalid("subnet", "the host's address %s is not a host address of %s", s.Gateway, p)
	}
	if s.Range.IsZero() {
		return nil
	}
	if !p.Addr().Is4() {
		return invalid("dhcp-range", "%s: ranges are for IPv4; IPv6 guests configure themselves", s.Range)
	}
	return s.validateRange()
}

func (s Subnet) validateRange() error {
	r := s.Range
	if !r.First.Is4() || !r.Last.Is4() {
		return invalid("dhcp-range", "%s is not a pair of IPv4 addresses", r)
	}
	if r.Last.Less(r.First) {
		return invalid("dhcp-range", "%s ends before it begins", r)
	}
	if !s.Prefix.Contains(r.First) || !s.Prefix.Contains(r.Last) {
		return invalid("dhcp-range", "%s is not inside %s", r, s.Prefix)
	}
	if r.Contains(s.Prefix.Addr()) || r.Contains(LastAddr(s.Prefix)) {
		return invalid("dhcp-range", "%s includes the network or broadcast address of %s", r, s.Prefix)
	}
	if s.LeaseSeconds < 120 || s.LeaseSeconds > 365*24*3600 {
		return invalid("lease-time", "%d s is not between 120 s and a year", s.LeaseSeconds)
	}
	return nil
}

// ValidateName checks the name of a network.
func ValidateName(name NetworkName) error {
	if name == "" {
		return invalid("name", "a network needs a name")
	}
	if !isLabel(string(name)) {
		return invalid("name", "%q: use 1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit", name)
	}
	return nil
}

// ValidateInterface checks a name against the kernel's dev_valid_name
// (net/core/dev.c) and against what breaks other tools' parsing.
func ValidateInterface(field, name string) error {
	switch {
	case name == "":
		return invalid(field, "an interface needs a name")
	case len(name) > MaxInterfaceName:
		return invalid(field, "%q has %d characters, an interface name has at most %d", name, len(name), MaxInterfaceName)
	case name == "." || name == ".." || name == "lo" || name == "all" || name == "default":
		return invalid(field, "%q cannot be the name of an interface", name)
	}
	for _, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && c != '-' && c != '_' && c != '.' {
			return invalid(field, "%q: use letters, digits, '-', '_' and '.'", name)
		}
	}
	return nil
}

func validateDomain(domain string) error {
	if len(domain) > 200 {
		return invalid("domain", "%q is longer than 200 characters", domain)
	}
	for label := range strings.SplitSeq(domain, ".") {
		if !isLabel(label) {
			return invalid("domain", "%q is not a DNS domain in lower case (label %q)", domain, label)
		}
	}
	return nil
}

// isLabel checks for a lower-case host label of RFC 1123, section 2.1.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// isUUID checks the form of RFC 9562, section 4, in lower case.
func isUUID(s string) bool {
	for i, c := range []byte(s) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		hex := c >= '0' && c <= '9' || c >= 'a' && c <= 'f'
		if dash && c != '-' || !dash && !hex {
			return false
		}
	}
	return len(s) == 36
}

// IsLabel says whether s can be a guest's name: a lower-case host label.
func IsLabel(s string) bool { return isLabel(s) }
