package topology

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// Build makes the graph. The same input yields the same graph, in any order of
// its maps.
func Build(in Input) Graph {
	b := newBuilder(in)
	b.outside()
	b.networks()
	b.foreignBridges()
	b.ports()
	b.doors()
	b.findings()
	b.graph.Nodes = byKind(b.graph.Nodes)
	b.graph.Host = in.Host
	return b.graph
}

// unicast is RTN_UNICAST (linux/rtnetlink.h).
const unicast = 1

type builder struct {
	in       Input
	graph    Graph
	links    map[string]host.Link
	names    []string // of links, sorted
	addrs    map[string][]netip.Prefix
	defaults []host.Route
	// owners are the networks by bridge.
	owners map[string]spec.Network
	// taps are the ports that the caller knows, ids the nodes so far by their place.
	taps map[string]bool
	ids  map[string]int
	// members are the names of the ports of each link, sorted; stacked those of the
	// links that stand on it.
	members, stacked map[string][]string
}

func newBuilder(in Input) *builder {
	b := &builder{
		in: in, links: map[string]host.Link{}, addrs: map[string][]netip.Prefix{}, owners: map[string]spec.Network{},
		taps: make(map[string]bool, len(in.Ports)), members: map[string][]string{}, stacked: map[string][]string{},
	}
	expected := 2*len(in.Ports) + len(in.Forwards) + 16
	b.ids, b.graph.Nodes, b.graph.Edges = make(map[string]int, expected), make([]Node, 0, expected), make([]Edge, 0, expected)
	for _, p := range in.Ports {
		b.taps[p.Tap] = true
	}
	for _, r := range in.State {
		switch r := r.(type) {
		case host.Link:
			b.links[r.Name] = r
			b.names = append(b.names, r.Name)
		case host.Address:
			b.addrs[r.Link] = append(b.addrs[r.Link], r.Addr)
		case host.Route:
			if r.Dst.IsValid() && r.Dst.Bits() == 0 && r.Table == host.MainTable && r.Type == unicast && r.Link != "" {
				b.defaults = append(b.defaults, r)
			}
		}
	}
	slices.Sort(b.names)
	for _, list := range b.addrs {
		slices.SortFunc(list, func(x, y netip.Prefix) int {
			return cmp.Or(x.Addr().Compare(y.Addr()), cmp.Compare(x.Bits(), y.Bits()))
		})
	}
	for _, name := range b.names {
		l := b.links[name]
		if l.Master != "" {
			b.members[l.Master] = append(b.members[l.Master], name)
		}
		if l.Lower != "" {
			b.stacked[l.Lower] = append(b.stacked[l.Lower], name)
		}
	}
	for _, name := range in.Document.Names() {
		n := in.Document.Networks[name]
		if n.Mode == direct && len(n.Uplinks) > 0 {
			b.owners[n.Uplinks[0]] = n
			continue
		}
		b.owners[n.Bridge] = n
	}
	// IPv4 says where a host's uplink is; a lower metric goes first.
	slices.SortFunc(b.defaults, func(x, y host.Route) int {
		return cmp.Or(cmp.Compare(family(x), family(y)), cmp.Compare(x.Metric, y.Metric), cmp.Compare(x.Link, y.Link), x.Gateway.Compare(y.Gateway))
	})
	return b
}

func family(r host.Route) int {
	if r.Dst.Addr().Is4() {
		return 4
	}
	return 6
}

func id(kind NodeKind, name string) string { return string(kind) + ":" + name }

// kinds are all kinds in the order of the lists.
var kinds = [...]NodeKind{KindLAN, KindNIC, KindForward, KindBridge, KindHost, KindPort, KindGuest, KindMore}

func rank(k NodeKind) int { return slices.Index(kinds[:], k) }

// byKind sorts nodes by kind and leaves those of one kind in their order.
func byKind(nodes []Node) []Node {
	out := make([]Node, 0, len(nodes))
	for _, k := range kinds {
		for i := range nodes {
			if nodes[i].Kind == k {
				out = append(out, nodes[i])
			}
		}
	}
	return out
}

func (b *builder) node(n Node) string {
	n.ID = id(n.Kind, n.Name)
	if n.Health == "" {
		n.Health = OK
	}
	b.ids[n.ID] = len(b.graph.Nodes)
	b.graph.Nodes = append(b.graph.Nodes, n)
	return n.ID
}

func (b *builder) edge(e Edge) {
	e.ID = e.From + ">" + e.To
	if e.Health == "" {
		e.Health = OK
	}
	b.graph.Edges = append(b.graph.Edges, e)
}

func (b *builder) has(nodeID string) bool {
	_, there := b.ids[nodeID]
	return there
}

// link makes the node of an interface of the host.
func (b *builder) link(kind NodeKind, name string) Node {
	l, facts := b.links[name], b.in.Links[name]
	n := Node{
		Kind: kind, Name: name, Type: l.Type, Addresses: texts(b.addrs[name]), MAC: l.MAC, MTU: l.MTU,
		SpeedMbit: facts.SpeedMbit, RxBytes: facts.RxBytes, TxBytes: facts.TxBytes, VLANs: facts.VLANs,
		Isolated: l.Isolated, Foreign: true, Uplink: name == b.uplink(), order: facts.Index,
	}
	if len(n.VLANs) == 0 {
		n.VLANs = b.vlans(l)
	}
	switch {
	case !l.Up:
		n.Health, n.Note = Down, "down"
	case facts.NoCarrier && l.Type != host.TypeBridge:
		n.Health, n.Note = Down, "no carrier"
	}
	return n
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
	var out []string
	for _, a := range addrs {
		if !a.Addr().IsLinkLocalUnicast() {
			out = append(out, a.String())
		}
	}
	return out
}
