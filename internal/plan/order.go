package plan

import (
	"slices"

	"drawbridge/internal/host"
)

// rank is the order in which kinds are made; they are taken away in the
// opposite order. Rules come before links, so that there is no moment in which
// a guest could be reached or reach out unfiltered. A parameter that gates the
// whole host (rank of sysctl without a link) comes after the rules that it
// depends on, and before any link that uses it.
var rank = map[host.Kind]int{
	host.KindTable: 0, host.KindSet: 1, host.KindChain: 2, host.KindElement: 3,
	host.KindSysctl: 4, host.KindLink: 5, host.KindAddress: 7, host.KindRoute: 8,
	host.KindGuest: 9, host.KindReservation: 10, host.KindPool: 11, host.KindRouter: 12,
	host.KindZone: 13, host.KindResolver: 14,
}

func rankOf(s Step) int {
	r := rank[s.Key().Kind]
	if sysctl, ok := firstOf(s.After, s.Before).(host.Sysctl); ok && sysctl.Link != "" {
		return 6
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
		case s.Key().Kind == host.KindElement:
			dropped = append(dropped, s)
		default:
			gone = append(gone, s)
		}
	}
	if !anyOf(made, host.KindElement) && len(gone) > 0 {
		// Nothing to collide with: rules outlive the links that they guard.
		gone, dropped = append(gone, dropped...), nil
	}
	sortByRank(dropped)
	sortByRank(made)
	sortByRank(gone)
	slices.Reverse(gone)
	return slices.Concat(dropped, made, gone)
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

// withDependents drops deletions that the kernel does by itself, and adds the
// making again of what is lost when something it hangs on is made anew.
func withDependents(steps []Step, goal, seen host.State) []Step {
	deleted := map[host.Key]bool{}
	for _, s := range steps {
		if s.After == nil {
			deleted[s.Key()] = true
		}
	}
	return slices.DeleteFunc(steps, func(s Step) bool {
		return s.After == nil && diesWith(s.Before, deleted)
	})
}

// diesWith says whether the kernel deletes r together with something in
// deleted: addresses, routes and parameters of a link go with it, and all that
// is in a table goes with the table.
func diesWith(r host.Resource, deleted map[host.Key]bool) bool {
	switch r := r.(type) {
	case host.Address:
		return deleted[host.LinkKey(r.Link)]
	case host.Sysctl:
		return r.Link != "" && deleted[host.LinkKey(r.Link)]
	case host.Route:
		return r.Link != "" && deleted[host.LinkKey(r.Link)]
	case host.Set:
		return deleted[r.Table.Key()]
	case host.Chain:
		return deleted[r.Table.Key()]
	case host.Element:
		return deleted[r.Table.Key()]
	}
	return false
}
