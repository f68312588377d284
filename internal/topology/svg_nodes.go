package topology

import (
	"fmt"
	"strings"
)

// signs tell what colours tell, to those who do not see them.
var signs = map[string]string{"added": "+", "removed": "−", "changed": "~", "bad": "!", "care": "!"}

func (s *svg) node(n Node) {
	class := []string{string(n.Kind)}
	switch n.Kind {
	case KindBridge:
		class = append(class, hue(n))
		if n.Mark != Added && n.Mark != Removed {
			s.uses[hue(n)] = true
		}
	case KindForward:
		class = append(class, "doors")
	default:
		class = append(class, s.homes[n.ID])
	}
	class = append(class, state(n.Health, n.Mark)...)
	s.put(`<g class="%s" data-id="%s"><title>%s</title>`, strings.Join(class, " "), escaped(n.ID), facts(n))
	switch n.Kind {
	case KindLAN:
		s.lan(n)
	case KindForward:
		s.door(n)
	case KindBridge:
		s.rail(n)
	case KindPort:
		s.pill(n)
	case KindMore:
		s.more(n)
	default:
		s.card(n)
	}
	s.put("</g>")
}

func (s *svg) text(class string, x, y, pixels int, size float64, text string) {
	s.put(`<text class="%s" x="%d" y="%d">%s</text>`, class, x, y, escaped(cut(clean(text), room(pixels, size), "…")))
}

func (s *svg) box(class string, b Box, radius int) {
	s.put(`<rect class="%s" x="%d" y="%d" width="%d" height="%d" rx="%d"/>`, class, b.X, b.Y, b.W, b.H, radius)
}

// marked puts the sign of a change, else of a problem, on the corner of a box.
func (s *svg) marked(n Node, x, y int) {
	what := string(n.Mark)
	switch {
	case what != "":
	case n.Health == Problem:
		what = "bad"
	case n.Health == Warning:
		what = "care"
	}
	if sign := signs[what]; sign != "" {
		s.uses[what] = true
		s.sign(x, y, sign)
	}
}

func (s *svg) lan(n Node) {
	b := n.Box
	s.box("box", b, b.H/2)
	first, rest, more := strings.Cut(n.Name, " ")
	name := "LAN " + first
	if more {
		name += fmt.Sprintf(" +%d", 1+strings.Count(rest, " "))
	}
	way := "no gateway"
	if len(n.Addresses) > 0 {
		way = "gateway " + n.Addresses[0]
	}
	s.centred("name big", b, 17, 12, name)
	s.centred("", b, 31, 11, way)
	s.marked(n, b.Right()-14, b.Y)
}

func (s *svg) centred(class string, b Box, dy int, size float64, text string) {
	s.put(`<text class="%s" style="font-size:%gpx" x="%d" y="%d" text-anchor="middle">%s</text>`, class, size, b.Middle().X, b.Y+dy, escaped(cut(clean(text), room(b.W-14, size), "…")))
}

// card is a NIC, the host or a guest: a name and two lines.
func (s *svg) card(n Node) {
	b := n.Box
	s.box("box", b, 6)
	if n.Kind != KindNIC {
		s.put(`<path class="bar" d="M%d %dv%dh-1a5 5 0 0 1-5-5v-%da5 5 0 0 1 5-5z"/>`, b.X+5, b.Y+1, b.H-2, b.H-12)
	}
	name, tag := n.Name, ""
	switch n.Kind {
	case KindHost:
		name = "this host"
	case KindNIC:
		tag = n.Type
		if len(n.VLANs) > 0 {
			tag = strings.TrimSpace(tag + " " + strings.Join(n.VLANs, ","))
		}
	case KindGuest:
		if doors := s.doors[n.ID]; len(doors) > 0 {
			text := cut(clean("▸"+strings.Join(doors, " ▸")), room(columnW-10-pillW-14, 10), "…")
			s.put(`<text class="small doors tint" x="%d" y="%d" text-anchor="end">%s</text>`, b.Right()-6, b.Y-5, escaped(text))
		}
	}
	x, wide := b.X+13, b.W-24
	if tag != "" {
		tag = cut(clean(tag), 12, "…")
		s.put(`<text class="small" x="%d" y="%d" text-anchor="end">%s</text>`, b.Right()-11, b.Y+20, escaped(tag))
		wide -= cells(tag)*6 + 8
	}
	s.text("name", x, b.Y+20, wide, 13, name)
	y := b.Y + 36
	if a := first(n.Addresses); a != "" {
		s.text("", x, y, b.W-24, 11, a)
		y += 14
	}
	class, last := "small", ""
	switch {
	case n.Note != "":
		last = n.Note
		switch n.Health {
		case Problem:
			class += " warn"
		case Warning:
			class += " mild"
		}
	case n.Kind == KindNIC:
		last = strings.Join(full(Speed(n.SpeedMbit), "up"), " · ")
	case n.Kind == KindHost:
		last = "a peer on the LAN"
	default:
		last = n.MAC
	}
	s.text(class, x, y, b.W-24, 10, last)
	s.marked(n, b.Right()-4, b.Y+2)
}

// first is the first of several addresses, and how many there are beside.
func first(list []string) string {
	switch len(list) {
	case 0:
		return ""
	case 1:
		return list[0]
	}
	return fmt.Sprintf("%s +%d", list[0], len(list)-1)
}

