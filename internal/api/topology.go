package api

import (
	"context"
	"net/url"
	"strconv"
)

// Topology is the graph from the LAN to the guests, and where everything stands
// in the picture.
//
// Nodes and edges have ids that stay the same from one answer to the next, so
// that a picture can be moved from one to the other: a node's is "kind:name"
// (lan:192.168.99.0/24, nic:enp6s18, forward:tcp/8080, bridge:virbr0, host:br0,
// port:vnet0, guest:NAME, more:virbr0), an edge's "from>to". Both lists are in an
// order that depends on names, and on when guests were plugged in, alone.
//
// The picture is laid out once, here: LANs at the top, the host's frame below
// with its NICs on the upper edge and forwards (doors) beside them, each bridge
// as a horizontal rail with its guests hanging from it. Boxes and paths are in
// pixels from the upper left corner of a picture of Width × Height. A node
// without a box is not drawn; the node named by Folded, mostly one of kind "more",
// stands for it. An edge without a path is shown by how its ends touch:
// a port's pill sits on the edge of its guest's box.
type Topology struct {
	Host   string `json:"host" doc:"Name of the host"`
	Width  int    `json:"width" doc:"Of the picture, in pixels"`
	Height int    `json:"height" doc:"Of the picture, in pixels"`
	Frame  Box    `json:"frame" doc:"The host in the picture"`
	Nodes  []Node `json:"nodes" nullable:"false"`
	Edges  []Edge `json:"edges" nullable:"false"`
	// Findings of the host as a whole; those of one thing are at their node.
	Findings []Finding `json:"findings,omitempty" nullable:"false" doc:"What is wrong with the host as a whole, worst first; what is wrong with one thing is at its node. Of the last look, which is at most a minute old"`
	Lines    []Line    `json:"lines,omitempty" nullable:"false" doc:"The drawing as text, if that was asked for; nodes and edges are then left out"`
	Drawing  string    `json:"drawing,omitempty" doc:"The drawing as SVG or Mermaid, if that was asked for; nodes and edges are then left out"`
}

// Line is a line of a drawing, ready to be printed.
type Line struct {
	Spans []Span `json:"spans" nullable:"false"`
}

// Span is a piece of a line; it has no control characters.
type Span struct {
	Text  string `json:"text"`
	Style string `json:"style,omitempty" doc:"What it is: name, soft, good, warn, bad, door; nat, bridged, isolated or foreign for rails; added, removed, changed. The words tell the same"`
}

// Box is a rectangle in pixels.
type Box struct {
	X int `json:"x"`
	Y int `json:"y"`
	W int `json:"w"`
	H int `json:"h"`
}

// Point is a place in pixels.
type Point struct {
	X int `json:"x"`
	Y int `json:"y"`
}

// Node is one thing in the topology.
type Node struct {
	ID          string    `json:"id" doc:"kind:name"`
	Kind        string    `json:"kind" enum:"lan,nic,forward,bridge,host,port,guest,more" doc:"nic: an interface of the host that leads to a LAN (card, bond, VLAN, tunnel). host: the host itself, where it is a peer of the guests on a bridge. port: the host's end of a guest's NIC. more: stands for Members nodes that are folded"`
	Name        string    `json:"name" doc:"Of the interface, the guest, the LAN's prefix, the forward's id; chosen by guests in part, so never to be taken as HTML"`
	Type        string    `json:"type,omitempty" doc:"Of an interface, in the kernel's words (bond, vlan, tun, veth, wireguard); missing for a plain card"`
	Addresses   []string  `json:"addresses" nullable:"false" doc:"The host's own with prefix length; of a LAN its routers; of a guest those of all its NICs"`
	MAC         string    `json:"mac,omitempty"`
	MTU         int       `json:"mtu,omitempty" doc:"Bytes"`
	SpeedMbit   int       `json:"speed_mbit,omitempty" doc:"Mbit/s"`
	RxBytes     uint64    `json:"rx_bytes,omitempty" doc:"Received: by the guest for ports and guests, by the interface for NICs and bridges; both directions for forwards"`
	TxBytes     uint64    `json:"tx_bytes,omitempty" doc:"Sent, likewise"`
	Connections uint64    `json:"connections,omitempty" doc:"Of a forward since it was made"`
	VLANs       []string  `json:"vlans,omitempty" nullable:"false"`
	Isolated    bool      `json:"isolated,omitempty" doc:"The port does not reach other isolated ones"`
	Network     string    `json:"network,omitempty" doc:"Of a bridge, port, forward or folded group"`
	Mode        string    `json:"mode,omitempty" doc:"Of a bridge: what its network does with traffic"`
	Owner       string    `json:"owner,omitempty" doc:"Of a foreign bridge: who made it, as far as its name tells (docker, libvirt). Of a port: the process that has it open, with its number"`
	Listen      string    `json:"listen,omitempty" doc:"Of a forward: where it listens"`
	Target      string    `json:"target,omitempty" doc:"Of a forward: the guest and port that it was made for"`
	Leads       string    `json:"leads,omitempty" doc:"Of a forward: the address that it leads to just now; missing while it waits"`
	Health      string    `json:"health" enum:"ok,down,stopped,unknown,warning,problem" doc:"down: not in use, and nobody said that it should be; stopped: a network that a person stopped; problem: not as it should be, or there is a fault; warning: there is a warning"`
	Note        string    `json:"note,omitempty" doc:"Why it is not ok, in a few words; of a folded group its title"`
	Findings    []Finding `json:"findings,omitempty" nullable:"false" doc:"What a closer look found, worst first"`
	Foreign     bool      `json:"foreign,omitempty" doc:"Not made by drawbridge"`
	Uplink      bool      `json:"uplink,omitempty" doc:"Carries the host's best default route"`
	Members     int       `json:"members,omitempty" doc:"Of a folded group"`
	Problems    int       `json:"problems,omitempty" doc:"How many of a folded group have a problem"`
	Mark        string    `json:"mark,omitempty" enum:"added,removed,changed" doc:"What the change does to it, where a change is drawn"`
	Box         *Box      `json:"box,omitempty" doc:"Missing: not drawn"`
	Folded      string    `json:"folded,omitempty" doc:"The node that stands for it: one of kind more, or for a NIC of a guest with very many the guest"`
}

