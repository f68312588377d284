package plan

import (
	"slices"

	"drawbridge/internal/host"
)

// rank is the order in which kinds are made; they are taken away in the
// opposite order. Rules come before links, so that there is no moment in which
// a guest could be reached or reach out unfiltered. A parameter of the whole
// host (forwarding) comes after those of single links: a link that needs
// accept_ra=2 must have it before forwarding goes on. The host's own network manager
// must know of a link before that appears.
var rank = map[host.Kind]int{
	host.KindUnmanaged: -1,
	host.KindTable:     0, host.KindSet: 1, host.KindChain: 2, host.KindElement: 3, host.KindAccept: 3, host.KindInZone: 3,
	host.KindLink: 5, host.KindAddress: 8, host.KindRule: 9, host.KindRoute: 11, host.KindSysctl: 13,
	host.KindSnoop: 14, host.KindGuest: 15, host.KindReservation: 16, host.KindPool: 17, host.KindRouter: 18,
	host.KindZone: 19, host.KindResolver: 20,
}

// Around the links: a port comes into VLANs before its bridge begins to tell them
// apart, and leaves VLANs after it has ceased to, so that no frame of the host's is
// lost.
const (
	rankJoinVLANs  = 4
	rankLeaveVLANs = 6
)

// Between these ranks lies the move of a NIC into a bridge or out of it. In
// between the NIC is a port while routes still lead over it, which loses
// nothing: what is sent leaves by the NIC, what arrives comes to the bridge, and
// both have the addresses. A bridge without its port would lose what is sent.
const (
	// rankLinkSysctl is the rank of a parameter that belongs to one link: after
	// the link, before its addresses.
	rankLinkSysctl = 7
	// rankPlug: a link that is there becomes a port once the bridge has its
	// addresses, and before routes lead over the bridge.
	rankPlug = 10
	// rankUnplug: it leaves the bridge once routes lead over it again.
	rankUnplug = 12
)

func rankOf(s Step) int {
	switch after := firstOf(s.After, s.Before).(type) {
	case host.Sysctl:
		if after.Link != "" {
			return rankLinkSysctl
		}
	case host.Link:
		before, there := s.Before.(host.Link)
		switch {
		case there && s.After != nil && after.Type != host.TypeBridge && onlyVLANs(before, after):
			if gainsOnly(before, after) {
				return rankJoinVLANs
			}
			return rankLeaveVLANs
		case !there || s.After == nil || before.Master == after.Master:
		case after.Master == "":
			return rankUnplug
		default:
			return rankPlug
		}
	}
	return rank[s.Key().Kind]
}

// order sorts steps: elements that go, then everything that comes or changes,
// from the ground up, then everything else that goes, from the top down. Within
// a rank, a thing comes after what it needs. Elements go first because a new
// interval may overlap an old one; neighbours of one kind are applied together,
// so rules change in one kernel transaction. Guest services that go do so before
// anything comes, and those that come do so after all else: in between they would
// part a route from the one that it takes the place of.
//
// The host's own network manager learns first of all whether to keep its hands
// off, and last of all, when everything is in its place, what the host's network
// is now: what it finds otherwise, it mends.
func order(steps []Step) []Step {
	var first, served, dropped, made, gone, serving, last []Step
	service := func(s Step) bool { return rank[s.Key().Kind] >= rank[host.KindSnoop] }
	for _, s := range steps {
		profile, told := firstOf(s.After, s.Before).(host.Profile)
		switch {
		case told && profile.Stage == host.Reserved:
			first = append(first, s)
		case told:
			last = append(last, s)
		case s.After != nil && service(s):
			serving = append(serving, s)
		case s.After != nil:
			made = append(made, s)
		case s.Key().Kind == host.KindElement, s.Key().Kind == host.KindTable && anew(steps, s.Key()), givesWay(s, steps):
			dropped = append(dropped, s)
		case service(s):
			served = append(served, s)
		default:
			gone = append(gone, s)
		}
	}
	if !anyOf(made, host.KindElement) && !anyOf(dropped, host.KindAddress) && len(gone) > 0 {
		// Nothing to collide with: rules outlive the links that they guard.
		gone, dropped = append(gone, dropped...), nil
	}
	if len(made) == 0 {
		gone, served = append(gone, served...), nil
	}
	sortByRank(serving)
	sortByRank(served)
	slices.Reverse(served)
	sortByRank(dropped)
	sortByRank(made)
	sortByRank(gone)
	slices.Reverse(gone)
	sortByRank(first)
	sortByRank(last)
	slices.Reverse(last) // the running system before its files
	return slices.Concat(first, served, dropped, made, gone, serving, last)
}

// givesWay says whether a step deletes an IPv4 address whose subnet gets another
// address on the same link. It has to go first: made beside it, the new one
// would be its secondary, which the kernel deletes together with its primary
// (net/ipv4/devinet.c, __inet_del_ifa).
func givesWay(s Step, steps []Step) bool {
	old, ok := s.Before.(host.Address)
	if !ok || s.After != nil || !old.Addr.Addr().Is4() {
		return false
	}
	return slices.ContainsFunc(steps, func(o Step) bool {
		fresh, ok := o.After.(host.Address)
		return ok && o.Before == nil && fresh.Link == old.Link && fresh.Addr.Masked() == old.Addr.Masked()
	})
}

