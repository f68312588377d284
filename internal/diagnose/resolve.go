package diagnose

import (
	"cmp"
	"fmt"
	"net/netip"
)

const everybody = "ff:ff:ff:ff:ff:ff"

// asksHost: before a packet, whoever sends it asks for the host's hardware
// address, and the host answers: by ARP, which passes the hooks of device, bridge
// and arp, or by neighbour discovery. from.Port is "" for a link that is no bridge.
// upper is the host's link, which has the VLAN of the bridge.
func (c *courier) asksHost(from End, upper string, whom netip.Addr) bool {
	if c.knows(upper, from) || !whom.IsValid() {
		return true
	}
	link := c.scene.Host.Links[upper]
	if whom.Is6() {
		return c.comesIn(solicitation(from.Addr, from.MAC, whom), from, upper, "the question of %s for the hardware address of %s (neighbour discovery)", nameOf(from), whom) &&
			c.goesOut(advertisement(whom, link.MAC, from.Addr, from.MAC), from, upper, "the host's answer to %s about its hardware address (neighbour discovery)", nameOf(from))
	}
	ask := Packet{EtherType: etherARP, EtherSource: from.MAC, EtherTarget: everybody, Broadcast: true, Source: from.Addr, Target: whom, ARPOperation: 1}
	reply := Packet{EtherType: etherARP, EtherSource: link.MAC, EtherTarget: from.MAC, Source: whom, Target: from.Addr, ARPOperation: 2}
	return c.comesIn(ask, from, upper, "the question of %s for the hardware address of %s (ARP)", nameOf(from), whom) &&
		c.goesOut(reply, from, upper, "the host's answer to %s about its hardware address (ARP)", nameOf(from))
}

// hostAsks: before a packet the host asks for the hardware address of who is
// next, unless somebody has told it by hand.
func (c *courier) hostAsks(p Packet, link string, to End, whom netip.Addr) bool {
	if c.scene.Neighbours[link][whom].Fixed || c.knows(link, to) {
		return true
	}
	to.Bridge = cmp.Or(c.bridgeOf(link), link)
	l := c.scene.Host.Links[link]
	if c.scene.Host.Links[to.Port].NoBroadcast && whom.Is4() {
		return c.end(Dropped, "port "+to.Port, "ip link set "+to.Port+" type bridge_slave bcast_flood on", "no broadcast goes out there, so that nobody can be asked for the hardware address of %s", whom)
	}
	if whom.Is6() {
		from := linkLocal(l)
		if hasAddr(l, p.Source) {
			from = p.Source
		}
		return c.goesOut(solicitation(from, l.MAC, whom), to, link, "the host's question for the hardware address of %s (neighbour discovery)", whom) &&
			c.comesIn(advertisement(whom, to.MAC, from, l.MAC), to, link, "the answer of %s about its hardware address (neighbour discovery)", whom)
	}
	ask := Packet{EtherType: etherARP, EtherSource: l.MAC, EtherTarget: everybody, Broadcast: true, Source: firstAddr(l, whom), Target: whom, ARPOperation: 1}
	reply := Packet{EtherType: etherARP, EtherSource: to.MAC, EtherTarget: l.MAC, Source: whom, Target: firstAddr(l, whom), ARPOperation: 2}
	return c.goesOut(ask, to, link, "the host's question for the hardware address of %s (ARP)", whom) &&
		c.comesIn(reply, to, link, "the answer of %s about its hardware address (ARP)", whom)
}

// heard says whether what the host knows of an address leads to whom it is meant
// for.
func (c *courier) heard(link string, to End, next netip.Addr) bool {
	n, there := c.scene.Neighbours[link][next]
	where := "neighbour " + next.String()
	switch {
	case !there:
		return true
	case n.Failed && to.Kind != Guest:
		return c.end(Dropped, where, "see that it is on, and that "+next.String()+" is its address", "it does not answer on %s", link)
	case n.Failed, !n.Fixed && c.known[pairOf(link, to)]:
		return true // it may have come since, or has just said where it is
	case to.Kind == Guest && to.MAC != "" && n.MAC != to.MAC && n.Fixed:
		return c.end(Dropped, where, fmt.Sprintf("ip neigh del %s dev %s", next, link), "somebody told the host that it is at %s; %s is at %s", n.MAC, nameOf(to), to.MAC)
	case to.Kind == Guest && to.MAC != "" && n.MAC != to.MAC:
		return c.end(Dropped, where, fmt.Sprintf("find who else has %s; then: ip neigh del %s dev %s", next, next, link), "%s answers for it, not %s, which is at %s", n.MAC, nameOf(to), to.MAC)
	case to.Kind != Guest && n.Fixed:
		return c.end(Unknown, where, "", "somebody told the host that it is at %s; whether that is so is not known", n.MAC)
	}
	return true
}

