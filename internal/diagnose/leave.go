package diagnose

import (
	"fmt"
	"net/netip"
)

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
		if g.Addr != p.Target || g.Bridge == "" || g.Bridge == c.bridgeOf(p.Out) || c.shares(g) {
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
	c.narrowed("link "+p.Out, out.MTU, false)
	c.narrowed("the route to "+p.Target.String(), r.MTU, false)
	if !c.back {
		c.left = p.Out
	}
	if c.bridgeOf(p.Out) != "" {
		return c.leaveBridge(p, next)
	}
	if !c.linkUp(p.Out) {
		return false
	}
	if !c.heard(p.Out, End{Name: next.String(), Addr: next}, next) || !c.hostAsks(p, p.Out, End{Name: next.String(), Addr: next}, next) {
		return false
	}
	c.add("link "+p.Out, "goes out to %s", next)
	return c.toOutside(p, End{})
}

// leaveBridge gives a packet to the port that its target is behind.
func (c *courier) leaveBridge(p Packet, next netip.Addr) bool {
	link, bridge := p.Out, c.bridgeOf(p.Out)
	to := c.endAt(bridge, link, next)
	if to.Kind == Guest && !to.Plugged || to.Port == "" {
		return c.end(Dropped, "bridge "+bridge, "start the guest", "nobody on %s is known to have %s", bridge, next)
	}
	if to.Kind == Guest && !c.portWorks(to) {
		return false
	}
	vlan, ok := c.hostSends(link)
	if !ok || !c.givenOut(to, vlan, "the host") || !c.heard(link, to, next) || !c.hostAsks(p, link, to, next) || !c.placed(bridge, to, vlan, c.kept == "") {
		return false
	}
	frame := p
	frame.In, frame.Out, frame.EtherSource, frame.EtherTarget = "", to.Port, c.scene.Host.Links[link].MAC, to.MAC
	c.narrowed("port "+to.Port, c.scene.Host.Links[to.Port].MTU, true)
	first, at := frame, At{Switched, "output"}
	if c.kept != "" {
		first.In, at.Hook, c.kept = c.kept, "forward", ""
	}
	if !c.hooked(first, at) || !c.hooked(frame, At{Switched, "postrouting"}) {
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
	return c.toOutside(p, to)
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
// by is the port of a bridge, if there is one.
func (c *courier) toOutside(p Packet, by End) bool {
	c.arrived = p
	end := c.question.To
	if c.back {
		end = c.question.From
	}
	if end.Kind == Guest && end.Plugged && end.Addr == p.Target && !c.shares(end) {
		return c.end(Unknown, "wire", "", "it goes out to look for %s, which is a guest of this host; whether somebody there sends it back in is not known", p.Target)
	}
	if c.back {
		return true
	}
	c.reached = End{Kind: Outside, Name: p.Target.String(), Addr: p.Target, Bridge: by.Bridge, Port: by.Port, Plugged: by.Port != "", MAC: by.MAC, VLAN: by.VLAN}
	if to := c.question.To; to.Kind == Itself {
		return c.end(Dropped, "address", fmt.Sprintf("ip address add %s/PREFIX dev LINK", to.Addr), "the host does not have %s, so the packet goes out to look for it elsewhere", to.Addr)
	}
	if from := c.question.From; from.Kind == Outside && !c.hostTakes(p.Source) {
		if p.Target == from.Addr {
			return c.end(Dropped, "NAT", "", "it is sent back to %s, which takes nothing from itself", p.Target)
		}
		return c.end(Unknown, "answer", "", "%s answers %s itself, perhaps not by this host", p.Target, p.Source)
	}
	if c.ownsSource(p) {
		return true
	}
	mend := ""
	if c.question.From.Subnet.IsValid() {
		mend = "let the network be NAT, or tell the others a route to " + c.question.From.Subnet.String()
	}
	return c.end(Unknown, "answer", mend,
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
