package dhcp

import (
	"encoding/binary"
	"net/netip"
)

// Sizes and numbers of Ethernet, IPv4 (RFC 791), UDP (RFC 768), ARP (RFC 826).
const (
	etherLen  = 14
	ipLen     = 20
	udpLen    = 8
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	arpLen    = 28

	serverPort = 67
	clientPort = 68
)

// udpFrame is a whole Ethernet frame with a message from a server to a client,
// all checksums filled in.
func udpFrame(src [6]byte, r Reply) []byte {
	f := make([]byte, etherLen+ipLen+udpLen+len(r.Payload))
	copy(f[0:], r.MAC[:])
	copy(f[6:], src[:])
	binary.BigEndian.PutUint16(f[12:], etherIPv4)

	ip := f[etherLen:]
	ip[0] = 0x45 // version 4, five words of header
	ip[1] = 0xc0 // network control (RFC 2474, class selector 6), as other servers do
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	ip[8] = 64
	ip[9] = 17
	from, to := r.Src.As4(), r.Dst.As4()
	copy(ip[12:], from[:])
	copy(ip[16:], to[:])
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum(ip[:ipLen], 0)))

	udp := ip[ipLen:]
	binary.BigEndian.PutUint16(udp[0:], serverPort)
	binary.BigEndian.PutUint16(udp[2:], clientPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	copy(udp[udpLen:], r.Payload)
	pseudo := sum(ip[12:20], 17+uint32(len(udp)))
	check := ^fold(sum(udp, pseudo))
	if check == 0 {
		check = 0xffff // 0 would mean that there is no checksum
	}
	binary.BigEndian.PutUint16(udp[6:], check)
	return f
}

// arpProbe is the frame that asks everybody who has an address.
func arpProbe(src [6]byte, addr netip.Addr) []byte {
	f := make([]byte, etherLen+arpLen)
	copy(f[0:], broadcastMAC[:])
	copy(f[6:], src[:])
	binary.BigEndian.PutUint16(f[12:], etherARP)
	a := f[etherLen:]
	copy(a, []byte{0, 1, 8, 0, 6, 4, 0, 1}) // Ethernet, IPv4, 6 and 4 bytes, request
	copy(a[8:], src[:])                     // our hardware address; no IP address of ours
	target := addr.As4()
	copy(a[24:], target[:])
	return f
}

// parseARPReply reads a frame that should be an ARP reply.
func parseARPReply(f []byte) (ARPReply, bool) {
	if len(f) < etherLen+arpLen || binary.BigEndian.Uint16(f[12:]) != etherARP {
		return ARPReply{}, false
	}
	a := f[etherLen:]
	if string(a[:8]) != "\x00\x01\x08\x00\x06\x04\x00\x02" {
		return ARPReply{}, false
	}
	return ARPReply{MAC: [6]byte(a[8:14]), Addr: netip.AddrFrom4([4]byte(a[14:18]))}, true
}

// sum adds 16 bit words for the internet checksum (RFC 1071).
func sum(b []byte, start uint32) uint32 {
	s := start
	for len(b) >= 2 {
		s += uint32(b[0])<<8 | uint32(b[1])
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