func linkLocal(l Link) netip.Addr {
	for _, p := range l.Addresses {
		if p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// knows says whether two sides know each other by now: a question tells who
// asks, so that the answer's way needs none. From then on they do.
func (c *courier) knows(link string, e End) bool {
	if c.known[pairOf(link, e)] {
		return true
	}
	if c.known == nil {
		c.known = map[string]bool{}
	}
	c.known[pairOf(link, e)] = true
	return false
}

func pairOf(link string, e End) string {
	if e.Kind == Guest {
		return link + " " + e.Addr.String()
	}
	return link
}

func nameOf(e End) string {
	if e.Name != "" {
		return e.Name
	}
	return e.Addr.String()
}

// stop is one hook with the interfaces that it sees.
type stop struct {
	at              At
	in, out         string
	physIn, physOut string
}

// comesIn sends a frame from a port, or in at a link, to the host.
func (c *courier) comesIn(p Packet, e End, upper string, format string, args ...any) bool {
	var way []stop
	if e.Port != "" {
		way = []stop{{at: At{Device, "ingress"}, in: e.Port}, {at: At{Switched, "prerouting"}, in: e.Port}, {at: At{Switched, "input"}, in: e.Port}}
	}
	way = append(way, stop{at: At{Device, "ingress"}, in: upper})
	if etherTypeOf(p) == etherARP {
		way = append(way, stop{at: At{ARP, "input"}, in: upper})
	} else {
		way = append(way, stop{at: At{Routed, "prerouting"}, in: upper}, stop{at: At{Routed, "input"}, in: upper})
	}
	return c.frame(p, way, format, args...)
}

// goesOut sends a frame of the host to a port, or out at a link.
func (c *courier) goesOut(p Packet, e End, upper string, format string, args ...any) bool {
	way := []stop{{at: At{ARP, "output"}, out: upper}}
	if etherTypeOf(p) != etherARP {
		way = []stop{{at: At{Routed, "output"}, out: upper}, {at: At{Routed, "postrouting"}, out: upper}}
	}
	way = append(way, stop{at: At{Device, "egress"}, out: upper})
	if e.Port != "" {
		way = append(way, stop{at: At{Switched, "output"}, out: e.Port}, stop{at: At{Switched, "postrouting"}, out: e.Port}, stop{at: At{Device, "egress"}, out: e.Port})
	}
	return c.frame(p, way, format, args...)
}

// frame sends a frame that only prepares the way; it is told about only if it
// does not get through.
func (c *courier) frame(p Packet, way []stop, format string, args ...any) bool {
	for _, s := range way {
		p.In, p.Out, p.PhysIn, p.PhysOut = s.in, s.out, s.physIn, s.physOut
		v := Walk(c.scene.Rules, c.scene.Host, s.at, p)
		if v.Kind == Accepted {
			continue
		}
		ok := c.verdict(s.at.Hook, v)
		if c.ended != nil {
			c.ended.What = fmt.Sprintf(format, args...) + ": " + c.ended.What
			c.steps[len(c.steps)-1] = *c.ended
		}
		return ok
	}
	return true
}

// solicitation is a question of neighbour discovery, which connection tracking
// leaves alone; advertisement is the answer.
func solicitation(from netip.Addr, mac string, whom netip.Addr) Packet {
	g := solicited(whom)
	b := g.As16()
	return Packet{
		EtherType: etherIP6, EtherSource: mac, EtherTarget: fmt.Sprintf("33:33:%02x:%02x:%02x:%02x", b[12], b[13], b[14], b[15]), Multicast: true, Source: from, Target: g,
		Protocol: protoICMP6, ICMPType: 135, Connection: Connection{State: Untracked},
	}
}

func advertisement(whom netip.Addr, mac string, to netip.Addr, toMAC string) Packet {
	return Packet{
		EtherType: etherIP6, EtherSource: mac, EtherTarget: toMAC, Source: whom, Target: to, Protocol: protoICMP6, ICMPType: 136,
		Connection: Connection{State: Untracked},
	}
}

// solicited is the group that a neighbour listens to (RFC 4291, 2.7.1).
func solicited(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// asksAcross: between ports of a bridge the question is a broadcast, or for a
// group, and the answer comes back.
func (c *courier) asksAcross(from, to End, whom netip.Addr) bool {
	if c.knows(from.Bridge, from) {
		return true
	}
	if whom.Is6() {
		return c.frame(solicitation(from.Addr, from.MAC, whom), c.between(from, to, true), "the question for the hardware address of %s (neighbour discovery)", whom) &&
			c.frame(advertisement(whom, to.MAC, from.Addr, from.MAC), c.between(to, from, true), "the answer of %s about its hardware address (neighbour discovery)", whom)
	}
	if c.scene.Host.Links[to.Port].NoBroadcast {
		return c.end(Dropped, "port "+to.Port, "ip link set "+to.Port+" type bridge_slave bcast_flood on", "no broadcast goes out there, so that nobody can be asked for the hardware address of %s", whom)
	}
	ask := Packet{EtherType: etherARP, EtherSource: from.MAC, EtherTarget: everybody, Broadcast: true, Source: from.Addr, Target: whom, ARPOperation: 1}
	reply := Packet{EtherType: etherARP, EtherSource: to.MAC, EtherTarget: from.MAC, Source: whom, Target: from.Addr, ARPOperation: 2}
	return c.frame(ask, c.between(from, to, false), "the question for the hardware address of %s (ARP)", whom) &&
		c.frame(reply, c.between(to, from, false), "the answer of %s about its hardware address (ARP)", whom)
}

// between are the hooks from one port of a bridge to another; those of IPv6 with
// them if br_netfilter shows it.
func (c *courier) between(a, b End, six bool) []stop {
	way := []stop{{at: At{Device, "ingress"}, in: a.Port}, {at: At{Switched, "prerouting"}, in: a.Port}}
	shown := six && c.scene.Host.BridgeCalls6
	show := func(hook, in, out, physOut string) {
		if shown {
			way = append(way, stop{At{Routed, hook}, in, out, a.Port, physOut})
		}
	}
	show("prerouting", a.Bridge, "", "")
	way = append(way, stop{at: At{Switched, "forward"}, in: a.Port, out: b.Port})
	show("forward", a.Bridge, a.Bridge, b.Port)
	way = append(way, stop{at: At{Switched, "postrouting"}, out: b.Port})
	show("postrouting", "", a.Bridge, b.Port)
	return append(way, stop{at: At{Device, "egress"}, out: b.Port})
}
