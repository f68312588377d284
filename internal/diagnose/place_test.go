package diagnose

import (
	"testing"

	"drawbridge/internal/ruleset"
	"drawbridge/internal/topology"
)

// Steps are drawn at the place that their words name, and a rule's at its chain,
// whatever the chain is called.
func TestPlaces(t *testing.T) {
	for where, want := range map[string]topology.Place{
		"port vnet0": topology.AtPort, "port": topology.AtPort, "bridge br0": topology.AtBridge, "link enp6s18": topology.AtLink, "route": topology.AtRoute,
		"gateway": topology.AtRoute, "NAT": topology.AtNAT, "neighbour 10.0.0.1": topology.AtEnd, "address": topology.AtEnd, "answer": topology.AtEnd, "program": topology.AtEnd, "forward": topology.AtChain,
	} {
		if got := (PathStep{Where: where}).Place(); got != want {
			t.Errorf("%s is drawn as %s, want %s", where, got, want)
		}
	}
	if got := (PathStep{Where: "ip port bridge", Chain: &ruleset.Chain{}}).Place(); got != topology.AtChain {
		t.Errorf("a chain is drawn as %s", got)
	}
	a := Answer{Kind: Dropped, Steps: []PathStep{{Where: "ip filter FORWARD", Owner: ruleset.UFW, Kind: Dropped}, {Where: "x", Owner: ruleset.Drawbridge, Kind: Unknown, Back: true}}}
	p := a.Picture("a", "b")
	if p.Verdict != topology.Dropped || p.Hops[0].Owner != "ufw" || p.Hops[0].Verdict != topology.Dropped || p.Hops[1].Owner != "" || p.Hops[1].Verdict != topology.Undecided || !p.Hops[1].Back {
		t.Errorf("%+v", p)
	}
}
