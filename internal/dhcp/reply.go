package dhcp

import (
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"drawbridge/internal/host"
)

// minLeaseSeconds is the shortest lease that a client can ask for.
const minLeaseSeconds = 120

// Reply is a message to a client or relay agent, with the way it shall go.
type Reply struct {
	// Src and Dst are the IPv4 addresses. Dst is the limited broadcast address
	// for clients that cannot be reached otherwise.
	Src, Dst netip.Addr
	// MAC is the Ethernet destination: the client's, so that no other guest
	// sees the message, or broadcast if the client asked for that. Not used if
	// Relay is set.
	MAC [6]byte
	// Relay: send to port 67 of Dst by the IP stack, not to port 68 by frame.
	Relay bool
	// Payload is the DHCP message.
	Payload []byte
}

var broadcastMAC = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// answer is what a reply says.
type answer struct {
	kind dhcpv4.MessageType
	addr uint32 // yiaddr, 0 for none
	// seconds is the lease time; 0 for none (DHCPNAK, answer to DHCPINFORM).
	seconds uint32
	// name is option 12, the name by which the guest is known to us.
	name string
	// message is option 56, for people who read packets.
	message string
	rapid   bool
}

// build makes the reply to a request (RFC 2131, table 3).
func build(p host.Pool, r *request, a answer) Reply {
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: r.msg.HWType, TransactionID: r.msg.TransactionID,
		Flags: r.msg.Flags, ClientIPAddr: net.IPv4zero, YourIPAddr: netIP(toAddr(a.addr)), ServerIPAddr: net.IPv4zero,
		GatewayIPAddr: r.msg.GatewayIPAddr, ClientHWAddr: r.msg.ClientHWAddr, Options: dhcpv4.Options{},
	}
	if a.kind == dhcpv4.MessageTypeAck {
		m.ClientIPAddr = r.msg.ClientIPAddr
	}
	m.UpdateOption(dhcpv4.OptMessageType(a.kind))
	m.UpdateOption(dhcpv4.OptServerIdentifier(netIP(p.Server.Addr())))
	// RFC 6842: the client identifier is always sent back; RFC 3046: option 82 too.
	for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionClientIdentifier, dhcpv4.OptionRelayAgentInformation} {
		if v := r.msg.Options.Get(code); v != nil {
			m.Options[code.Code()] = v
		}
	}
	if a.message != "" {
		m.UpdateOption(dhcpv4.OptMessage(a.message))
	}
	if a.kind == dhcpv4.MessageTypeNak {
		if r.giaddr != 0 {
			m.SetBroadcast() // RFC 2131, section 4.3.2: so that the relay agent broadcasts it
		}
	} else {
		addParameters(m, p, r, a)
	}
	return address(p, r, a, m.ToBytes())
}

// addParameters adds what a client needs to use the network: subnet mask and
// times always, the rest if it asks for it. An MTU other than Ethernet's is
// always sent: without it, large packets would vanish.
func addParameters(m *dhcpv4.DHCPv4, p host.Pool, r *request, a answer) {
	mask := net.CIDRMask(p.Server.Bits(), 32)
	m.UpdateOption(dhcpv4.OptSubnetMask(mask))
	if a.seconds != 0 {
		for code, v := range map[uint8]uint32{51: a.seconds, 58: a.seconds / 2, 59: uint32(uint64(a.seconds) * 7 / 8)} {
			m.Options[code] = []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}
		}
	}
	if a.rapid {
		m.Options[80] = []byte{}
	}
	if p.Router.Is4() && r.wants(dhcpv4.OptionRouter) {
		m.UpdateOption(dhcpv4.OptRouter(netIP(p.Router)))
	}
	if p.DNS.Is4() && r.wants(dhcpv4.OptionDomainNameServer) {
		m.UpdateOption(dhcpv4.OptDNS(netIP(p.DNS)))
	}
	if a.name != "" && r.wants(dhcpv4.OptionHostName) {
		m.UpdateOption(dhcpv4.OptHostName(a.name))
	}
	if p.Domain != "" && r.wants(dhcpv4.OptionDomainName) {
		m.UpdateOption(dhcpv4.OptDomainName(p.Domain))
	}
	if p.MTU >= 68 && p.MTU <= 65535 && (p.MTU != 1500 || r.wants(dhcpv4.OptionInterfaceMTU)) {
		m.Options[dhcpv4.OptionInterfaceMTU.Code()] = []byte{byte(p.MTU >> 8), byte(p.MTU)}
	}
	if r.wants(dhcpv4.OptionBroadcastAddress) && p.Server.Bits() < 31 {
		last := toInt(p.Server.Addr()) | (uint32(1)<<(32-p.Server.Bits()) - 1)
		m.UpdateOption(dhcpv4.OptBroadcastAddress(netIP(toAddr(last))))
	}
}

// address chooses the way of a reply (RFC 2131, section 4.1).
func address(p host.Pool, r *request, a answer, payload []byte) Reply {
	reply := Reply{Src: p.Server.Addr(), MAC: r.who.mac, Payload: payload}
	everybody := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	switch {
	case r.giaddr != 0:
		reply.Dst, reply.Relay = toAddr(r.giaddr), true
	case a.kind == dhcpv4.MessageTypeNak:
		// The client may have no address that works, so all IP hosts are
		// addressed; the frame still goes to the client alone if it can.
		reply.Dst = everybody
		if r.broadcast {
			reply.MAC = broadcastMAC
		}
	case r.ciaddr != 0:
		reply.Dst = toAddr(r.ciaddr)
	case r.broadcast:
		reply.Dst, reply.MAC = everybody, broadcastMAC
	default:
		reply.Dst = toAddr(a.addr)
	}
	return reply
}

// leaseSeconds is the lease time for a client: what it asks for, if that is
// shorter than what the pool gives.
func leaseSeconds(p host.Pool, r *request) uint32 {
	s := max(p.LeaseSeconds, minLeaseSeconds)
	if r.leaseSeconds != 0 && r.leaseSeconds < s {
		s = max(r.leaseSeconds, minLeaseSeconds)
	}
	return s
}

func netIP(a netip.Addr) net.IP {
	b := a.As4()
	return b[:]
}
