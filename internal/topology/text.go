package topology

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Style says what a piece of text is; whoever prints it knows the colours.
type Style string

// The styles. None of them tells anything alone: the words and signs do.
const (
	Plain Style = ""
	// Name is what a thing is called, Soft what matters less.
	Name Style = "name"
	Soft Style = "soft"
	// Good, Warn and Bad are health.
	Good Style = "good"
	Warn Style = "warn"
	Bad  Style = "bad"
	// Door is a forward. The colours of rails are named after what happens to
	// traffic: nat, bridged, isolated, foreign. Marks are styles, too.
	Door Style = "door"
)

// Span is a piece of a line in one style. It has no control characters.
type Span struct {
	Text  string
	Style Style
}

// Line is one line of a drawing.
type Line []Span

// String is the line without styles.
func (l Line) String() string {
	var b strings.Builder
	for _, s := range l {
		b.WriteString(s.Text)
	}
	return b.String()
}

// Page is what a drawing has to fit on.
type Page struct {
	// Width in cells; 0 for no limit.
	Width int
	// ASCII draws with characters of ASCII alone. Names are as they are.
	ASCII bool
}

// Text draws a graph that Layout was given as a tree with a rail for each bridge:
// LAN, NIC, its doors and bridges, and below each bridge its guests in columns.
// What hangs nowhere follows. On a narrow page what matters least goes first:
// hardware addresses, then all addresses but one, then the ends of names.
func Text(g Graph, p Page) []Line {
	t := &tree{Page: p, glyphs: unicodeGlyphs, nodes: map[string]Node{}, from: map[string][]Edge{}, to: map[string][]Edge{}, drawn: map[string]bool{}, doors: map[string][]string{}}
	if p.ASCII {
		t.glyphs = asciiGlyphs
	}
	for _, n := range g.Nodes {
		t.nodes[n.ID] = n
		t.marks = t.marks || n.Mark != ""
	}
	for _, e := range g.Edges {
		t.from[e.From] = append(t.from[e.From], e)
		t.to[e.To] = append(t.to[e.To], e)
		t.marks = t.marks || e.Mark != ""
		if e.Kind == EdgeDoor && t.nodes[e.To].Kind == KindGuest {
			t.doors[e.To] = append(t.doors[e.To], t.door+t.nodes[e.From].Listen)
		}
	}
	if p.Width > 0 && p.Width < narrow {
		t.down, t.tee, t.end = cut(t.down, 2, ""), cut(t.tee, 1, ""), cut(t.end, 1, "")
		t.tight = true
	}
	t.measure(g)
	for _, kind := range []NodeKind{KindLAN, KindNIC, KindBridge, KindPort, KindForward} {
		for _, n := range g.Nodes {
			if n.Kind == kind && !t.entered(n) && !t.folded(n) {
				t.root(n)
			}
		}
	}
	t.whole(g.Findings)
	if t.marks {
		t.put("", "", Line{{t.glyphs.marks[Added] + " comes  " + t.glyphs.marks[Removed] + " goes  " + t.glyphs.marks[Changed] + " changes", Soft}})
	}
	return t.lines
}

// glyphs are what lines are drawn with.
type glyphs struct {
	down, tee, end, dash, further string
	rail, door, arrow, dots       string
	ok, off, care, bad            string
	marks                         map[Mark]string
}

var (
	unicodeGlyphs = glyphs{"│  ", "├─", "└─", "─", "┄", "━", "▸", "→", "…", "●", "○", "▲", "✗", map[Mark]string{Added: "+", Removed: "−", Changed: "~"}}
	asciiGlyphs   = glyphs{"|  ", "|-", "`-", "-", ".", "=", ">", "->", "...", "*", "o", "^", "!", map[Mark]string{Added: "+", Removed: "-", Changed: "~"}}
)

// narrow is the width below which lines are drawn as short as can be.
const narrow = 60

type tree struct {
	Page
	glyphs
	lines    []Line
	nodes    map[string]Node
	from, to map[string][]Edge
	drawn    map[string]bool
	// doors are where each guest is reached from outside.
	doors map[string][]string
	// tight: the page is narrow.
	tight bool
	// marks: a change is drawn, each line begins with what it does.
	marks bool
	// tap, guest, address are the widths of columns; mac says whether there is
	// room for hardware addresses, all for more than one address.
	tap, guest, address int
	mac, all            bool
}