// anew says whether the thing that a step deletes is made by another.
func anew(steps []Step, k host.Key) bool {
	return slices.ContainsFunc(steps, func(s Step) bool { return s.After != nil && s.Key() == k })
}

func anyOf(steps []Step, k host.Kind) bool {
	return slices.ContainsFunc(steps, func(s Step) bool { return s.Key().Kind == k })
}

// sortByRank orders by rank, then need, then key, deterministically.
func sortByRank(steps []Step) {
	depth := depths(steps)
	// Keys are made once: thirty thousand steps are compared half a million times.
	type place struct {
		Step
		key         host.Key
		rank, depth int
	}
	places := make([]place, len(steps))
	for i, s := range steps {
		key := s.Key()
		places[i] = place{s, key, rankOf(s), depth[key]}
	}
	slices.SortFunc(places, func(a, b place) int {
		if d := a.rank - b.rank; d != 0 {
			return d
		}
		if d := within(firstOf(a.After, a.Before), firstOf(b.After, b.Before)); d != 0 {
			return d
		}
		if d := a.depth - b.depth; d != 0 {
			return d
		}
		return a.key.Compare(b.key)
	})
	for i, p := range places {
		steps[i] = p.Step
	}
}

// within orders addresses as they were made, since the first of a subnet is its
// primary, and routes so that a gateway can be reached before it is used:
// subnets first, then what has a gateway, the narrowest first.
func within(a, b host.Resource) int {
	switch a := a.(type) {
	case host.Address:
		if b, ok := b.(host.Address); ok {
			return a.Place - b.Place
		}
	case host.Route:
		b, ok := b.(host.Route)
		if !ok {
			return 0
		}
		if far := hasGateway(a) - hasGateway(b); far != 0 {
			return far
		}
		return b.Dst.Bits() - a.Dst.Bits()
	}
	return 0
}

func hasGateway(r host.Route) int {
	if r.Gateway.IsValid() || r.Hops != "" {
		return 1
	}
	return 0
}

// depths says how long the longest chain of needs below each step is, counting
// only needs that are themselves among the steps.
func depths(steps []Step) map[host.Key]int {
	byKey := make(map[host.Key]Step, len(steps))
	for _, s := range steps {
		byKey[s.Key()] = s
	}
	depth := make(map[host.Key]int, len(steps))
	var visit func(k host.Key) int
	visit = func(k host.Key) int {
		if d, done := depth[k]; done {
			return d
		}
		depth[k] = 0 // a cycle of needs is cut here
		deepest := 0
		for _, need := range firstOf(byKey[k].After, byKey[k].Before).Needs() {
			if _, among := byKey[need]; among {
				deepest = max(deepest, visit(need)+1)
			}
		}
		depth[k] = deepest
		return deepest
	}
	for _, s := range steps {
		visit(s.Key())
	}
	return depth
}

// withDependents drops deletions that the kernel does by itself, and makes a
// table anew, with all that is in it, where one of its sets changes type: the
// kernel cannot do that in place.
func withDependents(steps []Step, goal, seen host.State) []Step {
	anew := map[host.Key]bool{}
	deleted := map[host.Key]bool{}
	for _, s := range steps {
		if s.After == nil {
			deleted[s.Key()] = true
		}
		if set, ok := s.After.(host.Set); ok && s.Before != nil {
			anew[set.Table.Key()] = true
		}
	}
	steps = slices.DeleteFunc(steps, func(s Step) bool {
		return s.After == nil && diesWith(s.Before, deleted) || anew[tableOf(firstOf(s.After, s.Before))]
	})
	for key := range anew {
		steps = append(steps, Step{Before: seen[key]})
		for _, r := range goal {
			if tableOf(r) == key || r.Key() == key {
				steps = append(steps, Step{After: r})
			}
		}
	}
	return steps
}

// tableOf is the key of the table that r is in; the zero Key if it is in none.
func tableOf(r host.Resource) host.Key {
	switch r := r.(type) {
	case host.Set:
		return r.Table.Key()
	case host.Chain:
		return r.Table.Key()
	case host.Element:
		return r.Table.Key()
	}
	return host.Key{}
}

// diesWith says whether the kernel deletes r together with something in
// deleted: addresses, routes and parameters of a link go with it, and all that
// is in a table goes with the table.
func diesWith(r host.Resource, deleted map[host.Key]bool) bool {
	if table := tableOf(r); table != (host.Key{}) {
		return deleted[table]
	}
	switch r := r.(type) {
	case host.Address:
		return deleted[host.LinkKey(r.Link)]
	case host.Sysctl:
		return r.Link != "" && deleted[host.LinkKey(r.Link)]
	case host.Route:
		return r.Link != "" && deleted[host.LinkKey(r.Link)]
	}
	return false
}

// Early counts the first steps that touch nothing which was there: they make what
// stands beside it, rules of our own, links that nobody uses yet, and have the
// host's own network manager keep its hands off those. Whatever becomes of the
// change, nobody misses anything after them.
func Early(steps []Step) int {
	for i, s := range steps {
		if s.Before != nil || !standsAlone(s.After) {
			return i
		}
	}
	return len(steps)
}

func standsAlone(made host.Resource) bool {
	switch r := made.(type) {
	case host.Unmanaged, host.Table, host.Set, host.Chain, host.Element:
		return true
	case host.Profile:
		return r.Stage == host.Reserved
	case host.Link:
		return r.Master == ""
	}
	return false
}
