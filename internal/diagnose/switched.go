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
	vlan, ok := c.takenIn(from)
	if !ok {
		return false
	}
	c.narrowed("port "+from.Port, c.scene.Host.Links[from.Port].MTU, false)
	// Whom does the sender give the frame to?
	next := p.Target
	if from.Kind == Guest && !from.Subnet.Contains(p.Target) {
		if from.NoRouter {
			return c.end(Dropped, "gateway", "", "network %s is isolated: it tells its guests no way to %s", from.Network, p.Target)
		}
		if !from.Subnet.IsValid() {
			return c.end(Dropped, "gateway", "", "%s of %s is in no subnet of network %s, so no gateway is known to it", from.Addr, from.Name, from.Network)
		}
		if !from.Gateway.IsValid() {
			return c.end(Dropped, "gateway", "", "%s is outside of %s and the network has no gateway", p.Target, from.Subnet)
		}
		next = from.Gateway
	}
	upper := c.upper(from.Bridge, vlan)
	if c.answersFor(upper, next) {
		return c.asksHost(from, upper, next) && c.upToHost(p, from, upper)
	}
	if c.isOnBridge(from.Bridge, next) {
		return c.across(p, from, next, vlan)
	}
	if own := c.linkWith(from.Bridge, next); own != "" && own != upper {
		return c.end(Dropped, "bridge "+from.Bridge, c.mendVLAN(from, c.vlanOfLink(own), true), "different VLANs: the frame is in VLAN %d, and the host has %s in %d", vlan, next, c.vlanOfLink(own))
	}
	if from.Kind == Outside && upper != "" {
		// The LAN's machine gives to the host what it routes there.
		return c.upToHost(p, from, upper)
	}
	return c.across(p, from, next, vlan)
}

// upToHost gives a frame to the host itself, which sees it at a link.
func (c *courier) upToHost(p Packet, from End, upper string) bool {
	link := c.scene.Host.Links[upper]
	p.EtherTarget = link.MAC
	c.entered(from.Port, link.MAC)
	if !c.hooked(p, At{Switched, "prerouting"}) {
		return false
	}
	if c.shows(p.Target) {
		p.In = upper
		return c.routed(p, c.keptBack(p.Target, from, upper))
	}
	if !c.hooked(p, At{Switched, "input"}) {
		return false
	}
	p.In = upper
	return c.routed(p, nil)
}

// answersFor says whether the host answers questions for an address on a link:
// in IPv4 for any of its own (arp_ignore is 0 by default), in IPv6 for those of
// the link.
func (c *courier) answersFor(link string, a netip.Addr) bool {
	if link == "" {
		return false
	}
	return hasAddr(c.scene.Host.Links[link], a) || a.Is4() && c.hostTakes(a)
}

// linkWith is the host's link on a bridge, of whatever VLAN, that has an address.
func (c *courier) linkWith(bridge string, a netip.Addr) string {
	for _, name := range c.linksOn(bridge) {
		if hasAddr(c.scene.Host.Links[name], a) {
			return name
		}
	}
	return ""
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
	if l.Waits != "" {
		return c.end(Dropped, where, noSpanningTree(e.Bridge)+" && bridge link set dev "+e.Port+" state 3", "%s's port does not forward yet: it is %s (spanning tree)", who, l.Waits)
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
func (c *courier) across(p Packet, from End, next netip.Addr, vlan int) bool {
	to := c.endAt(from.Bridge, c.upper(from.Bridge, vlan), next)
	if to.Kind == Outside && to.VLAN == 0 {
		to.VLAN = vlan // it is one of those who hear it
	}
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
	if !c.givenOut(to, vlan, from.Name) || !c.isIn(to, vlan) || !c.asksAcross(from, to, next) || !c.placed(from.Bridge, to, vlan, false) {
		return false
	}
	c.narrowed("port "+to.Port, out.MTU, true)
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
	if !c.shows(p.Target) {
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

// endAt finds who has an address on a bridge; link is where the host would look
// for it there, "" if it has none.
func (c *courier) endAt(bridge, link string, a netip.Addr) End {
	for _, g := range c.scene.Guests {
		if g.Addr == a && (g.Bridge == bridge || g.Bridge == "") {
			return g
		}
	}
	e := End{Kind: Outside, Name: a.String(), Addr: a, Bridge: bridge, Plugged: true, VLAN: c.vlanOfLink(link)}
	if n, ok := c.scene.Neighbours[link][a]; ok {
		e.MAC = n.MAC
	}
	if e.Port = c.portOf(bridge, link, e); e.Port == "" {
		e.Port = c.uplinkOf(bridge)
	}
	return e
}

// portOf is the port behind which an end's hardware address was learnt.
func (c *courier) portOf(bridge, link string, e End) string {
	mac := e.MAC
	if n, ok := c.scene.Neighbours[link][e.Addr]; ok && mac == "" {
		mac = n.MAC
	}
	return c.scene.Learned[bridge][mac]
}

// uplinkOf is the only port of a bridge that is no guest's.
func (c *courier) uplinkOf(bridge string) string {
	if c.guestPorts == nil {
		c.guestPorts = make(map[string]bool, len(c.scene.Guests))
		for _, g := range c.scene.Guests {
			c.guestPorts[g.Port] = true
		}
	}
	found := ""
	for name, l := range c.scene.Host.Links {
		if l.Master != bridge || c.guestPorts[name] {
			continue
		}
		if found != "" {
			return ""
		}
		found = name
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