// entered says whether an edge leads to a node that draws it.
func (t *tree) entered(n Node) bool {
	return len(t.to[n.ID]) > 0
}

// folded says whether a line for many stands for a node.
func (t *tree) folded(n Node) bool { return n.Folded != "" && t.nodes[n.Folded].Kind == KindMore }

func (t *tree) root(n Node) {
	if len(t.lines) > 0 {
		t.lines = append(t.lines, nil)
	}
	t.draw(n, Edge{}, "", "")
}

// put ends a line: the mark, what leads to the thing, the thing.
func (t *tree) put(mark Mark, lead string, rest Line) {
	var line Line
	if t.marks {
		line = append(line, Span{cmp.Or(t.glyphs.marks[mark], " ") + " ", Style(mark)})
	}
	line = append(line, Span{lead, Soft})
	if mark != "" {
		for i := range rest {
			rest[i].Style = Style(mark)
		}
	}
	line = append(line, rest...)
	if t.ASCII {
		for i := range line {
			line[i].Text = ascii(line[i].Text)
		}
	}
	t.lines = append(t.lines, fit(line, t.Width, t.dots))
}

// fit cuts a line to a width, and blanks at its end.
func fit(line Line, width int, dots string) Line {
	if width > 0 && cells(line.String()) > width {
		left := width - cells(dots)
		for i, s := range line {
			if w := cells(s.Text); w <= left {
				left -= w
				continue
			}
			line[i].Text = cut(s.Text, left+cells(dots), dots)
			line = line[:i+1]
			break
		}
	}
	for len(line) > 0 {
		last := &line[len(line)-1]
		if last.Text = strings.TrimRight(last.Text, " "); last.Text != "" {
			break
		}
		line = line[:len(line)-1]
	}
	return line
}

// draw writes a node and what hangs on it. lead is what is left of it, indent
// what is left of what hangs on it.
func (t *tree) draw(n Node, by Edge, lead, indent string) {
	mark := cmp.Or(n.Mark, by.Mark)
	if t.drawn[n.ID] && n.Kind != KindForward { // nothing hangs on a door: it is said again where it moves to
		t.put(mark, strings.TrimRight(lead, " ")+" ", Line{{clean(cmp.Or(n.Network, n.Name)), Name}, {"  see above", Soft}})
		return
	}
	t.drawn[n.ID] = true
	t.put(mark, lead, t.label(n, by, cells(lead)))
	below := t.below(n)
	for i, e := range below {
		next := t.nodes[e.To]
		tee, down := t.tee, t.down
		if i == len(below)-1 {
			tee, down = t.end, strings.Repeat(" ", cells(t.down))
		}
		if e.Dashed {
			tee = strings.TrimSuffix(tee, t.dash) + t.further
		}
		t.draw(next, e, indent+tee+t.way(e, next), indent+down)
	}
}

// way is the end of the line that leads to a thing: how traffic goes there.
func (t *tree) way(e Edge, to Node) string {
	switch {
	case e.Kind == EdgeRouted && e.Translated:
		return "NAT" + t.dash
	case to.Kind == KindBridge:
		return t.rail
	}
	return " "
}

