package diagnose

import (
	"cmp"
	"fmt"
	"net/netip"
)

// fromPort takes a frame out of a port of a bridge: to another port, or up to
// the host.
func (c *courier) fromPort(p Packet, from End) bool {
	if !c.portWorks(from) {
		return false
	}
	p.In = from.Port
	if !c.verdict("ingress", Walk(c.scene.Rules, c.scene.Host, At{Device, "ingress"}, p)) {
		return false
	}
	bridge := c.scene.Host.Links[from.Bridge]
	// Whom does the sender give the frame to?
	next := p.Target
	if from.Kind == Guest && !from.Subnet.Contains(p.Target) {
		if !from.Gateway.IsValid() {
			return c.end(Dropped, "gateway", "", "%s is outside of %s and the network has no gateway", p.Target, from.Subnet)
		}
		next = from.Gateway
	}
	if hasAddr(bridge, next) || c.back && c.hostTakes(next) {
		if !c.asksHost(from, next) {
			return false
		}
		p.EtherTarget = bridge.MAC
		c.entered(from.Port, bridge.MAC)
		if !c.hooked(p, At{Switched, "prerouting"}) || !c.hooked(p, At{Switched, "input"}) {
			return false
		}
		p.In = from.Bridge
		return c.routed(p)
	}
	if from.Kind == Outside && !c.isOnBridge(from.Bridge, next) {
		// The LAN's machine gives to the host what it routes there.
		c.entered(from.Port, bridge.MAC)
		if !c.hooked(p, At{Switched, "prerouting"}) || !c.hooked(p, At{Switched, "input"}) {
			return false
		}
		p.In = from.Bridge
		return c.routed(p)
	}
	return c.across(p, from, next)
}

func hasAddr(l Link, a netip.Addr) bool {
	for _, p := range l.Addresses {
		if p.Addr() == a {
			return true
		}
	}
	return false
}

// hostTakes: any address of the host is answered for by ARP on any link
// (arp_ignore is 0 by default).
func (c *courier) hostTakes(a netip.Addr) bool {
	for _, l := range c.scene.Host.Links {
		if hasAddr(l, a) {
			return true
		}
	}
	return false
}

// isOnBridge says whether an address is that of a machine behind a bridge.
func (c *courier) isOnBridge(bridge string, a netip.Addr) bool {
	for _, g := range c.scene.Guests {
		if g.Bridge == bridge && g.Addr == a {
			return true
		}
	}
	return false
}

// portWorks checks what a cable needs: the port is there, up, in its bridge, and
// the bridge is up.
func (c *courier) portWorks(e End) bool {
	who := cmp.Or(e.Name, e.Addr.String())
	if !e.Plugged {
		return c.end(Dropped, "port", "start the guest, or: drawbridge port attach", "%s has no port on a bridge", who)
	}
	l, there := c.scene.Host.Links[e.Port]
	where := "port " + e.Port
	switch {
	case !there:
		return c.end(Dropped, where, "start the guest", "%s's port is not there", who)
	case !l.Up:
		return c.end(Dropped, where, "ip link set "+e.Port+" up", "%s's port is down", who)
	case !l.Carrier:
		return c.end(Dropped, where, "start the guest", "nobody is at the other end of %s's port", who)
	case l.Master != e.Bridge:
		return c.end(Dropped, where, fmt.Sprintf("ip link set %s master %s", e.Port, e.Bridge), "%s's port is not in bridge %s", who, e.Bridge)
	}
	c.add(where, "%s, up, in bridge %s", who, e.Bridge)
	b, there := c.scene.Host.Links[e.Bridge]
	if !there || !b.Up {
		return c.end(Dropped, "bridge "+e.Bridge, "ip link set "+e.Bridge+" up", "the bridge is down")
	}
	return true
}

// hooked sends a frame through a hook of the bridge family.
func (c *courier) hooked(p Packet, at At) bool {
	return c.verdict(at.Hook, Walk(c.scene.Rules, c.scene.Host, at, p))
}

