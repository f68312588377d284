package topology

import (
	"net/netip"
	"slices"
	"strings"

	"drawbridge/internal/host"
)

// outside adds LANs and the NICs that lead there, with what they stand on. A
// NIC that is plugged into a bridge leads to the LAN that the bridge has its
// address in.
func (b *builder) outside() {
	for _, name := range b.outward() {
		b.nic(name)
	}
	for _, n := range slices.Clone(b.graph.Nodes) {
		b.attach(n.Name)
	}
	for _, n := range slices.Clone(b.graph.Nodes) {
		if n.Kind != KindNIC {
			continue
		}
		l := b.links[n.Name]
		if l.Lower != "" && b.has(id(KindNIC, l.Lower)) {
			b.edge(Edge{From: id(KindNIC, l.Lower), To: n.ID, Kind: EdgeStacked})
		}
		if l.Type == typeBond {
			for _, member := range b.members[n.Name] {
				b.edge(Edge{From: id(KindNIC, member), To: n.ID, Kind: EdgeStacked})
			}
		}
	}
}

// typeBond and typeVLAN are IFLA_INFO_KIND of what has links below.
const (
	typeBond = "bond"
	typeVLAN = "vlan"
)

// nic adds an interface after those that it stands on.
func (b *builder) nic(name string) {
	l, there := b.links[name]
	if !there || b.has(id(KindNIC, name)) {
		return
	}
	if l.Lower != "" && l.Lower != name {
		if lower := b.links[l.Lower]; lower.Type != host.TypeBridge {
			b.nic(l.Lower)
		}
	}
	n := b.link(KindNIC, name)
	if l.Type == typeBond {
		for _, member := range b.members[name] {
			b.nic(member)
		}
	}
	// A cable that is missing is a problem where somebody counts on it.
	if n.Health == Down && (n.Uplink || b.joined(l)) {
		n.Health = Problem
	}
	b.node(n)
}

// joined says whether a link carries a network of ours to the outside.
func (b *builder) joined(l host.Link) bool {
	n := b.owners[l.Master]
	return n.Name != "" && (n.Started || n.Adopt)
}

// attach joins a NIC to its LAN. What carries others has no LAN of its own,
// unless it has an address.
func (b *builder) attach(name string) {
	holder := name
	if master := b.links[b.links[name].Master]; master.Type == host.TypeBridge {
		holder = master.Name
	}
	lan := strings.Join(b.lans(holder), " ")
	if lan == "" {
		return
	}
	lanID := id(KindLAN, lan)
	if !b.has(lanID) {
		b.node(Node{Kind: KindLAN, Name: lan, Addresses: b.routers(holder), Foreign: true, Uplink: holder == b.uplink()})
	}
	b.edge(Edge{From: lanID, To: id(KindNIC, name), Kind: EdgeAttached})
	for _, cable := range b.cables(name) {
		b.edge(Edge{From: lanID, To: id(KindNIC, cable), Kind: EdgeAttached})
	}
}

// cables are the NICs at the bottom of what an interface stands on; none if it
// stands on nothing.
func (b *builder) cables(name string) []string {
	var below []string
	l := b.links[name]
	switch {
	case l.Lower != "" && b.has(id(KindNIC, l.Lower)):
		below = []string{l.Lower}
	case l.Type == typeBond:
		below = b.members[name]
	}
	var out []string
	for _, lower := range below {
		if further := b.cables(lower); len(further) > 0 {
			out = append(out, further...)
		} else {
			out = append(out, lower)
		}
	}
	return out
}

// outward lists the host's NICs: those that carry a default route first. A link
// without master counts if it has an address or a default route; a port of a
// bridge counts if it is the bridge's way out.
func (b *builder) outward() []string {
	var names []string
	seen := map[string]bool{}
	add := func(name string) {
		if _, there := b.links[name]; there && !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	for _, r := range b.defaults {
		if l := b.links[r.Link]; l.Type != host.TypeBridge {
			add(r.Link)
			continue
		}
		for _, port := range b.members[r.Link] {
			if b.wayOut(b.links[port]) {
				add(port)
			}
		}
	}
	for _, name := range b.names {
		l := b.links[name]
		switch {
		case name == "lo" || l.Type == host.TypeBridge:
		case l.Master == "":
			if len(b.lans(name)) > 0 || b.owners[name].Mode == direct {
				add(name)
			}
		case b.wayOut(l):
			add(name)
		}
	}
	return names
}

// wayOut says whether a port of a bridge is no guest's. On a network of ours
// this is what the network says; on others a plain card is, and anything but
// a tap where the bridge carries the default route.
func (b *builder) wayOut(l host.Link) bool {
	master := b.links[l.Master]
	if master.Type != host.TypeBridge || b.taps[l.Name] || l.Type == host.TypeTap {
		return false
	}
	n := b.owners[l.Master]
	switch {
	case n.Name != "":
		joins := n.Adopt || len(n.Uplinks) > 0
		return joins && (slices.Contains(n.Uplinks, l.Name) || l.Type != host.TypeVeth)
	case b.uplink() == l.Master:
		return true
	}
	return l.Type == "" || l.Type == typeBond || l.Type == typeVLAN
}

// lans are the prefixes of the addresses on a link, IPv4 first, without
// link-local and host-only ones. Together they name one LAN.
func (b *builder) lans(link string) []string {
	var names []string
	for _, a := range b.addrs[link] {
		if a.Addr().IsLinkLocalUnicast() || a.Addr().IsLoopback() || a.IsSingleIP() {
			continue
		}
		if p := a.Masked().String(); !slices.Contains(names, p) {
			names = append(names, p)
		}
	}
	return names
}

// routers are the next hops of the default routes over a link.
func (b *builder) routers(link string) []string {
	var out []string
	for _, r := range b.defaults {
		if r.Link == link && r.Gateway.IsValid() && !slices.Contains(out, r.Gateway.String()) {
			out = append(out, r.Gateway.String())
		}
	}
	return out
}

// holds says whether an address is one of a link's.
func (b *builder) holds(link string, a netip.Addr) bool {
	return slices.ContainsFunc(b.addrs[link], func(p netip.Prefix) bool { return p.Addr() == a })
}
