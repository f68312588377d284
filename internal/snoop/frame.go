package snoop

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
)

// said is what one frame of a guest says about its addresses.
type said struct {
	mac [6]byte
	// addr is in use by mac, or not any more if gone is set.
	addr netip.Addr
	gone bool
}

// Where things are in a frame: Ethernet II (IEEE 802.3), then ARP (RFC 826), IPv4
// (RFC 791), IPv6 (RFC 8200).
const (
	ethernetSize = 14
	arpSize      = 28
	ipv6Size     = 40
	udpSize      = 8
)

// parse reads a frame that a guest sent. It is false for what says nothing, and for
// what speaks of another hardware address than it was sent from: proxies and liars.
func parse(f []byte) (said, bool) {
	if len(f) < ethernetSize {
		return said{}, false
	}
	s := said{mac: [6]byte(f[6:12])}
	if s.mac[0]&1 != 0 || s.mac == [6]byte{} {
		return said{}, false // a group is nobody's address
	}
	ok := false
	switch body := f[ethernetSize:]; binary.BigEndian.Uint16(f[12:]) {
	case 0x0806:
		s.addr, ok = fromARP(body, s.mac)
	case 0x86dd:
		s.addr, ok = fromND(body)
	case 0x0800:
		s.addr, s.gone, ok = fromDHCP(body, s.mac)
	}
	return s, ok && usable(s.addr)
}

// usable says whether a guest can have the address: others mean something else.
func usable(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.Is4In6() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// fromARP takes the sender of a question or an answer, whichever: both say "I have".
// A probe (RFC 5227) has none yet.
func fromARP(b []byte, mac [6]byte) (netip.Addr, bool) {
	ethernetIPv4 := []byte{0, 1, 8, 0, 6, 4}
	if len(b) < arpSize || !bytes.Equal(b[:6], ethernetIPv4) || [6]byte(b[8:14]) != mac {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(b[14:18])), true
}

// fromND takes the source of a neighbour solicitation, which is unspecified while an
// address is only probed (RFC 4862, 5.4.2), and the target of an advertisement
// (RFC 4861, 4.3 and 4.4).
func fromND(b []byte) (netip.Addr, bool) {
	const icmp, solicitation, advertisement = 58, 135, 136
	if len(b) < ipv6Size+24 || b[0]>>4 != 6 || b[6] != icmp || b[7] != 255 {
		return netip.Addr{}, false
	}
	switch b[ipv6Size] {
	case solicitation:
		return netip.AddrFrom16([16]byte(b[8:24])), true
	case advertisement:
		return netip.AddrFrom16([16]byte(b[ipv6Size+8 : ipv6Size+24])), true
	}
	return netip.Addr{}, false
}

// fromDHCP takes the address that a client asks to have or renews, or gives back
// (RFC 2131, table 5). The answer comes from the LAN and is not looked at: a client
// that was refused says so by what it does next.
func fromDHCP(b []byte, mac [6]byte) (addr netip.Addr, gone, ok bool) {
	if len(b) < 20 || b[0]>>4 != 4 || b[9] != 17 || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return addr, false, false
	}
	head := int(b[0]&15) * 4
	if head < 20 || len(b) < head+udpSize {
		return addr, false, false
	}
	udp := b[head:]
	if binary.BigEndian.Uint16(udp) != 68 || binary.BigEndian.Uint16(udp[2:]) != 67 {
		return addr, false, false
	}
	m := udp[udpSize:]
	const fixed, request = 240, 1
	cookie := []byte{99, 130, 83, 99}
	if len(m) < fixed || m[0] != request || m[1] != 1 || m[2] != 6 || [6]byte(m[28:34]) != mac || !bytes.Equal(m[236:240], cookie) {
		return addr, false, false
	}
	kind, wanted := dhcpOptions(m[fixed:])
	if ciaddr := [4]byte(m[12:16]); ciaddr != [4]byte{} {
		wanted = netip.AddrFrom4(ciaddr)
	}
	const requests, declines, releases = 3, 4, 7
	switch kind {
	case requests:
		return wanted, false, wanted.IsValid()
	case declines, releases:
		return wanted, true, wanted.IsValid()
	}
	return addr, false, false
}

// dhcpOptions finds the message's type (53) and the requested address (50).
func dhcpOptions(b []byte) (kind byte, wanted netip.Addr) {
	for len(b) > 0 && b[0] != 255 {
		if b[0] == 0 { // padding
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			break
		}
		value := b[2 : 2+int(b[1])]
		switch {
		case b[0] == 53 && len(value) == 1:
			kind = value[0]
		case b[0] == 50 && len(value) == 4:
			wanted = netip.AddrFrom4([4]byte(value))
		}
		b = b[2+len(value):]
	}
	return kind, wanted
}

func text(mac [6]byte) string { return net.HardwareAddr(mac[:]).String() }
