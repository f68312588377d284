package topology

import (
	"strings"
	"unicode"
)

// Text draws the graph as a tree: LAN, NIC, bridge, port with its guest, one
// line each. What hangs nowhere follows below. Control characters in names
// become '?'.
func (g Graph) Text() string {
	t := &tree{graph: g, drawn: map[string]bool{}, nodes: map[string]Node{}, from: map[string][]Edge{}}
	for _, n := range g.Nodes {
		t.nodes[n.ID] = n
	}
	for _, e := range g.Edges {
		t.from[e.From] = append(t.from[e.From], e)
	}
	roots := g.Roots()
	for _, n := range roots {
		// LANs and what hangs nowhere; NICs without LAN come with them.
		if n.Kind == KindLAN || n.Kind == KindNIC {
			t.draw(n, "", "", nil)
		}
	}
	for _, n := range roots {
		if n.Kind == KindBridge {
			t.draw(n, "", "", nil)
		}
	}
	for _, n := range roots {
		if n.Kind == KindPort {
			t.draw(n, "", "", nil)
		}
	}
	return t.out.String()
}

type tree struct {
	graph Graph
	out   strings.Builder
	drawn map[string]bool
	nodes map[string]Node
	from  map[string][]Edge
}

// draw writes a node and what hangs on it. by is the edge that led here.
func (t *tree) draw(n Node, lead, indent string, by *Edge) {
	t.out.WriteString(strings.TrimRight(lead+t.label(n, by), " ") + "\n")
	if t.drawn[n.ID] {
		return // reached twice, by a second LAN: drawn in full above
	}
	t.drawn[n.ID] = true
	var below []Edge
	for _, e := range t.from[n.ID] {
		if e.Kind != EdgeGuest {
			below = append(below, e)
		}
	}
	for i, e := range below {
		next := t.nodes[e.To]
		if i == len(below)-1 {
			t.draw(next, indent+"└─ ", indent+"   ", &e)
		} else {
			t.draw(next, indent+"├─ ", indent+"│  ", &e)
		}
	}
}

func (t *tree) label(n Node, by *Edge) string {
	switch n.Kind {
	case KindLAN:
		label := "lan " + n.Name
		if len(n.Addresses) > 0 {
			label += " via " + strings.Join(n.Addresses, ", ")
		}
		return clean(label)
	case KindNIC:
		return columns(n.Name, strings.Join(n.Addresses, " "), upOr(n))
	case KindBridge:
		return t.bridge(n, by)
	case KindPort:
		return t.port(n)
	}
	return columns(n.Name, strings.Join(n.Addresses, " "))
}

func (t *tree) bridge(n Node, by *Edge) string {
	what := n.Mode
	if n.Foreign {
		what = "bridge"
	}
	if by != nil && by.Kind == EdgePlugged {
		what = "" // the NIC is in it: the line above says how
	}
	name := n.Name
	if what != "" {
		name = what + " ─ " + n.Name
	}
	owner := "network " + n.Network
	if n.Foreign {
		owner = "not made by drawbridge"
	}
	return columns(name, strings.Join(n.Addresses, " "), owner, noted(n))
}

func (t *tree) port(n Node) string {
	for _, e := range t.from[n.ID] {
		if e.Kind != EdgeGuest {
			continue
		}
		guest := t.nodes[e.To]
		return columns(n.Name+" ── "+guest.Name, strings.Join(n.Addresses, " "), n.MAC, noted(n))
	}
	return columns(n.Name, noted(n))
}

func upOr(n Node) string {
	if n.Note != "" {
		return noted(n)
	}
	return "up"
}

func noted(n Node) string {
	if n.Note == "" {
		return ""
	}
	if n.Health == Problem {
		return "! " + n.Note
	}
	return n.Note
}

// columns joins what is not empty by two spaces.
func columns(parts ...string) string {
	var full []string
	for _, p := range parts {
		if p != "" {
			full = append(full, clean(p))
		}
	}
	return strings.Join(full, "  ")
}

// clean keeps a guest's name from steering the terminal: control characters
// and those that turn the direction of writing.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co, unicode.Cs) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
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