func full(parts ...string) []string {
	var out []string
	for _, p := range parts {
		if p != "" {
			out = append(out, p)
		}
	}
	return out
}

// Speed is a link speed in megabits a second in words: 10 Gbit/s; "" for none.
func Speed(mbit int) string {
	switch {
	case mbit <= 0:
		return ""
	case mbit%1000 == 0:
		return fmt.Sprintf("%d Gbit/s", mbit/1000)
	case mbit > 1000:
		return fmt.Sprintf("%.1f Gbit/s", float64(mbit)/1000)
	}
	return fmt.Sprintf("%d Mbit/s", mbit)
}

func (s *svg) pill(n Node) {
	s.box("pill", n.Box, pillH/2)
	label := n.Name
	if len(n.VLANs) > 0 {
		label += "·" + strings.Join(n.VLANs, ",")
	}
	s.put(`<text class="small" x="%d" y="%d" text-anchor="middle">%s</text>`, n.Box.Middle().X, n.Box.Y+13, escaped(cut(clean(label), room(n.Box.W-8, 10), "…")))
	if n.Box.W == columnW { // nobody's: no box of a guest tells it
		s.marked(n, n.Box.X+2, n.Box.Y+1)
	}
}

func (s *svg) door(n Node) {
	s.box("pill", n.Box, 5)
	s.put(`<rect class="tint" x="%d" y="%d" width="5" height="%d" rx="2"/>`, n.Box.X, n.Box.Y, n.Box.H)
	text := n.Listen + " → " + n.Target
	if n.Health == Down {
		text += " waits"
	}
	if i := strings.LastIndexByte(n.Listen, ':'); i > 0 && cells(text) > room(n.Box.W-18, 11) {
		text = "…" + text[i:] // the port says more than the address
	}
	s.text("", n.Box.X+12, n.Box.Y+15, n.Box.W-18, 11, text)
	s.marked(n, n.Box.Right()-4, n.Box.Y+1)
}

func (s *svg) more(n Node) {
	s.put(`<rect class="box" style="stroke-dasharray:4 3" x="%d" y="%d" width="%d" height="%d" rx="6"/>`, n.Box.X, n.Box.Y, n.Box.W, n.Box.H)
	y := n.Box.Middle().Y + 4
	if n.Problems > 0 && n.Box.H > 30 {
		s.put(`<text class="small warn" x="%d" y="%d" text-anchor="middle">! %d with problems</text>`, n.Box.Middle().X, y+10, n.Problems)
		y -= 6
	}
	s.put(`<text x="%d" y="%d" text-anchor="middle">%s</text>`, n.Box.Middle().X, y, escaped(n.Note))
}

// rail is a bridge, with its name written above.
func (s *svg) rail(n Node) {
	b := n.Box
	s.box("rail", b, railH/2)
	if hue(n) == "isolated" {
		s.put(`<rect class="rail" x="%d" y="%d" width="4" height="18" rx="2"/>`, b.X-1, b.Y-6)
	}
	title := n.Name
	rest := []string{n.Owner}
	switch {
	case n.Network != "":
		title, rest = n.Network, []string{n.Mode, n.Name}
	case n.Owner == "":
		rest = []string{"not made by drawbridge"}
	}
	wide := b.W
	x := b.X
	if sign := signs[string(n.Mark)]; sign != "" {
		s.marked(n, x+7, b.Y-12)
		x, wide = x+20, wide-20
	} else if trouble[n.Health] != "" {
		s.marked(n, x+7, b.Y-12)
		x, wide = x+20, wide-20
	}
	title = cut(clean(title), room(wide/2, 13), "…")
	s.put(`<text class="name" x="%d" y="%d">%s</text>`, x, b.Y-8, escaped(title))
	used := cells(title)*8 + 12
	line := strings.Join(append(full(rest...), full(n.Addresses...)...), "  ")
	class := ""
	if n.Note != "" && (trouble[n.Health] != "" || n.Health == Stopped) {
		line = strings.Join(full(rest...), "  ") + "  " + n.Note
		class = map[Health]string{Problem: "warn", Warning: "mild"}[n.Health]
	}
	s.text(class, x+used, b.Y-8, wide-used, 11, line)
}

// facts is all that is known of a node, for those who hover over it.
func facts(n Node) string {
	kind := string(n.Kind)
	if n.Kind == KindBridge && n.Network != "" {
		kind = "network " + n.Network + ", " + n.Mode + ", bridge"
	}
	lines := []string{kind + " " + n.Name}
	if n.Kind == KindMore {
		lines = []string{n.Note}
	}
	add := func(label, value string) {
		if value != "" && value != "0" {
			lines = append(lines, label+" "+value)
		}
	}
	label := "address"
	if n.Kind == KindLAN {
		label = "gateway"
	}
	for _, a := range n.Addresses {
		add(label, a)
	}
	add("leads to", n.Leads)
	add("MAC", n.MAC)
	add("speed", Speed(n.SpeedMbit))
	add("VLAN", strings.Join(n.VLANs, ", "))
	add("by", n.Owner)
	if n.Mark != "" {
		add("this change:", string(n.Mark))
	}
	if n.Health != OK {
		add(string(n.Health)+":", n.Note)
	}
	for _, f := range n.Findings {
		if f.words() != n.Note {
			add(string(f.Severity)+":", f.words())
		}
		add("fix:", f.Fix)
	}
	for i, l := range lines {
		lines[i] = escaped(l)
	}
	return strings.Join(lines, "\n")
}
