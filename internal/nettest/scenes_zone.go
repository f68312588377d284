package nettest

import (
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/txn"
)

// ContractZones is Contract for who puts bridges into a zone of firewalld.
func ContractZones(t *testing.T, newHost func(*testing.T) txn.Host, opinion Opinion) {
	for _, s := range zoneScenes() {
		t.Run(s.name, func(t *testing.T) { s.play(t, newHost(t), opinion) })
	}
}

// zoneScenes are about bridges that need not be there: firewalld knows links by their
// names.
func zoneScenes() []scene {
	one, two := host.InZone{Bridge: "cbr0", Zone: host.OurZone}, host.InZone{Bridge: "cbr1", Zone: host.OurZone}
	half := host.InZone{Bridge: "cbr0"}
	return []scene{
		{name: "a bridge in a zone", calls: [][]plan.Step{makes(one)}, present: []host.Resource{one}, absent: keysOf(two)},
		{name: "two at once", calls: [][]plan.Step{makes(one, two)}, present: []host.Resource{one, two}},
		{name: "one after the other", calls: [][]plan.Step{makes(two), makes(one)}, present: []host.Resource{one, two}},
		{name: "one goes", calls: [][]plan.Step{makes(one, two), drops(one)}, present: []host.Resource{two}, absent: keysOf(one)},
		{name: "both go", calls: [][]plan.Step{makes(one, two), drops(one, two)}, absent: keysOf(one, two)},
		{name: "one comes while the other goes", calls: [][]plan.Step{makes(one), append(drops(one), makes(two)...)}, present: []host.Resource{two}, absent: keysOf(one)},
		{name: "what was only half so", calls: [][]plan.Step{makes(one), changes(half, one)}, present: []host.Resource{one}},
		{name: "take out what is not there", calls: [][]plan.Step{drops(one)}, absent: keysOf(one)},
	}
}
