package topology

import (
	"cmp"
	"slices"
	"strings"
)

// Severity says how bad a finding is.
type Severity string

// The severities, from worst to least: a fault makes what it is about a Problem, a
// warning a Warning; a note changes nothing.
const (
	Fault Severity = "fault"
	Alert Severity = "warning"
	Note  Severity = "note"
)

// Finding is a remark by whoever looked closer than this package does. It is about
// whatever its fields name: a guest, an interface of the host, a network; about the
// host as a whole if they are empty.
type Finding struct {
	// ID is "code:name", and stays the same from one look to the next; Code names
	// the sort of finding.
	ID, Code             string
	Severity             Severity
	Guest, Link, Network string
	// Text is one sentence.
	Text string
	// Fix is the command that mends it, or ""; Automatic says whether the program
	// can do it by itself.
	Fix       string
	Automatic bool
}

// findings gives nodes and cables what was found out about them, worst first.
func (b *builder) findings() {
	list := slices.Clone(b.in.Findings)
	slices.SortStableFunc(list, func(x, y Finding) int { return cmp.Compare(graveness(x.Severity), graveness(y.Severity)) })
	var into map[string][]int
	for _, f := range list {
		nodes := b.concerned(f)
		if len(nodes) == 0 {
			b.graph.Findings = append(b.graph.Findings, f)
			continue
		}
		if into == nil {
			into = make(map[string][]int, len(b.graph.Edges))
			for i, e := range b.graph.Edges {
				into[e.To] = append(into[e.To], i)
			}
		}
		for _, node := range nodes {
			n := &b.graph.Nodes[b.ids[node]]
			n.Findings = append(n.Findings, f)
			n.Health, n.Note = shaken(n.Health, n.Note, f)
			for _, i := range into[node] {
				if e := &b.graph.Edges[i]; f.cuts(*n, *e, b.graph.Nodes[b.ids[e.From]]) {
					had := e.Health
					if e.Health, e.Note = shaken(e.Health, e.Note, f); e.Health != had || e.Finding == "" && e.Note == f.words() {
						e.Finding = f.ID
					}
				}
			}
		}
	}
}

func graveness(s Severity) int { return slices.Index([]Severity{Fault, Alert, Note}, s) }

// concerned are the nodes that a finding is about: the narrowest that there are.
func (b *builder) concerned(f Finding) []string {
	var out []string
	add := func(kind NodeKind, name string) {
		if node := id(kind, name); name != "" && b.has(node) {
			out = append(out, node)
		}
	}
	add(KindPort, f.Link)
	add(KindGuest, f.Guest)
	if f.Link == "" && len(out) > 0 {
		for _, e := range b.graph.Edges {
			if e.Kind == EdgeGuest && e.To == out[0] {
				out = append(out, e.From) // a line of text is its port's
			}
		}
	}
	if len(out) > 0 {
		return out
	}
	add(KindNIC, f.Link)
	add(KindBridge, f.Link)
	if len(out) > 0 {
		return out
	}
	for _, n := range b.graph.Nodes {
		if n.Kind == KindBridge && n.Network == f.Network && f.Network != "" {
			return []string{n.ID}
		}
	}
	return nil
}

// cuts says whether a finding about a node shows on the cable that leads there: a
// guest's on what its port is plugged in by, a NIC's on the one to the LAN, a
// network's on its way out of the host.
func (f Finding) cuts(n Node, e Edge, from Node) bool {
	switch n.Kind {
	case KindPort, KindNIC:
		return true
	case KindBridge:
		return f.Link == "" && (e.Kind == EdgeRouted || e.Kind == EdgePlugged && from.Kind == KindNIC)
	}
	return false
}

// shaken is the health of something that a finding is about. What somebody stopped
// stays stopped.
func shaken(h Health, note string, f Finding) (Health, string) {
	switch {
	case f.Severity == Fault && h != Problem && h != Stopped:
		return Problem, f.words()
	case f.Severity == Alert && h != Problem && h != Warning && h != Stopped:
		return Warning, f.words()
	}
	return h, note
}

// words are the finding in one line.
func (f Finding) words() string { return strings.TrimPrefix(f.Code+": "+f.Text, ": ") }
