package topology

import (
	"slices"
)

// Compare draws a change: all that is there before or after it, with a mark on
// what comes, goes, or becomes another. What merely runs (counters, health) is
// shown as it is after, and is no change.
func Compare(before, after Graph) Graph {
	out := after
	out.Nodes, out.Edges = slices.Clone(after.Nodes), slices.Clone(after.Edges)
	was := make(map[string]Node, len(before.Nodes))
	for _, n := range before.Nodes {
		was[n.ID] = n
	}
	for i, n := range out.Nodes {
		old, there := was[n.ID]
		delete(was, n.ID)
		switch {
		case !there:
			out.Nodes[i].Mark = Added
		case differs(old, n):
			out.Nodes[i].Mark = Changed
		}
	}
	for _, n := range before.Nodes {
		if _, gone := was[n.ID]; gone {
			n.Mark, n.Health, n.Note = Removed, OK, ""
			out.Nodes = append(out.Nodes, n)
		}
	}
	out.Nodes = byKind(out.Nodes)
	had := make(map[string]Edge, len(before.Edges))
	for _, e := range before.Edges {
		had[e.ID] = e
	}
	for i, e := range out.Edges {
		old, there := had[e.ID]
		delete(had, e.ID)
		switch {
		case !there:
			out.Edges[i].Mark = Added
		case old.Kind != e.Kind || old.Translated != e.Translated:
			out.Edges[i].Mark = Changed
		}
	}
	for _, e := range before.Edges {
		if _, gone := had[e.ID]; gone {
			e.Mark, e.Health, e.Note = Removed, OK, ""
			out.Edges = append(out.Edges, e)
		}
	}
	return out
}

// differs says whether a change made another thing of a node. A network that is
// stopped is one whose bridge is gone.
func differs(old, n Node) bool {
	if old.Network != n.Network && n.Kind != KindPort { // a port's is that of what it is plugged into: the edge tells
		return true
	}
	return old.Type != n.Type || old.MAC != n.MAC || old.MTU != n.MTU || old.Mode != n.Mode ||
		old.Target != n.Target || old.Leads != n.Leads || old.Isolated != n.Isolated || old.Foreign != n.Foreign ||
		(old.Health == Stopped) != (n.Health == Stopped) || !slices.Equal(old.VLANs, n.VLANs) || !slices.Equal(old.Addresses, n.Addresses)
}
