package spec

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// ParseListen reads [LISTEN_IP:]PORT[-PORT], an IPv6 address in brackets. An
// address that was left out is the zero Addr; all asks for the address alone,
// without ports.
func ParseListen(s string, all bool) (listen netip.Addr, first, last uint16, err error) {
	if all {
		plain := strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
		if listen, err = netip.ParseAddr(plain); err != nil {
			return listen, 0, 0, invalid("listen", "%q: a forward of all ports needs one address of this host and no port", s)
		}
		return listen, 0, 0, nil
	}
	host, ports, found := cutLast(s)
	if !found {
		ports = s
	} else if listen, err = parseListenAddr(host); err != nil {
		return listen, 0, 0, err
	}
	first, last, err = parsePorts(ports)
	return listen, first, last, err
}

func parseListenAddr(host string) (netip.Addr, error) {
	plain, bracketed := strings.CutPrefix(host, "[")
	plain = strings.TrimSuffix(plain, "]")
	if host == "*" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(plain)
	if err != nil || a.Is6() != bracketed {
		return a, invalid("listen", "%q is not an address; an IPv6 address stands in brackets: [fd00::1]:8080", host)
	}
	return a.Unmap(), nil
}

// cutLast splits at the last colon that is not inside brackets.
func cutLast(s string) (host, port string, found bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.LastIndexByte(s, ']') > i {
		return "", s, false
	}
	return s[:i], s[i+1:], true
}

func parsePorts(s string) (first, last uint16, err error) {
	a, b, isRange := strings.Cut(s, "-")
	if first, err = parsePort(a); err != nil {
		return 0, 0, err
	}
	last = first
	if isRange {
		if last, err = parsePort(b); err != nil {
			return 0, 0, err
		}
		if last < first {
			return 0, 0, invalid("port", "%s ends before it begins", s)
		}
	}
	return first, last, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, invalid("port", "%q is not a port; a port is a number from 1 to 65535", s)
	}
	return uint16(n), nil
}

// ParseTarget reads GUEST[:PORT]. GUEST is a name, a hardware address (with
// colons, dashes or dots), or an address, IPv6 in brackets if a port follows.
// port is 0 if none was given.
func ParseTarget(s string) (guest string, port uint16, err error) {
	if mac, ok := separatedMAC(s); ok {
		return mac, 0, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap().String(), 0, nil
	}
	host, tail, found := cutLast(s)
	if !found {
		host = s
	} else if port, err = parsePort(tail); err != nil {
		return "", 0, err
	}
	plain := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if mac, ok := separatedMAC(plain); ok {
		return mac, port, nil
	}
	if a, err := netip.ParseAddr(plain); err == nil {
		return a.Unmap().String(), port, nil
	}
	name := strings.ToLower(host)
	if !isLabel(name) {
		return "", 0, invalid("guest", "%q is not the name, hardware address or IP address of a guest", host)
	}
	return name, port, nil
}

// separatedMAC reads a hardware address, and leaves twelve hex digits in a row
// to be a name.
func separatedMAC(s string) (string, bool) {
	if len(s) > 17 || !strings.ContainsAny(s, ":-.") {
		return "", false
	}
	mac, err := ParseMAC(s)
	return mac, err == nil
}

// ParseFrom reads prefixes and addresses, and returns them masked, sorted, and
// without those that lie in another.
func ParseFrom(list []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if a, err2 := netip.ParseAddr(s); err2 == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return nil, invalid("from", "%q is not a prefix or address such as 192.168.99.0/24", s)
		}
		all = append(all, p.Masked())
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var out []netip.Prefix
	for _, p := range all {
		if len(out) == 0 || !out[len(out)-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out, nil
}

// ParseProto reads the word of --proto; "" is tcp, both is tcp and udp.
func ParseProto(s string) ([]Proto, error) {
	switch strings.ToLower(s) {
	case "", "tcp":
		return []Proto{TCP}, nil
	case "udp":
		return []Proto{UDP}, nil
	case "sctp":
		return []Proto{SCTP}, nil
	case "both":
		return []Proto{TCP, UDP}, nil
	}
	return nil, invalid("proto", "%q is not tcp, udp, sctp or both", s)
}

// Selector names forwards as forward rm and forward show do:
// [PROTO/][LISTEN_IP:]PORT[-PORT], or all/LISTEN_IP.
type Selector struct {
	Proto Proto // "" for any
	// Listen is invalid if none was given: then forwards of every address are
	// meant, or, if there are none, one of a single address.
	Listen      netip.Addr
	First, Last uint16
}

// ParseSelector reads a Selector.
func ParseSelector(s string) (Selector, error) {
	var sel Selector
	proto, rest, found := strings.Cut(s, "/")
	if !found {
		proto, rest = "", s
	}
	sel.Proto = Proto(strings.ToLower(proto))
	switch sel.Proto {
	case "", TCP, UDP, SCTP, ProtoAll:
	default:
		return sel, invalid("proto", "%q is not tcp, udp, sctp or all", proto)
	}
	var err error
	sel.Listen, sel.First, sel.Last, err = ParseListen(rest, sel.Proto == ProtoAll)
	return sel, err
}

// Select finds the forwards that a selector names, by network. Without a
// protocol all protocols are meant; without an address forwards of every
// address come before those of a single one. ErrNotFound if there are none, and
// *InvalidError if several addresses could be meant.
func (d Document) Select(s Selector) (map[NetworkName][]Forward, error) {
	var exact, wide, single []found
	within := ""
	for _, name := range d.Names() {
		for f := range d.Networks[name].Forwards.All() {
			if f.Proto != ProtoAll && f.First <= s.First && s.Last <= f.Last && (s.Proto == "" || s.Proto == f.Proto) {
				within = f.Key()
			}
			if f.First != s.First || f.Last != s.Last || s.Proto != "" && f.Proto != s.Proto || f.Proto == ProtoAll && s.Proto != ProtoAll {
				continue
			}
			switch at := (found{name, f}); {
			case s.Listen.IsValid() && f.Listen == s.Listen:
				exact = append(exact, at)
			case s.Listen.IsValid():
			case f.Everywhere():
				wide = append(wide, at)
			default:
				single = append(single, at)
			}
		}
	}
	chosen := exact
	if !s.Listen.IsValid() {
		chosen = wide
		if len(wide) == 0 {
			chosen = single
			for _, c := range single {
				if c.Listen != single[0].Listen {
					return nil, invalid("forward", "%s and %s could be meant; name the address", single[0].Key(), c.Key())
				}
			}
		}
	}
	if len(chosen) == 0 && within != "" {
		return nil, fmt.Errorf("forward %s: %w; it is a part of %s", s, ErrNotFound, within)
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("forward %s: %w", s, ErrNotFound)
	}
	out := map[NetworkName][]Forward{}
	for _, c := range chosen {
		out[c.network] = append(out[c.network], c.Forward)
	}
	return out, nil
}

type found struct {
	network NetworkName
	Forward
}

// String writes the selector as people type it.
func (s Selector) String() string {
	f := Forward{Proto: s.Proto, Listen: s.Listen, First: s.First, Last: s.Last}
	if !s.Listen.IsValid() {
		f.Listen = netip.IPv4Unspecified()
	}
	return strings.TrimPrefix(f.Key(), "/")
}
