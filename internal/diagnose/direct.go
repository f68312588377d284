package diagnose

import (
	"fmt"
	"net/netip"
)

// A guest with a macvtap has a NIC of its own on the cable of the host's: its frames
// pass the host's rules by, and what the host itself sends by that NIC goes out to the
// cable and not to the guests beside it (drivers/net/macvlan.c looks only at what comes
// in, and at what macvlans send).

// shares says whether a guest shares a NIC of the host's.
func (c *courier) shares(e End) bool {
	return e.Kind == Guest && c.scene.Host.Links[e.Port].Kind == "macvtap"
}

const secondNIC = "give the guest a second NIC on another network: drawbridge qemu --nic network=default --nic network=%s -- …"

// apart ends the way between a host and a guest that shares its NIC.
func (c *courier) apart(guest End) bool {
	return c.end(Dropped, "link "+guest.Bridge, fmt.Sprintf(secondNIC, guest.Network),
		"%s shares %s with the host by macvtap: what one sends to the other goes out to the cable and does not come back", guest.Name, guest.Bridge)
}

// sharedWorks checks what a guest that shares a NIC needs.
func (c *courier) sharedWorks(e End) bool {
	l, where := c.scene.Host.Links[e.Port], "port "+e.Port
	switch {
	case !l.Up:
		return c.end(Dropped, where, "ip link set "+e.Port+" up", "%s's port is down", e.Name)
	case !c.linkUp(e.Bridge):
		return false
	}
	c.add(where, "%s, up, shares %s by macvtap", e.Name, e.Bridge)
	return true
}

// fromShared sends what a guest that shares a NIC says: to another one beside it, or out to
// the cable.
func (c *courier) fromShared(p Packet, from End) bool {
	c.past = true
	if !c.sharedWorks(from) || !c.verdict("egress", Walk(c.scene.Rules, c.scene.Host, At{Device, "egress"}, p.at("", from.Port))) {
		return false
	}
	nic := c.scene.Host.Links[from.Bridge]
	if hasAddr(nic, p.Target) {
		return c.apart(from)
	}
	for _, g := range c.scene.Guests {
		if g.Addr == p.Target && g.Bridge == from.Bridge && c.shares(g) {
			return c.toShared(p, g)
		}
	}
	p = p.at("", from.Bridge)
	if !c.verdict("egress", Walk(c.scene.Rules, c.scene.Host, At{Device, "egress"}, p)) {
		return false
	}
	next := p.Target
	if from.Subnet.IsValid() && !from.Subnet.Contains(next) {
		next = from.Gateway
	}
	whom := "the guest's gateway"
	if next.IsValid() {
		whom = next.String()
	}
	c.add("link "+from.Bridge, "goes out to %s, past the host's own rules", whom)
	if c.hostTakes(p.Target) {
		return c.end(Unknown, "link "+from.Bridge, fmt.Sprintf(secondNIC, from.Network), "%s is the host's on another link, and whether somebody on the LAN leads there is not known", p.Target)
	}
	c.arrived = p
	if !c.back {
		c.reached = End{Kind: Outside, Name: p.Target.String(), Addr: p.Target, Bridge: from.Bridge}
	}
	return true
}

// toShared gives a frame to a guest that shares a NIC.
func (c *courier) toShared(p Packet, to End) bool {
	if !c.sharedWorks(to) || !c.verdict("ingress", Walk(c.scene.Rules, c.scene.Host, At{Device, "ingress"}, p.at(to.Port, ""))) {
		return false
	}
	c.arrived = p
	if !c.back {
		c.reached = to
	}
	return true
}

// byCable finds the guest that a packet from the outside comes to by the cable of the NIC
// that it shares, and not through the host.
func (c *courier) byCable(p Packet, from End) (End, bool) {
	g, ok := c.sharedAt(p.Target)
	// Where the host has no address beside the guest's, that is not the host's LAN.
	return g, ok && (from.Bridge == g.Bridge || c.linkTo(from.Addr) == g.Bridge || !g.Subnet.IsValid())
}

// cableToShared: somebody on the LAN sends to a guest that shares a NIC.
func (c *courier) cableToShared(p Packet, to End) bool {
	c.past = true
	if !c.linkUp(to.Bridge) || !c.verdict("ingress", Walk(c.scene.Rules, c.scene.Host, At{Device, "ingress"}, p.at(to.Bridge, ""))) {
		return false
	}
	c.add("link "+to.Bridge, "comes in, and goes to the guest past the host's own rules")
	return c.toShared(p, to)
}

// sharedAt finds the guest that shares a NIC and has an address.
func (c *courier) sharedAt(a netip.Addr) (End, bool) {
	for _, g := range c.scene.Guests {
		if g.Addr == a && a.IsValid() && c.shares(g) {
			return g, true
		}
	}
	return End{}, false
}

// at is the packet as a device's hook sees it.
func (p Packet) at(in, out string) Packet {
	p.In, p.Out = in, out
	return p
}
