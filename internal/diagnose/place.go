package diagnose

import (
	"strings"

	"drawbridge/internal/topology"
)

// Place is the sort of place that a step is at, for those who draw it.
func (s PathStep) Place() topology.Place {
	if s.Chain != nil || s.Rule != nil {
		return topology.AtChain
	}
	word, _, _ := strings.Cut(s.Where, " ")
	switch word {
	case "port":
		return topology.AtPort
	case "bridge", "vlan":
		return topology.AtBridge
	case "link":
		return topology.AtLink
	case "route", "gateway":
		return topology.AtRoute
	case "NAT":
		return topology.AtNAT
	case "address", "neighbour", "answer", "program":
		return topology.AtEnd
	}
	return topology.AtChain // the name of a hook
}

// Picture is the answer as it is drawn; from and to are how the ends were asked for.
func (a Answer) Picture(from, to string) topology.Path {
	p := topology.Path{From: from, To: to, Sentence: a.Sentence, Mend: a.Mend, Verdict: topology.Verdict(a.Kind)}
	for _, s := range a.Steps {
		h := topology.Hop{Place: s.Place(), Back: s.Back, Where: s.Where, What: s.What, Verdict: topology.Verdict(s.Kind)}
		if s.Owner != "drawbridge" && s.Owner != "unknown" {
			h.Owner = string(s.Owner)
		}
		p.Hops = append(p.Hops, h)
	}
	return p
}
