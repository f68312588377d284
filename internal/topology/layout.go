package topology

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Point is a place in pixels, from the upper left corner.
type Point struct{ X, Y int }

// Box is a rectangle in pixels; the zero Box is that of what is not drawn.
type Box struct{ X, Y, W, H int }

// Right and Bottom are where a box ends.
func (b Box) Right() int { return b.X + b.W }

// Bottom is the lower edge.
func (b Box) Bottom() int { return b.Y + b.H }

// Middle is the centre.
func (b Box) Middle() Point { return Point{b.X + b.W/2, b.Y + b.H/2} }

// Options of a layout.
type Options struct {
	// Columns is how many guests stand side by side, 1 to 24; 0 takes 6.
	Columns int
	// Fold is how many guests of one bridge, and doors, are drawn before the rest
	// is folded into one box; 0 takes 30, less than 0 folds nothing.
	Fold int
}

// The measures, in pixels. Everything stands in columns of one width: LANs,
// NICs, doors and guests.
const (
	margin    = 16
	columnW   = 176
	columnGap = 24
	pitchX    = columnW + columnGap
	lanH      = 40
	boxH      = 58
	pillH     = 18
	pillW     = 78
	railH     = 6
	doorH     = 22
	laneGap   = 14
	rowGap    = 30
	// pillLap is how far a pill reaches into the box that it belongs to.
	pillLap = 2
	rowH    = pillH - pillLap + boxH + rowGap
	pillRow = pillH + rowGap/2
	// railDrop is from a rail to the first row below, labelH what is written above.
	railDrop = 24
	labelH   = 22
	bandGap  = 40
	// legendH is for what is written at the lower edge of the host.
	legendH = 28
	// fewestLanes are kept free for ways out, so that the first ones move nothing.
	fewestLanes = 2
	// badgeW is for the word between lane and rail that says how traffic leaves.
	badgeW = 50
)

const (
	usualColumns = 6
	mostColumns  = 24
	usualFold    = 30
	// mostExtra is how many guests beyond the fold are drawn because there is
	// something about them.
	mostExtra = 12
)

// Layout gives nodes their boxes and edges their paths: LANs on top, the host's
// NICs on its wall and doors beside them, below each bridge as a rail with its
// guests hanging from it in columns. A guest hangs where its first NIC is; its
// others lead along dashed lanes at the right. What is beyond the fold gets no
// box, and one node of KindMore stands for it.
//
// Guests stand in the order in which they were plugged in, so that one more
// moves no other; where it opens a new row, what is below moves down by that row.
func Layout(g Graph, o Options) Graph {
	if o.Columns <= 0 {
		o.Columns = usualColumns
	}
	o.Columns = min(o.Columns, mostColumns)
	if o.Fold == 0 {
		o.Fold = usualFold
	}
	g.Nodes, g.Edges = slices.Clone(g.Nodes), slices.Clone(g.Edges)
	l := &layout{Options: o, g: &g, at: make(map[string]int, len(g.Nodes)), in: make(map[string][]int, len(g.Nodes)), out: make(map[string][]int, len(g.Nodes))}
	for i, n := range g.Nodes {
		l.at[n.ID] = i
	}
	for i, e := range g.Edges {
		l.out[e.From] = append(l.out[e.From], i)
		l.in[e.To] = append(l.in[e.To], i)
	}
	l.findBands()
	l.findLanes()
	y := l.uplinks()
	for i := range l.bands {
		y = l.place(&l.bands[i], y)
	}
	l.frame(y)
	for _, b := range l.bands {
		l.cables(b)
	}
	l.waysOut()
	l.sideLanes()
	return g
}

type layout struct {
	Options
	g     *Graph
	at    map[string]int
	in    map[string][]int // edges by where they lead
	out   map[string][]int // edges by where they come from
	bands []band
	// lanes are the nodes that traffic leaves by, side those rails that guests'
	// further NICs are on, each with its place in the row of lanes.
	lanes, side []string
	// columns is how many are in use, left where the first begins.
	columns int
	wall    int
	// upColumns and upBottom are those of the NICs.
	upColumns, upBottom int
	// turnAt is where the ways out turn to their lanes.
	turnAt int
}

// band is a rail and what hangs from it.
type band struct {
	bridge string // "" for ports that hang nowhere
	slots  []slot
	more   string
	// bare: there are only ports without guests, which need less room.
	bare bool
	top  int
}

// slot is one place below a rail: a guest, the host, or a port of nobody.
type slot struct {
	node string
	// port is the guest's first NIC; others are the rest.
	port   string
	others []string
}

func (l *layout) node(id string) *Node { return &l.g.Nodes[l.at[id]] }

// left is where a column begins.
func (l *layout) left(column int) int {
	return margin*2 + max(fewestLanes, len(l.lanes))*laneGap + badgeW + 12 + column*pitchX
}

func (l *layout) railX() int { return l.left(0) - 22 }

// right is where rails end.
func (l *layout) right() int { return l.left(l.columns) - columnGap }