// across sends a frame from one port of a bridge to another.
func (c *courier) across(p Packet, from End, next netip.Addr) bool {
	to := c.endAt(from.Bridge, next)
	out, isolated := c.scene.Host.Links[to.Port], c.scene.Host.Links[from.Port].Isolated
	if to.Port == "" {
		return c.end(Dropped, "bridge "+from.Bridge, "", "nobody on %s is known to have %s", from.Bridge, next)
	}
	if to.Port == from.Port {
		return c.end(Dropped, "bridge "+from.Bridge, "", "%s is behind the port that the frame comes from", next)
	}
	if isolated && out.Isolated {
		return c.end(Dropped, "port "+to.Port, "ip link set "+to.Port+" type bridge_slave isolated off", "both ports are isolated, so guests do not see each other")
	}
	if !c.asksAcross(from, to, next) {
		return false
	}
	p.EtherTarget = to.MAC
	c.entered(from.Port, to.MAC)
	if !c.hooked(p, At{Switched, "prerouting"}) {
		return false
	}
	p, ok := c.shown(p, from, to, "prerouting")
	if !ok {
		return false
	}
	p.In, p.Out, p.PhysIn, p.PhysOut = from.Port, to.Port, "", ""
	if !c.hooked(p, At{Switched, "forward"}) {
		return false
	}
	if p, ok = c.shown(p, from, to, "forward"); !ok {
		return false
	}
	p.In, p.Out, p.PhysIn, p.PhysOut = "", to.Port, "", ""
	if !c.hooked(p, At{Switched, "postrouting"}) {
		return false
	}
	if p, ok = c.shown(p, from, to, "postrouting"); !ok {
		return false
	}
	p.Out = to.Port
	return c.atPort(p, to)
}

// shown sends a bridged packet through the IP hooks if br_netfilter shows it.
func (c *courier) shown(p Packet, from, to End, hook string) (Packet, bool) {
	six := etherTypeOf(p) == etherIP6
	if !six && !c.scene.Host.BridgeCalls4 || six && !c.scene.Host.BridgeCalls6 {
		return p, true
	}
	p.In, p.Out, p.PhysIn, p.PhysOut = from.Bridge, from.Bridge, from.Port, to.Port
	switch hook {
	case "prerouting":
		p.Out, p.PhysOut = "", ""
	case "postrouting":
		p.In = ""
	}
	before := p.Target
	v := Walk(c.scene.Rules, c.scene.Host, At{Routed, hook}, p)
	if !c.verdict("br_netfilter "+hook, v) {
		return p, false
	}
	if v.After.Target != before {
		return p, c.end(Unknown, "br_netfilter", "", "a rule translates the target of a bridged packet")
	}
	return v.After, true
}

// endAt finds who has an address on a bridge.
func (c *courier) endAt(bridge string, a netip.Addr) End {
	for _, g := range c.scene.Guests {
		if g.Addr == a && (g.Bridge == bridge || g.Bridge == "") {
			return g
		}
	}
	e := End{Kind: Outside, Name: a.String(), Addr: a, Bridge: bridge, Plugged: true}
	if n, ok := c.scene.Neighbours[bridge][a]; ok {
		e.MAC = n.MAC
	}
	if e.Port = c.portOf(bridge, e); e.Port == "" {
		e.Port = c.uplinkOf(bridge)
	}
	return e
}

// portOf is the port behind which an end's hardware address was learnt.
func (c *courier) portOf(bridge string, e End) string {
	mac := e.MAC
	if n, ok := c.scene.Neighbours[bridge][e.Addr]; ok && mac == "" {
		mac = n.MAC
	}
	return c.scene.Learned[bridge][mac]
}

// uplinkOf is the only port of a bridge that is no guest's.
func (c *courier) uplinkOf(bridge string) string {
	found := ""
	for name, l := range c.scene.Host.Links {
		if l.Master != bridge {
			continue
		}
		guest := false
		for _, g := range c.scene.Guests {
			guest = guest || g.Port == name
		}
		if !guest {
			if found != "" {
				return ""
			}
			found = name
		}
	}
	return found
}

func (c *courier) subnetOn(link string, a netip.Addr) netip.Prefix {
	for _, p := range c.scene.Host.Links[link].Addresses {
		if p.Contains(a) {
			return p.Masked()
		}
	}
	return netip.Prefix{}
}

// leave sends a packet out at a link: to a port of a bridge, or to the wire.
func (c *courier) leave(p Packet, r RouteAnswer) bool {
	out := c.scene.Host.Links[p.Out]
	next := p.Target
	if r.Via.IsValid() {
		next = r.Via
	}
	if g, ok := c.sharedAt(p.Target); ok && g.Bridge == p.Out && next == p.Target {
		return c.apart(g)
	}
	for _, g := range c.scene.Guests {
		if g.Addr != p.Target || g.Bridge == "" || g.Bridge == p.Out || c.shares(g) {
			continue
		}
		if b := c.scene.Host.Links[g.Bridge]; !b.Up {
			return c.end(Dropped, "bridge "+g.Bridge, "ip link set "+g.Bridge+" up", "it is down, so the host sends what is for %s out at %s", g.Name, p.Out)
		}
		return c.end(Dropped, "route", fmt.Sprintf("ip route get %s shows which route is in the way", p.Target), "the host sends what is for %s out at %s and not to bridge %s", g.Name, p.Out, g.Bridge)
	}
	if !out.Up {
		return c.end(Dropped, "link "+p.Out, "ip link set "+p.Out+" up", "is down")
	}
	if out.Kind == "bridge" {
		return c.leaveBridge(p, next)
	}
	if !c.linkUp(p.Out) {
		return false
	}
	if n, ok := c.scene.Neighbours[p.Out][next]; ok && n.Failed {
		return c.end(Dropped, "neighbour "+next.String(), "see that it is on, and that "+next.String()+" is its address", "it does not answer on %s", p.Out)
	}
	if !c.hostAsks(p.Out, End{Name: next.String(), Addr: next}, next) {
		return false
	}
	c.add("link "+p.Out, "goes out to %s", next)
	return c.toOutside(p)
}

