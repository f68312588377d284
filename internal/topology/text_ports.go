package topology

import (
	"strings"
)

// measure finds the widths of the columns of guests, the same for all bridges,
// and what there is room for.
func (t *tree) measure(g Graph) {
	one, many := 0, 0
	for _, n := range g.Nodes {
		if n.Kind != KindPort || t.folded(n) {
			continue
		}
		t.tap = max(t.tap, cells(t.tapName(n)))
		if guest, there := t.guestOf(n); there {
			t.guest = max(t.guest, cells(clean(guest.Name))+2)
		}
		one = max(one, cells(first(n.Addresses)))
		many = max(many, cells(strings.Join(n.Addresses, " ")))
	}
	t.guest = min(t.guest, 34)
	t.address, t.mac, t.all = many, true, true
	if t.Width == 0 {
		return
	}
	// Two levels, a branch, and what is between tap and guest.
	indents := 2*cells(t.down) + 3 + 3
	if t.tight {
		indents = 2*cells(t.down) + 2 + 1
	}
	if t.marks {
		indents += 2
	}
	fits := func(mac int) bool { return indents+t.tap+t.guest+2+t.address+mac <= t.Width }
	if !fits(19) {
		t.address, t.all = one, false
	}
	if t.mac = fits(19); !t.mac && !fits(0) {
		t.guest = max(10, t.guest-(indents+t.tap+t.guest+2+t.address-t.Width))
	}
}

func (t *tree) tapName(n Node) string {
	name := n.Name
	if len(n.VLANs) > 0 {
		name += " vlan " + strings.Join(n.VLANs, ",")
	}
	return clean(name)
}

func (t *tree) guestOf(port Node) (Node, bool) {
	for _, e := range t.from[port.ID] {
		if e.Kind == EdgeGuest {
			return t.nodes[e.To], true
		}
	}
	return Node{}, false
}

// port is a line in columns: the tap, the guest, where it is reached, and what
// there is to say of it.
func (t *tree) port(n Node, by Edge, _ int) Line {
	guest, there := t.guestOf(n)
	tap := t.tapName(n)
	if !there {
		return append(Line{{tap, Plain}}, t.remarks(n, nil)...)
	}
	dash := t.dash
	if by.Dashed {
		dash = t.further
	}
	pad := strings.Repeat(dash, max(0, t.tap-cells(tap)))
	line := Line{{tap, Plain}, {" " + pad + dash + " ", Soft}}
	if t.tight {
		line[1].Text = strings.Repeat(" ", max(0, t.tap-cells(tap))+1)
	}
	sign, style := t.ok, Good
	switch n.Health {
	case Problem:
		sign, style = t.bad, Bad
	case Warning:
		sign, style = t.care, Warn
	case Down, Unknown, Stopped:
		sign, style = t.off, Soft
	}
	name := cut(clean(guest.Name), t.guest-2, t.dots)
	line = append(line, Span{sign + " ", style}, Span{padded(name, t.guest), Name})
	addrs := first(n.Addresses)
	if t.all {
		addrs = strings.Join(n.Addresses, " ")
	}
	// What is wrong matters more than where it would be reached.
	sick := n.Health == Problem && t.Width > 0
	if !sick || !t.tight {
		line = append(line, Span{padded(clean(addrs), t.address+2), Plain})
	}
	if t.mac && !sick {
		line = append(line, Span{padded(clean(n.MAC), 19), Soft})
	}
	var doors []string
	if !by.Dashed {
		doors = t.doors[guest.ID]
	}
	remarks := t.remarks(n, doors)
	var also []string
	for _, e := range t.to[guest.ID] {
		if e.Kind == EdgeGuest && e.From != n.ID {
			also = append(also, clean(t.nodes[e.From].Name))
		}
	}
	if len(also) > 0 {
		remarks = append(remarks, Span{"  also " + strings.Join(also, ", "), Soft})
	}
	if len(remarks) > 0 {
		remarks[0].Text = strings.TrimPrefix(remarks[0].Text, "  ") // the columns have it
	}
	return append(line, remarks...)
}

// padded makes a text so many cells wide.
func padded(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-cells(s)))
}

func (t *tree) remarks(n Node, doors []string) Line {
	var line Line
	add := func(style Style, text string) {
		if text == "" {
			return
		}
		line = append(line, Span{"  " + clean(text), style})
	}
	switch {
	case n.Health == Problem || n.Health == Warning:
		add(trouble[n.Health], "! "+n.Note)
	case n.Note != "":
		add(Soft, n.Note)
	}
	add(Door, strings.Join(doors, " "))
	if n.Isolated {
		add(Soft, "isolated")
	}
	return append(line, t.also(n)...)
}
