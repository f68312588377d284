package dns

import (
	"net/netip"
	"slices"
)

// edit changes one station and brings all that is looked up in line with it.
func (n *Names) edit(bridge, mac string, change func(*station)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.editLocked(bridge, mac, change)
}

func (n *Names) editLocked(bridge, mac string, change func(*station)) {
	key := stationKey{bridge, mac}
	s := n.stations[key]
	if s == nil {
		s = &station{key: key}
		n.stations[key] = s
	}
	b := n.bridges[bridge]
	if b == nil {
		b = &bridgeNames{hosts: map[string]*hostAddrs{}, owners: map[netip.Addr][]owner{}}
		n.bridges[bridge] = b
	}
	had := s.owned()
	change(s)
	b.move(s, had, s.owned())
	touched := n.reclaim(s)
	for _, label := range touched {
		n.settle(label)
	}
	if s.port == "" && s.reserved == nil && len(s.leases) == 0 && len(s.neighbours) == 0 {
		delete(n.stations, key)
	}
	if len(b.hosts) == 0 && len(b.owners) == 0 {
		delete(n.bridges, bridge)
	}
	n.changes.Add(1)
}

// ownership is an address and the source that says so; ranks stands for the
// neighbours, which anybody on the bridge can make up.
type ownership struct {
	addr netip.Addr
	rank int
}

func (s *station) owned() []ownership {
	var out []ownership
	add := func(a netip.Addr, rank int) {
		if a.IsValid() && !slices.ContainsFunc(out, func(o ownership) bool { return o.addr == a }) {
			out = append(out, ownership{a, rank})
		}
	}
	if s.reserved != nil {
		add(s.reserved.Addr, rankReservation)
	}
	for _, l := range s.leases {
		add(l.addr, rankLease)
	}
	for _, a := range s.neighbours {
		add(a, ranks)
	}
	return out
}

// move corrects who owns which address.
func (b *bridgeNames) move(s *station, had, has []ownership) {
	for _, o := range had {
		if slices.Contains(has, o) {
			continue
		}
		list := slices.DeleteFunc(slices.Clone(b.owners[o.addr]), func(w owner) bool { return w.st == s })
		if len(list) == 0 {
			delete(b.owners, o.addr)
		} else {
			b.owners[o.addr] = list
		}
	}
	for _, o := range has {
		if slices.Contains(had, o) {
			continue
		}
		list := append(slices.Clone(b.owners[o.addr]), owner{o.rank, s})
		slices.SortStableFunc(list, func(x, y owner) int { return x.rank - y.rank })
		b.owners[o.addr] = list
	}
}

// reclaim enters what the station wants to be called now and returns every
// label that may have changed hands or addresses.
func (n *Names) reclaim(s *station) []string {
	var want []claim
	add := func(rank int, name string) {
		label, ok := Label(name)
		same := func(c claim) bool { return c.label == label }
		if ok && !n.taken[label] && !slices.ContainsFunc(want, same) {
			want = append(want, claim{rank, label})
		}
	}
	add(rankPort, s.port)
	if s.reserved != nil {
		add(rankReservation, s.reserved.Hostname)
	}
	if len(want) == 0 {
		for _, l := range s.leases {
			add(rankLease, l.hostname)
		}
	}
	var touched []string
	for _, c := range s.said {
		touched = append(touched, c.label)
		if !slices.Contains(want, c) {
			list := &n.claims[c.label][c.rank]
			*list = slices.DeleteFunc(*list, func(o *station) bool { return o == s })
		}
	}
	for _, c := range want {
		if !slices.Contains(touched, c.label) {
			touched = append(touched, c.label)
		}
		if slices.Contains(s.said, c) {
			continue
		}
		if n.claims[c.label] == nil {
			n.claims[c.label] = &claims{}
		}
		n.claims[c.label][c.rank] = append(n.claims[c.label][c.rank], s)
	}
	s.said = want
	return touched
}

// settle works out anew what a label resolves to on each bridge.
func (n *Names) settle(label string) {
	c := n.claims[label]
	byBridge := map[string]*hostAddrs{}
	for _, s := range c.holders() {
		h := byBridge[s.key.bridge]
		if h == nil {
			h = &hostAddrs{}
			byBridge[s.key.bridge] = h
		}
		for _, o := range s.owned() {
			list := &h.v6
			if o.addr.Is4() {
				list = &h.v4
			}
			if !slices.Contains(*list, o.addr) {
				*list = append(*list, o.addr)
			}
		}
	}
	for name, b := range n.bridges {
		if h := byBridge[name]; h != nil {
			b.hosts[label] = h
		} else {
			delete(b.hosts, label)
		}
	}
	if len(c.holders()) == 0 {
		delete(n.claims, label)
	}
}

// name is the best name that the station holds, or "".
func (n *Names) name(s *station) string {
	for _, c := range s.said {
		if holders := n.claims[c.label].holders(); n.claims[c.label].best() == c.rank &&
			(c.rank != rankLease || holders[0] == s) {
			return c.label
		}
	}
	return ""
}