// leaveBridge gives a packet to the port that its target is behind.
func (c *courier) leaveBridge(p Packet, next netip.Addr) bool {
	bridge := p.Out
	to := c.endAt(bridge, next)
	if to.Kind == Guest && !to.Plugged || to.Port == "" {
		return c.end(Dropped, "bridge "+bridge, "start the guest", "nobody on %s is known to have %s", bridge, next)
	}
	if to.Kind == Guest && !c.portWorks(to) {
		return false
	}
	if n, ok := c.scene.Neighbours[bridge][next]; ok && n.Failed && to.Kind != Guest {
		return c.end(Dropped, "neighbour "+next.String(), "see that it is on, and that "+next.String()+" is its address", "it does not answer on %s", bridge)
	}
	if !c.hostAsks(bridge, to, next) {
		return false
	}
	frame := p
	frame.In, frame.Out, frame.EtherSource, frame.EtherTarget = "", to.Port, c.scene.Host.Links[bridge].MAC, to.MAC
	if !c.hooked(frame, At{Switched, "output"}) || !c.hooked(frame, At{Switched, "postrouting"}) {
		return false
	}
	return c.atPort(frame, to)
}

// atPort: the frame leaves a bridge by a port.
func (c *courier) atPort(p Packet, to End) bool {
	if to.Kind == Guest && c.lastPort() != to.Port && !c.portWorks(to) {
		return false
	}
	if to.Kind != Guest && !c.linkUp(to.Port) {
		return false
	}
	if !c.verdict("egress", Walk(c.scene.Rules, c.scene.Host, At{Device, "egress"}, p)) {
		return false
	}
	if to.Kind == Guest {
		c.arrived = p
		if !c.back {
			c.reached = to
		}
		return true
	}
	c.add("port "+to.Port, "goes out to %s", to.Addr)
	return c.toOutside(p)
}

// lastPort is the port that was looked at last.
func (c *courier) lastPort() string {
	for i := len(c.steps) - 1; i >= 0; i-- {
		if c.steps[i].Back != c.back {
			return ""
		}
		if name, ok := cutPort(c.steps[i].Where); ok {
			return name
		}
	}
	return ""
}

func cutPort(where string) (string, bool) {
	if len(where) > 5 && where[:5] == "port " {
		return where[5:], true
	}
	return "", false
}

// toOutside: the packet is on the wire; whether the other end could answer is
// seen by the address that it goes by.
func (c *courier) toOutside(p Packet) bool {
	c.arrived = p
	if c.back {
		return true
	}
	c.reached = End{Kind: Outside, Name: p.Target.String(), Addr: p.Target}
	if from := c.question.From; from.Kind == Outside && !c.hostTakes(p.Source) {
		if p.Target == from.Addr {
			return c.end(Dropped, "NAT", "", "it is sent back to %s, which takes nothing from itself", p.Target)
		}
		return c.end(Unknown, "answer", "", "%s answers %s itself, perhaps not by this host", p.Target, p.Source)
	}
	if c.ownsSource(p) {
		return true
	}
	return c.end(Unknown, "answer", "let the network be NAT, or tell the others a route to "+c.question.From.Subnet.String(),
		"the packet goes out as %s, and whether others know a way back to that is not known", p.Source)
}

// ownsSource: answers find back if the source is an address of the host, or of a
// subnet that the host shares with the others.
func (c *courier) ownsSource(p Packet) bool {
	if !p.Source.IsValid() || c.hostTakes(p.Source) {
		return true
	}
	out := c.scene.Host.Links[p.Out]
	if out.Master != "" {
		return true // bridged: it is on the LAN itself
	}
	for _, a := range out.Addresses {
		if a.Contains(p.Source) {
			return true
		}
	}
	return false
}