// below are the edges to what is drawn below a node: what stands on it, doors,
// bridges, then what is plugged in, in the order of the picture.
func (t *tree) below(n Node) []Edge {
	var out []Edge
	for _, e := range t.from[n.ID] {
		to := t.nodes[e.To]
		stacked := e.Kind == EdgeAttached && slices.ContainsFunc(t.to[e.To], func(o Edge) bool { return o.Kind == EdgeStacked })
		if e.Kind == EdgeGuest || to.Kind == KindGuest || t.folded(to) || stacked {
			continue
		}
		out = append(out, e)
	}
	for _, more := range []string{id(KindMore, n.Name), id(KindMore, string(KindForward))} {
		if m, there := t.nodes[more]; there && (n.Kind == KindBridge && m.Name == n.Name || n.Kind == KindNIC && n.Uplink && m.Name == string(KindForward)) {
			out = append(out, Edge{From: n.ID, To: more})
		}
	}
	place := func(e Edge) int {
		to := t.nodes[e.To]
		switch to.Kind {
		case KindBridge:
			return 5
		case KindHost:
			return -1
		case KindMore:
			if to.Name != string(KindForward) {
				return 4
			}
			return 1
		}
		return rank(to.Kind) % 5 // NICs 1, doors 2, ports 0
	}
	slices.SortStableFunc(out, func(x, y Edge) int {
		nx, ny := t.nodes[x.To], t.nodes[y.To]
		if nx.Kind == KindPort && ny.Kind == KindPort {
			return cmp.Or(cmp.Compare(nx.order, ny.order), naturally(nx.Name, ny.Name))
		}
		return cmp.Compare(place(x), place(y))
	})
	return out
}

func (t *tree) label(n Node, by Edge, at int) Line {
	switch n.Kind {
	case KindLAN:
		line := Line{{"LAN ", Soft}, {clean(n.Name), Name}}
		if len(n.Addresses) > 0 {
			line = append(line, Span{"  gateway " + clean(strings.Join(n.Addresses, ", ")), Plain})
		}
		return line
	case KindNIC:
		return t.nic(n)
	case KindForward:
		line := Line{{t.door + clean(n.Listen) + " " + t.arrow + " " + clean(n.Target), Door}}
		if n.Note != "" {
			line = append(line, Span{"  waits: " + clean(n.Note), Soft})
		}
		return line
	case KindBridge:
		return t.bridge(n, by, at)
	case KindHost:
		return Line{{"this host", Name}, {"  " + clean(strings.Join(n.Addresses, " ")), Plain}}
	case KindMore:
		line := Line{{strings.Replace(n.Note, "…", t.dots, 1), Soft}}
		if n.Problems > 0 {
			line = append(line, Span{fmt.Sprintf(", %d with problems", n.Problems), Bad})
		}
		return line
	}
	return t.port(n, by, at)
}

func (t *tree) nic(n Node) Line {
	line := Line{{clean(n.Name), Name}}
	add := func(style Style, text string) {
		if text != "" {
			line = append(line, Span{"  " + clean(text), style})
		}
	}
	add(Soft, strings.TrimSpace(n.Type+" "+strings.Join(n.VLANs, ",")))
	add(Plain, strings.Join(n.Addresses, " "))
	add(Soft, Speed(n.SpeedMbit))
	switch {
	case n.Health == Problem || n.Health == Warning:
		add(trouble[n.Health], "! "+n.Note)
	case n.Note != "":
		add(Soft, n.Note)
	default:
		add(Good, "up")
	}
	return append(line, t.also(n)...)
}

// bridge is a rail: its line goes on to the edge of the page.
func (t *tree) bridge(n Node, by Edge, at int) Line {
	style := Style(hue(n))
	title, rest := n.Network, []string{n.Mode, n.Name}
	if n.Network == "" {
		title, rest = n.Name, []string{cmp.Or(n.Owner, "not made by drawbridge")}
	}
	rail := strings.Repeat(t.rail, 2)
	if by.Kind == "" {
		rail = strings.Repeat(t.rail, 3)
	}
	line := Line{{rail + " ", style}, {clean(title), Name}}
	if n.Health != Stopped || n.Note == "" {
		rest = append(rest, n.Addresses...)
	}
	line = append(line, Span{"  " + clean(strings.Join(full(rest...), "  ")), Plain})
	switch {
	case n.Health == Problem || n.Health == Warning:
		line = append(line, Span{"  ! " + clean(n.Note), trouble[n.Health]})
	case n.Note != "":
		line = append(line, Span{"  " + clean(n.Note), Soft})
	}
	line = append(line, t.also(n)...)
	edge := cmp.Or(t.Width, 80)
	if t.marks {
		edge -= 2
	}
	if left := min(edge, 100) - at - cells(line.String()) - 1; left > 2 {
		line = append(line, Span{" " + strings.Repeat(t.rail, left), style})
	}
	return line
}
