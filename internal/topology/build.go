package topology

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// Build makes the graph. The same input yields the same graph, in any order of
// its maps.
func Build(in Input) Graph {
	b := &builder{
		in: in, links: map[string]host.Link{}, addrs: map[string][]netip.Prefix{}, owners: map[string]spec.Network{},
		taps: map[string]bool{}, ids: map[string]bool{},
	}
	for _, p := range in.Ports {
		b.taps[p.Tap] = true
	}
	for _, key := range in.State.Keys() {
		switch r := in.State[key].(type) {
		case host.Link:
			b.links[r.Name] = r
		case host.Address:
			b.addrs[r.Link] = append(b.addrs[r.Link], r.Addr)
		case host.Route:
			if r.Dst.IsValid() && r.Dst.Bits() == 0 && r.Table == host.MainTable && r.Type == unicast && r.Link != "" {
				b.defaults = append(b.defaults, r)
			}
		}
	}
	for _, name := range in.Document.Names() {
		n := in.Document.Networks[name]
		b.owners[n.Bridge] = n
	}
	// IPv4 says where a host's uplink is; a lower metric goes first.
	slices.SortStableFunc(b.defaults, func(x, y host.Route) int {
		return cmp.Or(cmp.Compare(family(x), family(y)), cmp.Compare(x.Metric, y.Metric), cmp.Compare(x.Link, y.Link))
	})
	b.outside()
	b.networks()
	b.foreignBridges()
	b.ports()
	return b.graph
}

// unicast is RTN_UNICAST (linux/rtnetlink.h).
const unicast = 1

type builder struct {
	in       Input
	graph    Graph
	links    map[string]host.Link
	addrs    map[string][]netip.Prefix
	defaults []host.Route
	// owners are the networks by bridge.
	owners map[string]spec.Network
	// taps are the ports that the caller knows, ids the nodes so far.
	taps, ids map[string]bool
}

func family(r host.Route) int {
	if r.Dst.Addr().Is4() {
		return 4
	}
	return 6
}

func id(kind NodeKind, name string) string { return string(kind) + ":" + name }

func (b *builder) node(n Node) string {
	n.ID = id(n.Kind, n.Name)
	if n.Health == "" {
		n.Health = OK
	}
	b.graph.Nodes = append(b.graph.Nodes, n)
	b.ids[n.ID] = true
	return n.ID
}

func (b *builder) edge(from, to string, kind EdgeKind) {
	b.graph.Edges = append(b.graph.Edges, Edge{from, to, kind})
}

func (b *builder) has(nodeID string) bool { return b.ids[nodeID] }

