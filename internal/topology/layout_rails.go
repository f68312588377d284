package topology

import "slices"

// place puts a rail at y and its slots below, and returns where the next rail
// may begin.
func (l *layout) place(b *band, y int) int {
	b.top = y
	if b.bridge == "" && len(b.slots) == 0 {
		return y
	}
	first := y
	if b.bridge != "" {
		rail := y + labelH
		l.node(b.bridge).Box = Box{l.railX(), rail, l.right() - l.railX(), railH}
		first = rail + railH + railDrop
	}
	count := len(b.slots) + boolean(b.more != "")
	if count == 0 {
		return first - railDrop + bandGap/2
	}
	pitch := rowH
	if b.bare {
		pitch = pillRow
	}
	for i, s := range b.slots {
		l.slot(s, l.left(i%l.Columns), first+i/l.Columns*pitch)
	}
	if b.more != "" {
		i := count - 1
		box := Box{l.left(i % l.Columns), first + i/l.Columns*pitch, columnW, pillH}
		if !b.bare {
			box.Y, box.H = box.Y+pillH-pillLap, boxH
		}
		l.node(b.more).Box = box
	}
	rows := (count + l.Columns - 1) / l.Columns
	return first + rows*pitch - rowGap + bandGap
}

// slot places a guest with its ports: the first on top, the others at the
// bottom.
func (l *layout) slot(s slot, x, y int) {
	n := l.node(s.node)
	if n.Kind == KindPort {
		n.Box = Box{x, y, columnW, pillH}
		return
	}
	n.Box = Box{x, y + pillH - pillLap, columnW, boxH}
	if s.port != "" {
		l.node(s.port).Box = Box{x + 10, y, pillW, pillH}
	}
	w := min(pillW, (columnW-20-4*len(s.others))/max(1, len(s.others)))
	for i, port := range s.others {
		if w < 8 { // too many to be drawn: the guest stands for them
			l.node(port).Folded = s.node
			continue
		}
		l.node(port).Box = Box{n.Box.Right() - 10 - (i+1)*w - i*4, n.Box.Bottom() - pillLap, w, pillH}
	}
}

// cables draws what hangs from a rail: the first row straight down, the others
// along the gap at the left of their column.
func (l *layout) cables(b band) {
	if b.bridge == "" {
		return
	}
	rail := l.node(b.bridge).Box
	for i, s := range b.slots {
		end := s.node
		if s.port != "" {
			end = s.port
		}
		box := l.node(end).Box
		e := l.edgeTo(b.bridge, end)
		if e == nil {
			continue
		}
		if i < l.Columns {
			x := box.X + pillW/2
			if l.node(end).Kind != KindPort || s.port == "" {
				x = box.X + 10 + pillW/2
			}
			e.Path = []Point{{x, rail.Bottom()}, {x, box.Y}}
			continue
		}
		x := l.left(i%l.Columns) - columnGap/2
		y := box.Middle().Y
		e.Path = []Point{{x, rail.Bottom()}, {x, y}, {box.X, y}}
	}
}

func (l *layout) edgeTo(from, to string) *Edge {
	for _, i := range l.in[to] {
		if e := &l.g.Edges[i]; e.From == from {
			return e
		}
	}
	return nil
}

// waysOut draws the lanes at the left, from what traffic leaves by to the rails.
func (l *layout) waysOut() {
	for i, from := range l.lanes {
		lane := margin*2 + i*laneGap
		source := l.node(from)
		for _, j := range l.out[from] {
			e := &l.g.Edges[j]
			to := l.node(e.To)
			if to.Kind != KindBridge || to.Box.W == 0 || source.Box.W == 0 {
				continue
			}
			y := to.Box.Middle().Y
			end := []Point{{lane, y}, {to.Box.X, y}}
			if source.Kind == KindBridge {
				x, turn := source.Box.X+4, source.Box.Bottom()+10
				e.Path = append([]Point{{x, source.Box.Bottom()}, {x, turn}, {lane, turn}}, end...)
				continue
			}
			// Out at the bottom, or at the left where something stands below.
			turn := l.turnAt + i*8
			x := source.Box.X + 24
			start := []Point{{x, source.Box.Bottom()}, {x, turn}}
			if l.next(from, EdgeStacked) != "" {
				x = source.Box.X - columnGap/2 + min(i, 2)*4
				start = []Point{{source.Box.X, source.Box.Middle().Y}, {x, source.Box.Middle().Y}, {x, turn}}
			}
			e.Path = slices.Concat(start, []Point{{lane, turn}}, end)
		}
	}
}

// sideLanes draws guests' further NICs, dashed, along the right.
func (l *layout) sideLanes() {
	for _, b := range l.bands {
		for _, s := range b.slots {
			for _, port := range s.others {
				box := l.node(port).Box
				bridge := l.bridgeOf(port)
				e := l.edgeTo(bridge, port)
				lane := slices.Index(l.side, bridge)
				if e == nil || lane < 0 || box.W == 0 {
					continue
				}
				rail := l.node(bridge).Box
				x := l.right() + margin + lane*laneGap
				turn := l.node(s.node).Box.Bottom() + pillH + 3 + lane%3*4
				e.Dashed = true
				e.Path = []Point{{rail.Right(), rail.Middle().Y}, {x, rail.Middle().Y}, {x, turn}, {box.Middle().X, turn}, {box.Middle().X, box.Bottom()}}
			}
		}
	}
}
