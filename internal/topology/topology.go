// Package topology turns what is wanted and what is seen into the graph from
// the LAN over the host's NICs and bridges to the guests, and the graph into
// pictures.
//
// It owns the nodes, the edges, what hangs on what, and the layouts. It does
// not know how anything is read, nor who looks at the picture. Layouts read a
// Graph and nothing else, so a new one is one file with one method.
//
// Start reading at Graph below; the graph is built in build.go, the tree of
// text is in text.go.
package topology

import (
	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// NodeKind is the sort of a node.
type NodeKind string

// The kinds, from the outside in.
const (
	// KindLAN is an IP network that the host is a member of.
	KindLAN NodeKind = "lan"
	// KindNIC is an interface of the host that leads to a LAN, or that is
	// plugged into a bridge and is not a guest's.
	KindNIC NodeKind = "nic"
	// KindBridge is a virtual switch, of ours or not.
	KindBridge NodeKind = "bridge"
	// KindPort is the host's end of a guest's NIC.
	KindPort NodeKind = "port"
	// KindGuest is a guest; one with several NICs is one node.
	KindGuest NodeKind = "guest"
)

// EdgeKind is what joins two nodes.
type EdgeKind string

// The kinds of edges, all from the outside in.
const (
	// EdgeAttached: the interface leads to the LAN.
	EdgeAttached EdgeKind = "attached"
	// EdgeRouted: the bridge's traffic leaves by the NIC, by routing; the
	// network's mode says whether it is translated.
	EdgeRouted EdgeKind = "routed"
	// EdgePlugged: the interface is a port of the bridge, or the bridge is what
	// the NIC is plugged into.
	EdgePlugged EdgeKind = "plugged"
	// EdgeGuest: the port is a NIC of the guest.
	EdgeGuest EdgeKind = "guest"
)

// Health says how a thing is, as far as the graph can tell.
type Health string

// The states of health.
const (
	OK       Health = "ok"
	Degraded Health = "degraded"
	Stopped  Health = "stopped"
	Unknown  Health = "unknown"
)

// Node is one thing.
type Node struct {
	// ID is "kind:name" and unique; it stays the same from one picture to the
	// next.
	ID   string
	Kind NodeKind
	// Name is the interface's, the guest's, or the LAN's prefix.
	Name string
	// Addresses with prefix lengths for the host's own; a LAN has its routers. A
	// port has the addresses and the MAC of the guest's NIC, a guest those of all
	// its NICs.
	Addresses []string
	MAC       string
	// Network and Mode of a bridge, Network of a port.
	Network, Mode string
	Health        Health
	// Note says in a few words what is not as it should be, or "".
	Note string
	// Foreign things were not made by us.
	Foreign bool
}

// Edge leads from the outside in.
type Edge struct {
	From, To string
	Kind     EdgeKind
}

// Graph is the whole picture. Nodes and edges are in an order that depends on
// names alone.
type Graph struct {
	Nodes []Node
	Edges []Edge
}

// Port is a guest's NIC, as the caller knows it.
type Port struct {
	Bridge, Tap, Guest, MAC string
	Addresses               []string
}

// Input is what a graph is built of.
type Input struct {
	// State is what is seen: links, addresses and routes matter.
	State    host.State
	Document spec.Document
	Ports    []Port
	// Problems of networks, by name: a network with problems is degraded.
	Problems map[spec.NetworkName][]string
}

// Node finds a node; the zero Node if there is none.
func (g Graph) Node(id string) Node {
	for _, n := range g.Nodes {
		if n.ID == id {
			return n
		}
	}
	return Node{}
}

// From lists the edges that leave a node, in order.
func (g Graph) From(id string) []Edge {
	var out []Edge
	for _, e := range g.Edges {
		if e.From == id {
			out = append(out, e)
		}
	}
	return out
}

// Roots lists the nodes that no edge leads to, in order.
func (g Graph) Roots() []Node {
	entered := map[string]bool{}
	for _, e := range g.Edges {
		entered[e.To] = true
	}
	var out []Node
	for _, n := range g.Nodes {
		if !entered[n.ID] {
			out = append(out, n)
		}
	}
	return out
}