// findBands sorts bridges into the order from the outside in, and guests under
// the bridge of their first NIC.
func (l *layout) findBands() {
	for _, n := range l.g.Nodes {
		if n.Kind == KindBridge {
			l.bands = append(l.bands, band{bridge: n.ID})
		}
	}
	slices.SortStableFunc(l.bands, func(x, y band) int {
		nx, ny := l.node(x.bridge), l.node(y.bridge)
		return cmp.Or(cmp.Compare(l.depth(nx), l.depth(ny)), naturally(cmp.Or(nx.Network, nx.Name), cmp.Or(ny.Network, ny.Name)), strings.Compare(nx.Name, ny.Name))
	})
	byBridge := map[string]int{}
	for i, b := range l.bands {
		byBridge[b.bridge] = i
	}
	l.bands = append(l.bands, band{})
	ports := map[string][]string{} // by guest, the first one first
	for _, n := range l.g.Nodes {
		if n.Kind == KindPort {
			if guest := l.next(n.ID, EdgeGuest); guest != "" {
				ports[guest] = append(ports[guest], n.ID)
			}
		}
	}
	for _, list := range ports {
		slices.SortStableFunc(list, func(x, y string) int {
			nx, ny := l.node(x), l.node(y)
			return cmp.Or(cmp.Compare(nx.order, ny.order), naturally(nx.Name, ny.Name))
		})
	}
	for _, n := range l.g.Nodes {
		s := slot{node: n.ID}
		switch n.Kind {
		case KindPort:
			if guest := l.next(n.ID, EdgeGuest); guest != "" {
				if ports[guest][0] != n.ID {
					continue
				}
				s = slot{node: guest, port: n.ID, others: ports[guest][1:]}
			}
		case KindHost:
		default:
			continue
		}
		at, plugged := byBridge[l.bridgeOf(n.ID)]
		if !plugged {
			at = len(l.bands) - 1
		}
		l.bands[at].slots = append(l.bands[at].slots, s)
	}
	for i := range l.bands {
		l.fold(&l.bands[i])
	}
}

// depth orders bridges: those on the LAN, routed ones, those without a way out,
// those of others.
func (l *layout) depth(n *Node) int {
	switch {
	case l.via(n.ID, EdgePlugged) != "":
		return 0
	case n.Foreign:
		return 3
	case n.Mode != nat:
		return 2
	}
	return 1
}

// next is the first node that an edge of that kind leads to, via the first that
// one comes from.
func (l *layout) next(id string, kind EdgeKind) string {
	for _, i := range l.out[id] {
		if l.g.Edges[i].Kind == kind {
			return l.g.Edges[i].To
		}
	}
	return ""
}

func (l *layout) via(id string, kind EdgeKind) string {
	for _, i := range l.in[id] {
		if l.g.Edges[i].Kind == kind {
			return l.g.Edges[i].From
		}
	}
	return ""
}

// bridgeOf is where a port is plugged in; where a change moves it, where it
// will be.
func (l *layout) bridgeOf(id string) string {
	bridge := ""
	for _, i := range l.in[id] {
		if e := l.g.Edges[i]; e.Kind == EdgePlugged && (bridge == "" || e.Mark == Added) {
			bridge = e.From
		}
	}
	return bridge
}

// fold sorts the slots, the host first, and keeps the first ones, and some that there is something about.
func (l *layout) fold(b *band) {
	slices.SortStableFunc(b.slots, func(x, y slot) int {
		return boolean(l.node(y.node).Kind == KindHost) - boolean(l.node(x.node).Kind == KindHost)
	})
	b.bare = len(b.slots) > 0 && !slices.ContainsFunc(b.slots, func(s slot) bool { return s.port != "" || l.node(s.node).Kind == KindHost })
	if l.Fold < 0 || len(b.slots) <= l.Fold+1 {
		return
	}
	name := strings.TrimPrefix(b.bridge, string(KindBridge)+":")
	more := Node{ID: id(KindMore, name), Kind: KindMore, Name: name, Health: OK}
	if b.bridge != "" {
		more.Network = l.node(b.bridge).Network
	}
	extra := 0
	kept := slices.Clone(b.slots[:l.Fold])
	for _, s := range b.slots[l.Fold:] {
		n := l.node(s.node)
		if special := n.Health == Problem || n.Mark != "" || len(n.Findings) > 0; special && extra < mostExtra {
			extra++
			kept = append(kept, s)
			continue
		}
		more.Members++
		if n.Health == Problem {
			more.Problems++
			more.Health = Problem
		}
		n.Folded = more.ID
		for _, port := range append([]string{s.port}, s.others...) {
			if port != "" {
				l.node(port).Folded = more.ID
			}
		}
	}
	b.slots = kept
	if more.Members > 0 {
		b.more = l.addMore(more)
	}
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (l *layout) addMore(n Node) string {
	n.Note = fmt.Sprintf("… and %d more", n.Members)
	l.at[n.ID] = len(l.g.Nodes)
	l.g.Nodes = append(l.g.Nodes, n)
	return n.ID
}

// findLanes gives every node that traffic leaves by a lane at the left, and
// every rail that guests' further NICs are on one at the right.
func (l *layout) findLanes() {
	for _, b := range l.bands {
		for _, i := range l.in[b.bridge] {
			if from := l.g.Edges[i].From; !slices.Contains(l.lanes, from) {
				l.lanes = append(l.lanes, from)
			}
		}
	}
	used := map[string]bool{}
	for _, b := range l.bands {
		l.columns = max(l.columns, min(len(b.slots)+boolean(b.more != ""), l.Columns))
		for _, s := range b.slots {
			for _, port := range s.others {
				used[l.bridgeOf(port)] = true
			}
		}
	}
	for _, b := range l.bands {
		if b.bridge != "" && used[b.bridge] {
			l.side = append(l.side, b.bridge)
		}
	}
}

// frame draws the host around all that is in it.
func (l *layout) frame(bottom int) {
	right := l.right() + margin
	if len(l.side) > 0 {
		right += len(l.side)*laneGap + 4
	}
	if len(l.side) == 0 {
		bottom -= bandGap / 2 // no lane runs below the last row
	}
	l.g.Frame = Box{margin, l.wall, right - margin, bottom + legendH - l.wall}
	l.g.Width, l.g.Height, l.g.Columns = right+margin, bottom+legendH+margin, l.columns
}