func (b *builder) linkNames() []string {
	var names []string
	for name := range b.links {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// outside adds LANs and the NICs that lead there. A NIC that is plugged into a
// bridge leads to the LAN that the bridge has its address in.
func (b *builder) outside() {
	for _, name := range b.outward() {
		l := b.links[name]
		nic := b.node(Node{
			Kind: KindNIC, Name: name, Addresses: texts(b.addrs[name]), MAC: l.MAC,
			Foreign: true, Health: upness(l), Note: downNote(l),
		})
		holder := name
		if l.Master != "" {
			holder = l.Master
		}
		if lan := strings.Join(b.lans(holder), " "); lan != "" {
			lanID := id(KindLAN, lan)
			if !b.has(lanID) {
				b.node(Node{Kind: KindLAN, Name: lan, Addresses: b.routers(holder), Foreign: true})
			}
			b.edge(lanID, nic, EdgeAttached)
		}
	}
	slices.SortStableFunc(b.graph.Nodes, func(x, y Node) int {
		return cmp.Compare(rank[x.Kind], rank[y.Kind])
	})
}

var rank = map[NodeKind]int{KindLAN: 0, KindNIC: 1, KindBridge: 2, KindPort: 3, KindGuest: 4}

// outward lists the host's NICs: those that carry a default route first. A link
// without master counts if it has an address or a default route; a port of a
// foreign bridge counts if it is a plain NIC, or the bridge carries the default
// route and the port is no tap.
func (b *builder) outward() []string {
	var names []string
	add := func(name string) {
		if _, there := b.links[name]; there && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, r := range b.defaults {
		if b.links[r.Link].Type != host.TypeBridge {
			add(r.Link)
		}
	}
	for _, name := range b.linkNames() {
		l := b.links[name]
		switch {
		case name == "lo" || l.Type == host.TypeBridge:
		case l.Master == "":
			if len(b.lans(name)) > 0 {
				add(name)
			}
		case b.owners[l.Master].Name != "" || l.Type == host.TypeTap || b.taps[name]:
		case l.Type == "" || b.uplink() == l.Master:
			add(name)
		}
	}
	return names
}

// uplink is the link of the best default route, or "".
func (b *builder) uplink() string {
	for _, r := range b.defaults {
		if _, there := b.links[r.Link]; there {
			return r.Link
		}
	}
	return ""
}

// lans are the prefixes of the addresses on a link, IPv4 first, without
// link-local and host-only ones. Together they name one LAN.
func (b *builder) lans(link string) []string {
	var out []netip.Prefix
	for _, a := range b.addrs[link] {
		p := a.Masked()
		if a.Addr().IsLinkLocalUnicast() || a.Addr().IsLoopback() || a.IsSingleIP() || slices.Contains(out, p) {
			continue
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(x, y netip.Prefix) int { return x.Addr().Compare(y.Addr()) })
	var names []string
	for _, p := range out {
		names = append(names, p.String())
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

// networks adds the bridges of the document, running or not.
func (b *builder) networks() {
	for _, name := range b.in.Document.Names() {
		n := b.in.Document.Networks[name]
		l, there := b.links[n.Bridge]
		node := Node{
			Kind: KindBridge, Name: n.Bridge, Network: string(name), Mode: string(n.Mode),
			Addresses: texts(b.addrs[n.Bridge]), MAC: l.MAC,
		}
		if node.Name == "" {
			node.Name = "(" + string(name) + ")" // not settled yet
		}
		node.Health, node.Note = b.health(n, l, there)
		if node.Health == Stopped {
			for _, s := range n.Subnets {
				node.Addresses = append(node.Addresses, netip.PrefixFrom(s.Gateway, s.Prefix.Bits()).String())
			}
		}
		bridge := b.node(node)
		b.joinOutside(bridge, n, there)
	}
}

// joinOutside hangs a network where its traffic leaves the host. Isolated
// networks hang nowhere, and so do stopped ones.
func (b *builder) joinOutside(bridge string, n spec.Network, there bool) {
	if !there || n.Mode == "isolated" {
		return
	}
	up := b.uplink()
	if nic := id(KindNIC, up); b.has(nic) {
		b.edge(nic, bridge, EdgeRouted)
		return
	}
	if l := b.links[up]; l.Type == host.TypeBridge && l.Name != n.Bridge {
		b.edge(id(KindBridge, up), bridge, EdgeRouted)
	}
}

func (b *builder) health(n spec.Network, l host.Link, there bool) (Health, string) {
	problems := b.in.Problems[n.Name]
	switch {
	case !n.Started && !there:
		return Stopped, "stopped"
	case !n.Started:
		return Degraded, "is there though stopped"
	case !there:
		return Degraded, "bridge missing"
	case !l.Up:
		return Degraded, "down"
	case len(problems) == 1:
		return Degraded, problems[0]
	case len(problems) > 1:
		return Degraded, problems[0] + " (and more, see drawbridge status)"
	}
	return OK, ""
}

// foreignBridges adds bridges that are not ours, with the NICs in them.
func (b *builder) foreignBridges() {
	for _, name := range b.linkNames() {
		l := b.links[name]
		if l.Type != host.TypeBridge || b.owners[name].Name != "" {
			continue
		}
		bridge := b.node(Node{
			Kind: KindBridge, Name: name, Addresses: texts(b.addrs[name]), MAC: l.MAC,
			Foreign: true, Health: upness(l), Note: downNote(l),
		})
		for _, port := range b.linkNames() {
			if nic := id(KindNIC, port); b.links[port].Master == name && b.has(nic) {
				b.edge(nic, bridge, EdgePlugged)
			}
		}
	}
}

// ports adds everything plugged into a bridge that is not the host's own NIC,
// and the guests behind.
func (b *builder) ports() {
	guests := map[string]Node{}
	for _, p := range b.allPorts() {
		port := b.port(p)
		if p.Guest == "" && p.MAC == "" && len(p.Addresses) == 0 {
			continue
		}
		g := guests[cmp.Or(p.Guest, p.Tap)]
		g.Kind, g.Name = KindGuest, cmp.Or(p.Guest, p.Tap)
		g.Addresses = append(g.Addresses, p.Addresses...)
		guests[g.Name] = g
		b.edge(port, id(KindGuest, g.Name), EdgeGuest)
	}
	for _, name := range slices.Sorted(maps.Keys(guests)) {
		b.node(guests[name])
	}
}

// allPorts are those that the caller knows and those that others plugged in, by
// bridge and name.
func (b *builder) allPorts() []Port {
	ports := slices.Clone(b.in.Ports)
	for _, name := range b.linkNames() {
		if l := b.links[name]; l.Master != "" && !b.taps[name] && !b.has(id(KindNIC, name)) {
			ports = append(ports, Port{Bridge: l.Master, Tap: name})
		}
	}
	slices.SortStableFunc(ports, func(x, y Port) int {
		return cmp.Or(strings.Compare(x.Bridge, y.Bridge), naturally(x.Tap, y.Tap))
	})
	return ports
}

func (b *builder) port(p Port) string {
	node := Node{
		Kind: KindPort, Name: p.Tap, Network: string(b.owners[p.Bridge].Name), MAC: p.MAC, Addresses: p.Addresses,
		Foreign: !b.taps[p.Tap], Health: Unknown,
	}
	if l, there := b.links[p.Tap]; there {
		node.Health, node.Note = upness(l), downNote(l)
		if l.Master != p.Bridge {
			node.Health, node.Note = Degraded, "not plugged into "+p.Bridge
		}
	}
	port := b.node(node)
	if bridge := id(KindBridge, p.Bridge); b.has(bridge) {
		b.edge(bridge, port, EdgePlugged)
	}
	return port
}

// naturally orders vnet2 before vnet10.
func naturally(x, y string) int {
	px, nx := splitNumber(x)
	py, ny := splitNumber(y)
	if px == py && nx != "" && ny != "" {
		return cmp.Or(cmp.Compare(len(nx), len(ny)), strings.Compare(nx, ny))
	}
	return strings.Compare(x, y)
}

func splitNumber(s string) (string, string) {
	digits := strings.TrimRight(s, "0123456789")
	number := strings.TrimLeft(s[len(digits):], "0")
	if number == "" && len(digits) < len(s) {
		number = "0"
	}
	return digits, number
}

// texts writes addresses, IPv4 first, without link-local ones, which say
// nothing about where a thing is.
func texts(addrs []netip.Prefix) []string {
	addrs = slices.Clone(addrs)
	slices.SortFunc(addrs, func(x, y netip.Prefix) int { return x.Addr().Compare(y.Addr()) })
	var out []string
	for _, a := range addrs {
		if !a.Addr().IsLinkLocalUnicast() {
			out = append(out, a.String())
		}
	}
	return out
}

func upness(l host.Link) Health {
	if l.Up {
		return OK
	}
	return Degraded
}

func downNote(l host.Link) string {
	if l.Up {
		return ""
	}
	return "down"
}
