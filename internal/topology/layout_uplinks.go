package topology

import "slices"

// uplinks places LANs, NICs and doors, and returns where the rails may begin.
func (l *layout) uplinks() int {
	u := &uplinks{layout: l, column: map[string]int{}, width: map[string]int{}, level: map[string]int{}}
	for _, n := range l.g.Nodes {
		if n.Kind == KindNIC {
			u.put(u.head(n.ID))
		}
	}
	l.upColumns = u.columns
	l.columns = max(l.columns, u.columns, min(3, l.Columns))
	top := margin
	if u.anyLAN() {
		top = margin + lanH + 32
	}
	l.wall = top + boxH/2
	u.boxes(top)
	u.lans()
	doorsBottom := l.doors()
	l.turnAt = u.bottom + 12
	return max(u.bottom, doorsBottom) + 18 + max(fewestLanes, len(l.lanes))*8
}

// uplinks is the part of the layout above the rails: each NIC has a column for
// each LAN that it leads to, itself or by what stands on it.
type uplinks struct {
	*layout
	column, width, level map[string]int
	columns, bottom      int
}

// head is what has to be placed for a NIC to get its place: a bond before its
// members, at the second level, and whatever else before what stands on it.
func (u *uplinks) head(id string) (string, int) {
	for range 8 { // stacks are two or three high, and may not be circles
		next, below := u.next(id, EdgeStacked), u.via(id, EdgeStacked)
		switch {
		case u.node(id).Type == typeBond && below != "":
			return id, 1
		case below != "":
			id = below
		case next != "" && u.node(next).Type == typeBond:
			return next, 1
		default:
			return id, 0
		}
	}
	return id, 0
}

// put gives a NIC and what stands on it their columns.
func (u *uplinks) put(id string, level int) {
	if _, placed := u.column[id]; placed {
		return
	}
	first := u.columns
	u.column[id], u.level[id] = first, level
	var above []string
	leads := false
	for _, i := range u.out[id] {
		if e := u.g.Edges[i]; e.Kind == EdgeStacked {
			above = append(above, e.To)
		} else if e.Kind == EdgePlugged {
			leads = true
		}
	}
	if leads || len(above) == 0 || u.via(id, EdgeAttached) != "" {
		u.columns++
	}
	for _, next := range above {
		u.put(next, level+1)
	}
	var members []string
	for _, i := range u.in[id] {
		if e := u.g.Edges[i]; e.Kind == EdgeStacked && u.node(id).Type == typeBond {
			members = append(members, e.From)
		}
	}
	u.columns = max(u.columns, first+len(members), first+1)
	u.width[id] = u.columns - first
	for i, m := range members {
		if _, placed := u.column[m]; placed {
			continue
		}
		from, to := first+i*u.width[id]/len(members), first+(i+1)*u.width[id]/len(members)
		u.column[m], u.width[m], u.level[m] = from, to-from, level-1
	}
}

func (u *uplinks) anyLAN() bool {
	return slices.ContainsFunc(u.g.Nodes, func(n Node) bool { return n.Kind == KindLAN })
}

func (u *uplinks) boxes(top int) {
	u.bottom = top + boxH/2
	for i := range u.g.Nodes {
		n := &u.g.Nodes[i]
		if n.Kind != KindNIC {
			continue
		}
		n.Box = Box{u.left(u.column[n.ID]), top + u.level[n.ID]*(boxH+24), u.width[n.ID]*pitchX - columnGap, boxH}
		u.bottom = max(u.bottom, n.Box.Bottom())
	}
	u.upBottom = u.bottom
	for i := range u.g.Edges {
		e := &u.g.Edges[i]
		if e.Kind != EdgeStacked {
			continue
		}
		from, to := u.node(e.From).Box, u.node(e.To).Box
		x := min(from.Right(), to.Right())/2 + max(from.X, to.X)/2
		e.Path = []Point{{x, from.Bottom()}, {x, to.Y}}
	}
}

// lans puts each LAN above the first NIC that it is for, and leads it to the
// cables: to the NICs on the wall. What stands on those is below its LAN.
func (u *uplinks) lans() {
	taken := map[int]bool{}
	for i := range u.g.Nodes {
		n := &u.g.Nodes[i]
		if n.Kind != KindLAN {
			continue
		}
		at := -1
		for _, j := range u.out[n.ID] {
			to := u.g.Edges[j].To
			if at < 0 || u.level[to] > 0 {
				at = u.column[to]
			}
		}
		for at = max(at, 0); taken[at]; {
			at++
		}
		taken[at] = true
		u.columns = max(u.columns, at+1)
		n.Box = Box{u.left(at), margin, columnW, lanH}
		for _, j := range u.out[n.ID] {
			if e := &u.g.Edges[j]; u.level[e.To] == 0 {
				e.Path = u.cable(n.Box, u.node(e.To).Box)
			}
		}
	}
	u.layout.columns = max(u.layout.columns, u.columns)
}

// cable leads from a LAN to a NIC: straight down if the NIC is below.
func (u *uplinks) cable(lan, nic Box) []Point {
	x := lan.Middle().X
	if x > nic.X && x < nic.Right() {
		return []Point{{x, lan.Bottom()}, {x, nic.Y}}
	}
	to := nic.X + columnW/2
	return []Point{{x, lan.Bottom()}, {x, lan.Bottom() + 16}, {to, lan.Bottom() + 16}, {to, nic.Y}}
}

// doors puts the forwards on the wall beside the NICs, in rows, and returns where
// they end.
func (l *layout) doors() int {
	var doors []string
	for _, n := range l.g.Nodes {
		if n.Kind == KindForward {
			doors = append(doors, n.ID)
		}
	}
	if len(doors) == 0 {
		return 0
	}
	most := 12
	if l.Fold < 0 {
		most = len(doors)
	}
	if len(doors) > most+1 {
		more := Node{ID: id(KindMore, string(KindForward)), Kind: KindMore, Name: string(KindForward), Health: OK}
		for _, d := range doors[most:] {
			l.node(d).Folded = more.ID
			more.Members++
			more.Problems += boolean(l.node(d).Health == Problem)
		}
		doors = append(doors[:most:most], l.addMore(more))
	}
	first, top := l.upColumns, l.wall-doorH/2
	if l.Columns <= l.upColumns { // no room beside the NICs: below them
		first, top = 0, l.upBottom+20+len(l.lanes)*8
	}
	across := min(max(1, min(4, l.Columns-first)), len(doors))
	l.columns = max(l.columns, first+across)
	bottom := 0
	for i, d := range doors {
		n := l.node(d)
		n.Box = Box{l.left(first + i%across), top + i/across*(doorH+6), columnW, doorH}
		bottom = n.Box.Bottom()
	}
	return bottom
}
