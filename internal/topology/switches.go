package topology

import (
	"net/netip"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// networks adds the bridges of the document, running or not.
func (b *builder) networks() {
	for _, name := range b.in.Document.Names() {
		n := b.in.Document.Networks[name]
		if n.Mode == direct && len(n.Uplinks) > 0 {
			b.shared(n)
			continue
		}
		l, there := b.links[n.Bridge]
		node := b.link(KindBridge, n.Bridge)
		node.Network, node.Mode, node.Foreign, node.Type = string(name), string(n.Mode), n.Adopt, ""
		if !there {
			node.MAC, node.MTU = n.MAC, n.EffectiveMTU()
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
		b.join(b.node(node), n.Bridge)
		if there && n.Mode == nat {
			b.routeOut(node, true)
		}
	}
}

// direct is the mode whose guests share a NIC: there is no bridge, and the network
// is drawn in the place of one.
const direct = "direct"

func sharedID(n spec.Network) string { return "(" + string(n.Name) + ")" }

func (b *builder) shared(n spec.Network) {
	nic, there := b.links[n.Uplinks[0]]
	node := b.link(KindBridge, sharedID(n))
	node.Network, node.Mode, node.MTU, node.Type = string(n.Name), string(n.Mode), n.EffectiveMTU(), ""
	node.Health, node.Note = b.health(n, nic, there && n.Started)
	if n.Started && !there {
		node.Note = "NIC missing"
	}
	to := b.node(node)
	if from := id(KindNIC, n.Uplinks[0]); b.has(from) {
		b.edge(Edge{From: from, To: to, Kind: EdgePlugged})
	}
}

// nat is the mode whose traffic is routed and translated.
const nat = "nat"

// join plugs the host's NICs, and the host itself, into a bridge.
func (b *builder) join(bridge, name string) {
	out := false
	for _, port := range b.members[name] {
		if nic := id(KindNIC, port); b.has(nic) {
			out = true
			b.edge(Edge{From: nic, To: bridge, Kind: EdgePlugged, Health: b.graph.Nodes[b.ids[nic]].Health, Note: b.graph.Nodes[b.ids[nic]].Note})
		}
	}
	if addrs := b.addrs[name]; out && len(texts(addrs)) > 0 {
		h := b.link(KindHost, name)
		h.Type, h.Foreign = "", false
		b.edge(Edge{From: bridge, To: b.node(h), Kind: EdgePlugged})
	}
}

// routeOut hangs a bridge where its traffic leaves the host by routing.
func (b *builder) routeOut(n Node, translated bool) {
	up := b.uplink()
	e := Edge{To: id(KindBridge, n.Name), Kind: EdgeRouted, Translated: translated}
	if e.From = id(KindNIC, up); b.has(e.From) {
		b.edge(e)
		return
	}
	if l := b.links[up]; l.Type == host.TypeBridge && l.Name != n.Name {
		e.From = id(KindBridge, up)
		b.edge(e)
	}
}

func (b *builder) health(n spec.Network, l host.Link, there bool) (Health, string) {
	problems := b.in.Problems[n.Name]
	switch {
	case !n.Started && !there:
		return Stopped, "stopped"
	case !n.Started && !n.Adopt:
		return Problem, "is there though stopped"
	case !there:
		return Problem, "bridge missing"
	case !l.Up:
		return Problem, "down"
	case len(problems) == 1:
		return Problem, problems[0]
	case len(problems) > 1:
		return Problem, problems[0] + " (and more, see drawbridge status)"
	}
	return OK, ""
}

// foreignBridges adds bridges that are not ours, with the NICs in them.
func (b *builder) foreignBridges() {
	for _, name := range b.names {
		l := b.links[name]
		if l.Type != host.TypeBridge || b.owners[name].Name != "" {
			continue
		}
		n := b.link(KindBridge, name)
		n.Type, n.Owner = "", maker(l)
		b.join(b.node(n), name)
	}
}

// maker guesses who made a bridge by the names that programs give theirs:
// Docker's, libvirt's and so on say nothing of it in the kernel.
func maker(l host.Link) string {
	for _, m := range []struct{ prefix, who string }{
		{"docker", "docker"}, {"br-", "docker"}, {"podman", "podman"}, {"cni", "CNI"}, {"lxcbr", "LXC"}, {"lxdbr", "LXD"},
		{"incusbr", "Incus"}, {"vmbr", "Proxmox VE"}, {"virbr", "libvirt"}, {"xenbr", "Xen"},
	} {
		if rest, ok := strings.CutPrefix(l.Name, m.prefix); ok {
			if m.prefix == "br-" && len(rest) != 12 { // Docker's: the first 12 digits of an id
				continue
			}
			return m.who
		}
	}
	return ""
}
