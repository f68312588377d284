package dhcpload

import (
	"encoding/binary"
	"net/netip"
)

// DHCP message types (RFC 2132, section 9.6).
const (
	discoverType = 1
	offerType    = 2
	requestType  = 3
	ackType      = 5
	nakType      = 6
)

// Offsets in a frame: Ethernet 14, IPv4 20, UDP 8, then DHCP.
const (
	ipOff   = 14
	udpOff  = ipOff + 20
	dhcpOff = udpOff + 8
	options = dhcpOff + 240
)

// macOf is the hardware address of a guest.
func macOf(guest int) [6]byte {
	return [6]byte{0x02, 0xdb, byte(guest >> 24), byte(guest >> 16), byte(guest >> 8), byte(guest)}
}

// discover is a whole frame with DHCPDISCOVER.
func discover(guest int, xid uint32) []byte { return frame(guest, xid, discoverType) }

// request is a whole frame with DHCPREQUEST, as in the state SELECTING.
func request(guest int, xid uint32, addr, server netip.Addr) []byte {
	a, s := addr.As4(), server.As4()
	return frame(guest, xid, requestType, 50, 4, a[0], a[1], a[2], a[3], 54, 4, s[0], s[1], s[2], s[3])
}

func frame(guest int, xid uint32, kind byte, more ...byte) []byte {
	f := make([]byte, dhcpOff+300, dhcpOff+320)
	mac := macOf(guest)
	copy(f, []byte{255, 255, 255, 255, 255, 255})
	copy(f[6:], mac[:])
	f[12] = 8 // 0x0800, IPv4

	ip := f[ipOff:]
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[16:], []byte{255, 255, 255, 255})
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum>>16+sum&0xffff))

	udp := f[udpOff:] // without checksum, which IPv4 allows
	binary.BigEndian.PutUint16(udp, 68)
	binary.BigEndian.PutUint16(udp[2:], 67)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))

	d := f[dhcpOff:]
	d[0], d[1], d[2] = 1, 1, 6
	binary.BigEndian.PutUint32(d[4:], xid)
	copy(d[28:], mac[:])
	copy(d[236:], []byte{99, 130, 83, 99})
	o := append(d[240:240], 53, 1, kind, 55, 4, 1, 3, 6, 15)
	o = append(o, more...)
	_ = append(o, 255)
	return f
}

// reply is what the client reads of a server's message.
type reply struct {
	kind         byte
	xid          uint32
	mac          [6]byte
	addr, server netip.Addr
}

func parseReply(f []byte) (reply, bool) {
	if len(f) < options+4 || f[dhcpOff] != 2 {
		return reply{}, false
	}
	d := f[dhcpOff:]
	r := reply{
		xid: binary.BigEndian.Uint32(d[4:]), mac: [6]byte(d[28:34]), addr: netip.AddrFrom4([4]byte(d[16:20])),
	}
	for o := f[options:]; len(o) > 1 && o[0] != 255; {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		n := int(o[1])
		if len(o) < 2+n {
			return reply{}, false
		}
		switch {
		case o[0] == 53 && n == 1:
			r.kind = o[2]
		case o[0] == 54 && n == 4:
			r.server = netip.AddrFrom4([4]byte(o[2:6]))
		}
		o = o[2+n:]
	}
	return r, r.kind != 0
}
