// Package topology turns what is wanted and what is seen into the graph from
// the LAN over the host's NICs and bridges to the guests, and the graph into
// pictures.
//
// It owns the nodes, the edges, what hangs on what, the health that can be seen
// of each, the layout and the drawings. It does not know how anything is read,
// nor who looks at the picture.
//
// Start reading at Graph below. Build in build.go makes the graph (outside.go,
// switches.go, ports.go, doors.go, findings.go are its parts); Compare in compare.go marks
// what a change adds and takes away; Layout in layout.go gives everything its
// place; text.go, svg.go and mermaid.go draw. The picture of a packet's path is one of
// its own: path.go and path_svg.go.
package topology

import (
	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// NodeKind is the sort of a node.
type NodeKind string

// The kinds, from the outside in.
const (
	// KindLAN is an IP network that the host is a member of; its addresses are
	// the routers that the host uses there.
	KindLAN NodeKind = "lan"
	// KindNIC is an interface of the host that leads to a LAN, or that is
	// plugged into a bridge and is not a guest's: a card, a bond, a VLAN, a tunnel.
	KindNIC NodeKind = "nic"
	// KindForward is an open door: what arrives there goes to a guest.
	KindForward NodeKind = "forward"
	// KindBridge is a virtual switch, of ours or not.
	KindBridge NodeKind = "bridge"
	// KindHost is the host itself, where it stands on a bridge as a peer of the
	// guests; its name is the bridge's.
	KindHost NodeKind = "host"
	// KindPort is the host's end of a guest's NIC.
	KindPort NodeKind = "port"
	// KindGuest is a guest; one with several NICs is one node.
	KindGuest NodeKind = "guest"
	// KindMore stands for nodes that the layout folded; Layout makes it.
	KindMore NodeKind = "more"
)

// EdgeKind is what joins two nodes.
type EdgeKind string

// The kinds of edges, all from the outside in.
const (
	// EdgeAttached: the interface leads to the LAN.
	EdgeAttached EdgeKind = "attached"
	// EdgeStacked: the interface stands on the other: a bond on its NICs, a VLAN
	// on what carries it.
	EdgeStacked EdgeKind = "stacked"
	// EdgeRouted: the bridge's traffic leaves by the NIC, by routing; the
	// network's mode says whether it is translated.
	EdgeRouted EdgeKind = "routed"
	// EdgePlugged: the interface, or the host, is a port of the bridge.
	EdgePlugged EdgeKind = "plugged"
	// EdgeGuest: the port is a NIC of the guest.
	EdgeGuest EdgeKind = "guest"
	// EdgeDoor: the NIC has the door, or the door leads to the guest.
	EdgeDoor EdgeKind = "door"
)

// Health says how a thing is, as far as the graph can tell.
type Health string

// The states of health, from good to bad; Note of the node says why.
const (
	OK Health = "ok"
	// Down is not in use, and nobody said that it should be.
	Down Health = "down"
	// Stopped networks were stopped by a person.
	Stopped Health = "stopped"
	Unknown Health = "unknown"
	// Warning works, and will not for long, or not for all.
	Warning Health = "warning"
	// Problem is not as it should be.
	Problem Health = "problem"
)

// Mark says what a change does to a thing.
type Mark string

// The marks; "" is what stays as it is.
const (
	Added   Mark = "added"
	Removed Mark = "removed"
	Changed Mark = "changed"
)

// Node is one thing.
type Node struct {
	// ID is "kind:name" and unique; it stays the same from one picture to the
	// next.
	ID   string
	Kind NodeKind
	// Name is the interface's, the guest's, the LAN's prefix, or the forward's
	// key, such as tcp/8080.
	Name string
	// Type of an interface in the kernel's words (bond, vlan, tun, veth,
	// wireguard); "" for a plain card.
	Type string
	// Addresses with prefix lengths for the host's own; a LAN has its routers. A
	// port has the addresses and the MAC of the guest's NIC, a guest those of all
	// its NICs.
	Addresses []string
	MAC       string
	// MTU in bytes and SpeedMbit in Mbit/s; 0 where not known.
	MTU, SpeedMbit int
	// RxBytes and TxBytes are since the link was made; those of a port as its
	// guest sees them, those of a forward both directions in RxBytes.
	RxBytes, TxBytes uint64
	// Connections of a forward since it was made.
	Connections uint64
	// VLANs in a port's or NIC's own words ("10", "20 tagged"); none for a port
	// that knows no VLANs.
	VLANs []string
	// Isolated ports reach the host's side alone, not each other.
	Isolated bool
	// Network and Mode of a bridge; Network of a port, of a forward, of a folded
	// group.
	Network, Mode string
	// Owner is who made a thing that is not ours (docker, libvirt), and the
	// process that holds a port open ("qemu-system-x86 4242").
	Owner string
	// Listen, Target and Leads are a forward's: where it listens and what it was
	// told, as people type them, and the guest's address or "" while it waits.
	Listen, Target, Leads string
	Health                Health
	// Note says in a few words what is not as it should be, or "".
	Note string
	// Findings are what others found out about this node, worst first.
	Findings []Finding
	// Foreign things were not made by us.
	Foreign bool
	// Uplink carries the host's best default route.
	Uplink bool
	// Members and Problems of a folded group.
	Members, Problems int
	// Mark is what a change does to it; see Compare.
	Mark Mark
	// order sorts ports as they were plugged in.
	order int
	// Box is its place, and Folded the group that it is in; see Layout.
	Box    Box
	Folded string
}

// Edge leads from the outside in.
type Edge struct {
	// ID is "from>to" and stays the same from one picture to the next.
	ID       string
	From, To string
	Kind     EdgeKind
	Health   Health
	Note     string
	// Finding is the ID of the finding that Health and Note are about, or "".
	Finding string
	// Translated: the guests behind it go out by the host's address (source NAT).
	Translated bool
	Mark       Mark
	// Path is the line that draws it; empty if it is not drawn as one. Dashed is
	// the lane of a guest's NIC that is not its first. See Layout.
	Path   []Point
	Dashed bool
}

// Graph is the whole picture. Nodes and edges are in an order that depends on
// names, and on when ports were plugged in, alone.
type Graph struct {
	Nodes []Node
	Edges []Edge
	// Host is the host's name, for pictures.
	Host string
	// Findings are those about the host as a whole, worst first.
	Findings []Finding
	// Width and Height in pixels, the box of the host and what Layout was asked
	// for; all zero before Layout.
	Width, Height int
	Frame         Box
	Columns       int
}

// Port is a guest's NIC, as the caller knows it.
type Port struct {
	Bridge, Tap, Guest, MAC string
	Addresses               []string
	// Owner is the process that has it open, "" if none has.
	Owner string
	VLANs []string
}

// Forward is an open door, as the caller knows it.
type Forward struct {
	// Key is unique; Listen and Target are as people type them.
	Key, Listen, Target string
	// At is the address of the host that it listens on; "" for all of them.
	At string
	// Guest is the guest's name if it is known, Address where it leads just now,
	// Waiting why it leads nowhere.
	Guest, Address, Waiting string
	Network                 string
	Connections, Bytes      uint64
}

// Link is what the caller knows of a link beyond its place in the state.
type Link struct {
	// Index is the number that the kernel gave it: later ones are greater.
	Index int
	// NoCarrier: there is no cable, or nobody at its other end.
	NoCarrier        bool
	SpeedMbit        int
	RxBytes, TxBytes uint64
	VLANs            []string
}

// Input is what a graph is built of.
type Input struct {
	// State is what is seen: links, addresses and routes matter.
	State    host.State
	Document spec.Document
	Ports    []Port
	Forwards []Forward
	// Links by name; those that are missing are taken to be all right.
	Links map[string]Link
	// Problems of networks, by name: a network with problems is shown so.
	Problems map[spec.NetworkName][]string
	// Findings are what was found out by whoever looks closer than this package.
	Findings []Finding
	// Host is the host's name, "" for none.
	Host string
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
