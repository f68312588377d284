package topology

import (
	"cmp"
	"slices"
	"strings"

	"drawbridge/internal/host"
)

// ports adds everything plugged into a bridge that is not the host's own NIC,
// and the guests behind.
func (b *builder) ports() {
	var guests []*Node
	byName := map[string]*Node{}
	for _, p := range b.allPorts() {
		port := b.port(p)
		if p.Guest == "" && p.MAC == "" && len(p.Addresses) == 0 {
			continue
		}
		name := cmp.Or(p.Guest, p.Tap)
		g := byName[name]
		if g == nil {
			g = &Node{Kind: KindGuest, Name: name, Health: Unknown}
			byName[name] = g
			guests = append(guests, g)
		}
		g.Addresses = append(g.Addresses, p.Addresses...)
		n := b.graph.Nodes[b.ids[port]]
		g.Health, g.Note = worse(*g, n)
		g.RxBytes, g.TxBytes = g.RxBytes+n.RxBytes, g.TxBytes+n.TxBytes
		if g.MAC == "" {
			g.MAC = p.MAC
		}
		b.edge(Edge{From: port, To: id(KindGuest, g.Name), Kind: EdgeGuest})
	}
	slices.SortFunc(guests, func(x, y *Node) int { return strings.Compare(x.Name, y.Name) })
	for _, g := range guests {
		b.node(*g)
	}
}

// worse is the health of a guest with one more NIC: bad if one is, and unknown
// only if all are.
func worse(guest, port Node) (Health, string) {
	switch {
	case guest.Health == Problem:
		return guest.Health, guest.Note
	case port.Health == Problem:
		return Problem, port.Note
	case guest.Health == OK || port.Health == OK:
		return OK, ""
	case guest.Health == Unknown:
		return port.Health, port.Note
	}
	return guest.Health, guest.Note
}

// allPorts are those that the caller knows and those that others plugged in, by
// bridge and by when they were made: what comes later takes its place behind
// the others.
func (b *builder) allPorts() []Port {
	ports := slices.Clone(b.in.Ports)
	for _, name := range b.names {
		l := b.links[name]
		if b.links[l.Master].Type == host.TypeBridge && !b.taps[name] && !b.has(id(KindNIC, name)) {
			ports = append(ports, Port{Bridge: l.Master, Tap: name})
		}
	}
	slices.SortStableFunc(ports, func(x, y Port) int {
		return cmp.Or(strings.Compare(x.Bridge, y.Bridge), cmp.Compare(b.in.Links[x.Tap].Index, b.in.Links[y.Tap].Index), naturally(x.Tap, y.Tap))
	})
	return ports
}

func (b *builder) port(p Port) string {
	l, there := b.links[p.Tap]
	node := b.link(KindPort, p.Tap)
	node.Network, node.MAC, node.Addresses = string(b.owners[p.Bridge].Name), p.MAC, p.Addresses
	node.Foreign, node.Owner, node.Uplink = !b.taps[p.Tap], p.Owner, false
	if len(p.VLANs) > 0 {
		node.VLANs = p.VLANs
	}
	join, on := Edge{From: id(KindBridge, p.Bridge), Kind: EdgePlugged}, l.Master
	if n := b.owners[p.Bridge]; n.Mode == direct {
		join.From, on = id(KindBridge, sharedID(n)), l.Lower
	}
	if l.Type != host.TypeMacvtap { // which is the guest's end itself
		// What the host sends into a tap, the guest receives.
		node.RxBytes, node.TxBytes = node.TxBytes, node.RxBytes
	}
	switch {
	case !there:
		node.Health, node.Note = Unknown, ""
	case on != p.Bridge:
		node.Health, node.Note = Problem, "not plugged into "+p.Bridge
	case node.Health == Down && l.Up && l.Type == host.TypeTap:
		node.Note = "nobody has it open"
	}
	join.Health, join.Note = node.Health, node.Note
	join.To = b.node(node)
	if b.has(join.From) {
		b.edge(join)
	}
	return join.To
}