// Finding is what doctor found out about a node, in short; see Symptom.
type Finding struct {
	ID        string `json:"id" doc:"code:name; that of the symptom"`
	Code      string `json:"code"`
	Severity  string `json:"severity" enum:"fault,warning,note"`
	Text      string `json:"text" doc:"What was seen"`
	Fix       string `json:"fix,omitempty" doc:"The command that mends it"`
	Automatic bool   `json:"automatic,omitempty" doc:"Whether doctor --fix does it"`
}

// Edge joins two nodes, from the outside in.
type Edge struct {
	ID         string  `json:"id" doc:"from>to"`
	From       string  `json:"from"`
	To         string  `json:"to"`
	Kind       string  `json:"kind" enum:"attached,stacked,routed,plugged,guest,door" doc:"attached: LAN and NIC. stacked: a bond or VLAN on its NIC. routed: a bridge whose traffic leaves by the NIC. plugged: into the bridge. guest: a port and its guest. door: a NIC and a forward, or a forward and its guest"`
	Health     string  `json:"health" enum:"ok,down,stopped,unknown,warning,problem"`
	Note       string  `json:"note,omitempty"`
	Finding    string  `json:"finding,omitempty" doc:"ID of the finding that health and note are about"`
	Translated bool    `json:"translated,omitempty" doc:"Guests go out by the host's address (source NAT)"`
	Mark       string  `json:"mark,omitempty" enum:"added,removed,changed"`
	Path       []Point `json:"path,omitempty" nullable:"false" doc:"Corners of the line that draws it"`
	Dashed     bool    `json:"dashed,omitempty" doc:"The lane of a guest's further NIC"`
}

// View says how a topology is wanted.
type View struct {
	// Draw is "" or "graph" for nodes and edges, "text" for lines, "svg" or "mermaid".
	Draw string
	// Columns of guests side by side, 1 to 24; 0 leaves it to the daemon (6).
	Columns int
	// Fold is how many guests of one network are drawn before the rest is folded;
	// 0 leaves it to the daemon (30), less than 0 folds nothing.
	Fold int
	// Width of a page of text in cells, 0 for no limit; ASCII draws with ASCII alone.
	Width int
	ASCII bool
}

func (v View) query(q url.Values) {
	for name, n := range map[string]int{"columns": v.Columns, "fold": v.Fold, "width": v.Width} {
		if n != 0 {
			q.Set(name, strconv.Itoa(n))
		}
	}
	if v.Draw != "" {
		q.Set("draw", v.Draw)
	}
	if v.ASCII {
		q.Set("ascii", "true")
	}
}

// Topology asks for the graph from the LAN to the guests.
func (c *Client) Topology(ctx context.Context, v View) (Topology, error) {
	return c.BeforeAfter(ctx, "", v)
}

// BeforeAfter asks for the topology with what a change that is not finished adds
// and takes away; an empty id asks for how it is now.
func (c *Client) BeforeAfter(ctx context.Context, id string, v View) (Topology, error) {
	q := url.Values{}
	v.query(q)
	if id != "" {
		q.Set("change", id)
	}
	path := "/topology"
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	return get[Topology](ctx, c, path)
}
