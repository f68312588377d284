package topology

import (
	"fmt"
	"strconv"
	"strings"
)

// SVG draws a graph that Layout was given, as a file of its own that follows the
// viewer's light or dark (prefers-color-scheme). Every node is a group with its
// id as data-id, and its facts as a title that shows on hover. There is no
// script, no link and no reference in it, whatever guests call themselves.
func SVG(g Graph) string {
	s := &svg{g: g, rails: map[string]string{}, doors: map[string][]string{}, uses: map[string]bool{}}
	nodes := map[string]Node{}
	for _, n := range g.Nodes {
		nodes[n.ID] = n
		if n.Kind == KindBridge {
			s.rails[n.ID] = hue(n)
		}
	}
	homes, further := map[string]string{}, map[string]bool{}
	for _, e := range g.Edges {
		if e.Kind == EdgeDoor && nodes[e.To].Kind == KindGuest {
			s.doors[e.To] = append(s.doors[e.To], nodes[e.From].Listen)
		}
		if e.Kind == EdgePlugged && s.rails[e.From] != "" {
			homes[e.To] = s.rails[e.From]
			further[e.To] = e.Dashed
		}
	}
	for _, e := range g.Edges {
		if e.Kind == EdgeGuest && (homes[e.To] == "" || !further[e.From]) {
			homes[e.To] = homes[e.From]
		}
	}
	s.homes = homes
	what := "Network topology"
	if g.Host != "" {
		what += " of " + g.Host
	}
	s.put(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="%s">`,
		g.Width, g.Height, g.Width, g.Height, escaped(what))
	s.put("<style>%s</style>", style)
	s.put(`<rect class="bg" width="%d" height="%d" rx="8"/>`, g.Width, g.Height)
	f := g.Frame
	s.put(`<rect class="frame" x="%d" y="%d" width="%d" height="%d" rx="10"/>`, f.X, f.Y, f.W, f.H)
	for _, e := range g.Edges {
		if e.Mark == Removed { // below what comes in its place
			s.edge(e, nodes)
		}
	}
	for _, e := range g.Edges {
		if e.Mark != Removed {
			s.edge(e, nodes)
		}
	}
	for _, kind := range []NodeKind{KindLAN, KindNIC, KindForward, KindBridge, KindHost, KindGuest, KindMore, KindPort} {
		for _, n := range g.Nodes {
			if n.Kind == kind && n.Box.W > 0 {
				s.node(n)
			}
		}
	}
	s.legend()
	s.put("</svg>")
	return s.out.String()
}

type svg struct {
	g   Graph
	out strings.Builder
	// rails are the colours of bridges, homes those of what hangs from them.
	rails, homes map[string]string
	// doors are where a guest is reached from outside.
	doors map[string][]string
	// uses is what the legend has to explain.
	uses map[string]bool
}

func (s *svg) put(format string, args ...any) {
	fmt.Fprintf(&s.out, format, args...)
	s.out.WriteByte('\n')
}

// escaped makes a text part of the file.
func escaped(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#39;").Replace(clean(s))
}

// hue is the class of a bridge and of what hangs from it: what happens to its
// traffic.
func hue(n Node) string {
	switch {
	case n.Mode == nat:
		return "nat"
	case n.Network == "":
		return "foreign"
	case n.Mode == "isolated":
		return "isolated"
	}
	return "bridged"
}

// style has one set of colours for light and one for dark. None of them tells
// anything alone: problems have a '!', what is added a '+', what goes a '−'.
const style = `
svg{--bg:#fff;--frame:#f6f8fa;--line:#d0d7de;--ink:#1f2328;--soft:#59636e;--box:#fff;--nat:#0969da;--bridged:#8250df;--isolated:#9a6700;--foreign:#818b98;--door:#0f766e;--bad:#cf222e;--care:#bc4c00;--add:#1a7f37;--del:#cf222e;--chg:#9a6700;--on:#fff}
@media (prefers-color-scheme:dark){svg{--bg:#0d1117;--frame:#151b23;--line:#3d444d;--ink:#f0f6fc;--soft:#9198a1;--box:#212830;--nat:#4493f8;--bridged:#ab7df8;--isolated:#d29922;--foreign:#818b98;--door:#2dd4bf;--bad:#f85149;--care:#f0883e;--add:#3fb950;--del:#f85149;--chg:#d29922;--on:#0d1117}}
text{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace;font-size:11px;fill:var(--soft);white-space:pre}
.bg{fill:var(--bg)}.frame{fill:var(--frame);stroke:var(--line);stroke-width:1.5}
.name{font-size:13px;font-weight:600;fill:var(--ink)}.small{font-size:10px}.big{font-size:13px}
.box{fill:var(--box);stroke:var(--line);stroke-width:1.2}.lan .box{fill:var(--bg);stroke:var(--soft)}
.nat{--hue:var(--nat)}.bridged{--hue:var(--bridged)}.isolated{--hue:var(--isolated)}.foreign{--hue:var(--foreign)}.doors{--hue:var(--door)}
.bar,.rail{fill:var(--hue)}.pill{fill:var(--box);stroke:var(--hue);stroke-width:1.2}.tint{fill:var(--hue)}.tag{fill:var(--hue)}text.on{fill:var(--on);font-weight:600}
.wire{fill:none;stroke:var(--hue,var(--soft));stroke-width:1.6}.thick{stroke-width:4}.lane{stroke-dasharray:5 4}
.off .box,.off .pill{stroke-dasharray:4 3}.off .name{fill:var(--soft)}.off .rail{fill:none;stroke:var(--hue);stroke-dasharray:6 4}
.bad{--hue:var(--bad)}.bad .box,.bad .pill{stroke:var(--bad);stroke-width:1.8}.warn{fill:var(--bad);font-weight:600}.sign{fill:var(--bad)}
.wire.bad{stroke:var(--bad);stroke-dasharray:2 4}
.care{--hue:var(--care)}.care .box,.care .pill{stroke:var(--care);stroke-width:1.8}.mild{fill:var(--care);font-weight:600}.care .sign{fill:var(--care)}.wire.care{stroke:var(--care);stroke-dasharray:8 3}
.wire.off{stroke-dasharray:4 3;opacity:.7}
.added{--hue:var(--add)}.added .box,.added .pill{stroke:var(--add);stroke-width:2}.added .sign{fill:var(--add)}
.removed{--hue:var(--del)}.removed .box,.removed .pill{stroke:var(--del);stroke-width:2;stroke-dasharray:4 3}.removed text{text-decoration:line-through;opacity:.8}.removed .sign{fill:var(--del)}.removed .on{text-decoration:none;opacity:1}
.changed .box,.changed .pill{stroke:var(--chg);stroke-width:2}.changed .sign{fill:var(--chg)}
.wire.added{stroke:var(--add);stroke-width:2.4}.wire.removed{stroke:var(--del);stroke-width:2.4;stroke-dasharray:4 4}.wire.thick.added,.wire.thick.removed{stroke-width:4}
`

// The advance of a character of a monospaced font is 0.6 of its size, a little
// more in some; texts are cut by this.
func room(pixels int, size float64) int { return int(float64(pixels) / (size * 0.605)) }

func (s *svg) edge(e Edge, nodes map[string]Node) {
	if len(e.Path) < 2 {
		return
	}
	class := []string{"wire"}
	to := nodes[e.To]
	switch {
	case to.Kind == KindBridge:
		class = append(class, s.rails[e.To])
		if e.Kind == EdgePlugged {
			class = append(class, "thick")
		}
	case s.rails[e.From] != "":
		class = append(class, s.rails[e.From])
	}
	if e.Dashed {
		class = append(class, "lane")
		s.uses["lane"] = true
	}
	class = append(class, state(e.Health, e.Mark)...)
	end := "/>"
	if e.Finding != "" {
		end = "><title>" + escaped(e.Note) + "</title></path>"
	}
	s.put(`<path class="%s" data-id="%s" d="%s"%s`, strings.Join(class, " "), escaped(e.ID), rounded(e.Path, 7), end)
	if e.Kind == EdgeRouted && e.Translated {
		last, before := e.Path[len(e.Path)-1], e.Path[len(e.Path)-2]
		x := max(last.X-46, before.X+8)
		classes := append([]string{s.rails[e.To]}, state("", e.Mark)...)
		s.put(`<g class="%s"><rect class="tag" x="%d" y="%d" width="34" height="16" rx="8"/>`, strings.Join(classes, " "), x, last.Y-8)
		s.put(`<text class="on small" x="%d" y="%d" text-anchor="middle">NAT</text></g>`, x+17, last.Y+4)
	}
}

// state are the classes of health and of what a change does.
func state(h Health, m Mark) []string {
	var out []string
	switch h {
	case Problem:
		out = append(out, "bad")
	case Warning:
		out = append(out, "care")
	case Down, Stopped, Unknown:
		out = append(out, "off")
	}
	if m != "" {
		out = append(out, string(m))
	}
	return out
}

// rounded writes a line through corners as a path whose corners are round.
func rounded(p []Point, radius int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "M%d %d", p[0].X, p[0].Y)
	for i := 1; i < len(p); i++ {
		if i == len(p)-1 {
			fmt.Fprintf(&b, "L%d %d", p[i].X, p[i].Y)
			break
		}
		r := min(radius, length(p[i-1], p[i])/2, length(p[i], p[i+1])/2)
		in, out := towards(p[i], p[i-1], r), towards(p[i], p[i+1], r)
		fmt.Fprintf(&b, "L%d %dQ%d %d %d %d", in.X, in.Y, p[i].X, p[i].Y, out.X, out.Y)
	}
	return b.String()
}

func length(a, b Point) int { return max(a.X-b.X, b.X-a.X) + max(a.Y-b.Y, b.Y-a.Y) }

// towards is the point so many pixels from a on the way to b, which is straight
// across or straight down.
func towards(a, b Point, pixels int) Point {
	sign := func(n int) int {
		switch {
		case n > 0:
			return pixels
		case n < 0:
			return -pixels
		}
		return 0
	}
	return Point{a.X + sign(b.X-a.X), a.Y + sign(b.Y-a.Y)}
}

// legend explains what is in the picture, and no more.
func (s *svg) legend() {
	y := s.g.Frame.Bottom() - 11
	x := s.g.Frame.Right() - 14
	name := "this host"
	if s.g.Host != "" {
		name = "host " + s.g.Host
	}
	name = cut(name, 30, "…")
	s.put(`<text class="small" x="%d" y="%d">%s</text>`, s.g.Frame.X+14, y, escaped(name))
	least := s.g.Frame.X + 14 + cells(name)*7 + 20
	for _, item := range []struct{ use, text string }{
		{"removed", "goes"}, {"changed", "changes"}, {"added", "comes"}, {"care", "warning"}, {"bad", "problem"}, {"lane", "further NIC"},
		{"foreign", "not ours"}, {"isolated", "isolated"}, {"bridged", "bridged"}, {"nat", "NAT"},
	} {
		if !s.uses[item.use] {
			continue
		}
		w := cells(item.text)*6 + 1
		if x-w-22 < least {
			break
		}
		s.put(`<text class="small" x="%d" y="%d">%s</text>`, x-w, y, item.text)
		x -= w + 22
		switch item.use {
		case "removed", "changed", "added", "bad", "care":
			s.put(`<g class="%s">`, item.use)
			s.sign(x+11, y-4, signs[item.use])
			s.put("</g>")
		case "lane":
			s.put(`<path class="wire lane" d="M%d %dh17"/>`, x, y-4)
		default:
			s.put(`<rect class="rail %s" x="%d" y="%d" width="17" height="5" rx="2.5"/>`, item.use, x, y-6)
		}
		x -= 14
	}
}

func (s *svg) sign(x, y int, text string) {
	s.put(`<circle class="sign" cx="%d" cy="%d" r="7"/><text class="on" x="%d" y="%s" text-anchor="middle">%s</text>`, x, y, x, strconv.Itoa(y+4), text)
}
