package diagnose

import (
	"net/netip"

	"drawbridge/internal/host"
)

// Link is what rules can ask about an interface.
type Link struct {
	Index int
	// Type is the hardware's (ARPHRD_ETHER is 1).
	Type uint16
	// Kind is bridge, veth, tun …; "" for a card.
	Kind  string
	Group uint32
	// Master is the bridge or bond that it is a port of, Lower the link below.
	Master, Lower string
	// Addresses, the kernel's first one first.
	Addresses []netip.Prefix
	// Up is the administrator's wish, Carrier what the cable says.
	Up, Carrier bool
	MAC         string
	MTU         int
	// Forward4 is the link's own net.ipv4.conf.LINK.forwarding.
	Forward4 bool
	// Isolated and Hairpin are flags of a bridge's port.
	Isolated, Hairpin bool
	// NoLearning, NoFlood, NoBroadcast and Locked are too: it learns no addresses,
	// sends out nothing for addresses that were not learnt, no broadcasts, and takes
	// frames only of addresses that are known behind it.
	NoLearning, NoFlood, NoBroadcast, Locked bool
	// Waits is what a port of a bridge does in place of forwarding: listening,
	// learning or blocking; "" if it forwards.
	Waits string
	// Filters: a bridge that tells VLANs apart. VLANs are those that it, or a port of
	// such a bridge, is in. VID is the VLAN of a link of kind vlan.
	Filters bool
	VLANs   host.VLANSet
	VID     int
}

// Host is what the walk must know about a host beside its rules.
type Host struct {
	Links map[string]Link
	// Forward6 is net.ipv6.conf.all.forwarding.
	Forward6 bool
	// BridgeCalls4 and 6: br_netfilter shows bridged packets to the IP hooks.
	BridgeCalls4, BridgeCalls6 bool
	// Route asks the routing tables; nil if nobody can.
	Route func(q RouteQuery) (RouteAnswer, bool)
}

// RouteQuery is a question to the routing tables.
type RouteQuery struct {
	Target, Source netip.Addr
	In, Out        string
	Mark           uint32
	// Proto and the ports are asked for by rules of policy routing; 0 is not known.
	Proto                  uint8
	SourcePort, TargetPort uint16
}

// RouteAnswer is what they answer.
type RouteAnswer struct {
	// Type is RTN_UNICAST (1), local (2), broadcast (3), unreachable (7) …
	Type uint32
	Out  string
	// Via is the next hop, From the address that the host would send from.
	Via, From netip.Addr
	// MTU that a route sets for what is sent or forwarded by it, 0 if it sets none.
	MTU int
	// Why says for what is not reachable why it is not, if more is known.
	Why string
}

// Types of addresses and routes (RTN_* in linux/rtnetlink.h).
const (
	typeUnicast     = 1
	typeLocal       = 2
	typeBroadcast   = 3
	typeAnycast     = 4
	typeMulticast   = 5
	typeUnreachable = 7
)

// addressType is the type of an address, in general or (dev not "") on one link;
// false if it is not known.
func (h *Host) addressType(a netip.Addr, dev string) (uint32, bool) {
	a = a.Unmap()
	switch {
	case !a.IsValid() || h.Links == nil:
		return 0, false
	case a.IsMulticast():
		return typeMulticast, true
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}), a.Is4() && a.As4()[0] == 0:
		return typeBroadcast, true
	}
	for name, l := range h.Links {
		if dev != "" && dev != name {
			continue
		}
		if name == "lo" && a.IsLoopback() && (a.Is4() || a == netip.IPv6Loopback()) {
			return typeLocal, true
		}
		for _, p := range l.Addresses {
			if p.Addr() == a {
				return typeLocal, true
			}
			if a.Is4() && p.Addr().Is4() && p.Bits() < 31 && (a == lastOf(p) || a == p.Masked().Addr()) {
				return broadcastType(p, a)
			}
		}
	}
	if a.Is4() {
		return typeUnicast, true
	}
	// IPv6 asks the routing table, and knows no address without a route.
	if h.Route == nil {
		return 0, false
	}
	r, ok := h.Route(RouteQuery{Target: a, Out: dev})
	if ok && r.Type == typeLocal && dev != "" {
		return typeUnicast, true
	}
	return r.Type, ok
}

// broadcastType: the last address of a subnet is its broadcast address; the
// first one was until Linux 5.14 (fib_add_ifaddr), so what it is is not known.
func broadcastType(p netip.Prefix, a netip.Addr) (uint32, bool) {
	return typeBroadcast, a == lastOf(p)
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}
