package plan

import (
	"slices"

	"drawbridge/internal/host"
)

// rank is the order in which kinds are made; they are taken away in the
// opposite order. Rules come before links, so that there is no moment in which
// a guest could be reached or reach out unfiltered. A parameter of the whole
// host (forwarding) comes after those of single links: a link that needs
// accept_ra=2 must have it before forwarding goes on.
var rank = map[host.Kind]int{
	host.KindTable: 0, host.KindSet: 1, host.KindChain: 2, host.KindElement: 3,
	host.KindLink: 4, host.KindAddress: 6, host.KindRoute: 7, host.KindSysctl: 8,
	host.KindGuest: 9, host.KindReservation: 10, host.KindPool: 11, host.KindRouter: 12,
	host.KindZone: 13, host.KindResolver: 14,
}

// rankLinkSysctl is the rank of a parameter that belongs to one link: after
// the link, before its addresses.
const rankLinkSysctl = 5

func rankOf(s Step) int {
	r := rank[s.Key().Kind]
	if sysctl, ok := firstOf(s.After, s.Before).(host.Sysctl); ok && sysctl.Link != "" {
		return rankLinkSysctl
	}
	return r
}

// order sorts steps: elements that go, then everything that comes or changes,
// from the ground up, then everything else that goes, from the top down. Within
// a rank, a thing comes after what it needs. Elements go first because a new
// interval may overlap an old one; neighbours of one kind are applied together,
// so rules change in one kernel transaction.
func order(steps []Step) []Step {
	var dropped, made, gone []Step
	for _, s := range steps {
		switch {
		case s.After != nil:
			made = append(made, s)
		case s.Key().Kind == host.KindElement, s.Key().Kind == host.KindTable && anew(steps, s.Key()), givesWay(s, steps):
			dropped = append(dropped, s)
		default:
			gone = append(gone, s)
		}
	}
	if !anyOf(made, host.KindElement) && !anyOf(dropped, host.KindAddress) && len(gone) > 0 {
		// Nothing to collide with: rules outlive the links that they guard.
		gone, dropped = append(gone, dropped...), nil
	}
	sortByRank(dropped)
	sortByRank(made)
	sortByRank(gone)
	slices.Reverse(gone)
	return slices.Concat(dropped, made, gone)
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
	slices.SortFunc(steps, func(a, b Step) int {
		if d := rankOf(a) - rankOf(b); d != 0 {
			return d
		}
		if d := depth[a.Key()] - depth[b.Key()]; d != 0 {
			return d
		}
		return a.Key().Compare(b.Key())
	})
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
