package diagnose

import (
	"fmt"
	"net/netip"
)

const everybody = "ff:ff:ff:ff:ff:ff"

// asksHost: before a packet, whoever sends it asks for the host's hardware
// address, and the host answers: by ARP, which passes the hooks of device, bridge
// and arp, or by neighbour discovery. from.Port is "" for a link that is no bridge.
func (c *courier) asksHost(from End, whom netip.Addr) bool {
	if c.knows(from.Bridge, from) {
		return true
	}
	if !whom.Is4() || !from.Addr.Is4() {
		return c.solicits(from, whom)
	}
	link := c.scene.Host.Links[from.Bridge]
	ask := Packet{EtherType: etherARP, EtherSource: from.MAC, EtherTarget: everybody, Broadcast: true, Source: from.Addr, Target: whom, ARPOperation: 1}
	reply := Packet{EtherType: etherARP, EtherSource: link.MAC, EtherTarget: from.MAC, Source: whom, Target: from.Addr, ARPOperation: 2}
	return c.comesIn(ask, from, "the question of %s for the hardware address of %s (ARP)", nameOf(from), whom) &&
		c.goesOut(reply, from, "the host's answer to %s about its hardware address (ARP)", nameOf(from))
}

// hostAsks: before a packet the host asks for the hardware address of who is next.
func (c *courier) hostAsks(link string, to End, whom netip.Addr) bool {
	if !whom.Is4() {
		return true
	}
	to.Bridge = link
	if c.knows(link, to) {
		return true
	}
	l := c.scene.Host.Links[link]
	ask := Packet{EtherType: etherARP, EtherSource: l.MAC, EtherTarget: everybody, Broadcast: true, Source: firstAddr(l, whom), Target: whom, ARPOperation: 1}
	reply := Packet{EtherType: etherARP, EtherSource: to.MAC, EtherTarget: l.MAC, Source: whom, Target: firstAddr(l, whom), ARPOperation: 2}
	return c.goesOut(ask, to, "the host's question for the hardware address of %s (ARP)", whom) &&
		c.comesIn(reply, to, "the answer of %s about its hardware address (ARP)", whom)
}

// knows says whether two sides know each other by now: a question tells who
// asks, so that the answer's way needs none. From then on they do.
func (c *courier) knows(link string, e End) bool {
	who := link
	if e.Kind == Guest {
		who += " " + e.Addr.String()
	}
	if c.known[who] {
		return true
	}
	if c.known == nil {
		c.known = map[string]bool{}
	}
	c.known[who] = true
	return false
}

func nameOf(e End) string {
	if e.Name != "" {
		return e.Name
	}
	return e.Addr.String()
}

// stop is one hook with the interfaces that it sees.
type stop struct {
	at      At
	in, out string
}

// comesIn sends a frame from a port, or in at a link, to the host.
func (c *courier) comesIn(p Packet, e End, format string, args ...any) bool {
	var way []stop
	if e.Port != "" {
		way = []stop{{At{Device, "ingress"}, e.Port, ""}, {At{Switched, "prerouting"}, e.Port, ""}, {At{Switched, "input"}, e.Port, ""}}
	}
	way = append(way, stop{At{Device, "ingress"}, e.Bridge, ""})
	if etherTypeOf(p) == etherARP {
		way = append(way, stop{At{ARP, "input"}, e.Bridge, ""})
	} else {
		way = append(way, stop{At{Routed, "prerouting"}, e.Bridge, ""}, stop{At{Routed, "input"}, e.Bridge, ""})
	}
	return c.frame(p, way, format, args...)
}

// goesOut sends a frame of the host to a port, or out at a link.
func (c *courier) goesOut(p Packet, e End, format string, args ...any) bool {
	way := []stop{{At{ARP, "output"}, "", e.Bridge}, {At{Device, "egress"}, "", e.Bridge}}
	if e.Port != "" {
		way = append(way, stop{At{Switched, "output"}, "", e.Port}, stop{At{Switched, "postrouting"}, "", e.Port}, stop{At{Device, "egress"}, "", e.Port})
	}
	return c.frame(p, way, format, args...)
}

// frame sends a frame that only prepares the way; it is told about only if it
// does not get through.
func (c *courier) frame(p Packet, way []stop, format string, args ...any) bool {
	for _, s := range way {
		p.In, p.Out = s.in, s.out
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

// solicits is neighbour discovery: ICMPv6, which connection tracking leaves
// alone.
func (c *courier) solicits(from End, whom netip.Addr) bool {
	if !whom.Is6() || !from.Addr.Is6() {
		return true
	}
	ask := Packet{
		EtherSource: from.MAC, Multicast: true, Source: from.Addr, Target: solicited(whom), Protocol: protoICMP6, ICMPType: 135,
		Connection: Connection{State: Untracked},
	}
	return c.comesIn(ask, from, "the question of %s for the hardware address of %s (neighbour discovery)", nameOf(from), whom)
}

// solicited is the group that a neighbour listens to (RFC 4291, 2.7.1).
func solicited(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// asksAcross: between ports of a bridge the question is a broadcast, and the
// answer comes back.
func (c *courier) asksAcross(from, to End, whom netip.Addr) bool {
	if !whom.Is4() || !from.Addr.Is4() || c.knows(from.Bridge, from) {
		return true
	}
	ask := Packet{EtherType: etherARP, EtherSource: from.MAC, EtherTarget: everybody, Broadcast: true, Source: from.Addr, Target: whom, ARPOperation: 1}
	reply := Packet{EtherType: etherARP, EtherSource: to.MAC, EtherTarget: from.MAC, Source: whom, Target: from.Addr, ARPOperation: 2}
	between := func(a, b End) []stop {
		return []stop{
			{At{Device, "ingress"}, a.Port, ""}, {At{Switched, "prerouting"}, a.Port, ""}, {At{Switched, "forward"}, a.Port, b.Port},
			{At{Switched, "postrouting"}, "", b.Port}, {At{Device, "egress"}, "", b.Port},
		}
	}
	return c.frame(ask, between(from, to), "the question for the hardware address of %s (ARP)", whom) &&
		c.frame(reply, between(to, from), "the answer of %s about its hardware address (ARP)", whom)
}
