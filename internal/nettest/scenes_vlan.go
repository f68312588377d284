package nettest

import (
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/txn"
)

// ContractVLANs is Contract for kernels whose bridges tell VLANs apart.
func ContractVLANs(t *testing.T, newHost func(*testing.T) txn.Host, opinion Opinion) {
	for _, s := range vlanScenes() {
		t.Run(s.name, func(t *testing.T) { s.play(t, newHost(t), opinion) })
	}
}

func vlanScenes() []scene {
	filters := with(theBridge, func(l *host.Link) { l.Filter = true })
	in := func(text string) func(*host.Link) { return func(l *host.Link) { l.VLANs = text } }
	tap := aTap("ctap0")
	tap.Isolated = false
	access, other := with(tap, in("30 pvid untagged")), with(tap, in("40 pvid untagged"))
	trunk := with(tap, in("30, 40-49"))
	native := with(tap, in("1 pvid untagged, 30, 40-49"))
	nothing := with(tap, in(host.NoVLANs))
	self := with(filters, in("1 pvid untagged, 40"))
	isolated := with(access, func(l *host.Link) { l.Isolated, l.Hairpin = true, true })
	loose := with(tap, func(l *host.Link) { l.Master = "" })
	two := with(twoBridge, func(l *host.Link) { l.Filter = true })
	moved := with(access, func(l *host.Link) { l.Master = "cbr1" })
	return []scene{
		{name: "feature", present: []host.Resource{host.Feature{Name: host.BridgeVLANs}}},
		{name: "bridge that tells VLANs apart", calls: [][]plan.Step{makes(filters, tap)}, present: []host.Resource{filters, tap}},
		{name: "begins to", calls: [][]plan.Step{makes(theBridge, tap), changes(theBridge, filters)}, present: []host.Resource{filters, tap}},
		{name: "ceases to", calls: [][]plan.Step{makes(self, access), append(changes(self, theBridge), changes(access, tap)...)}, present: []host.Resource{theBridge, tap}},
		{name: "memberships before it begins", calls: [][]plan.Step{makes(theBridge, native), changes(theBridge, filters)}, present: []host.Resource{filters, native}},
		{name: "the bridge itself", calls: [][]plan.Step{makes(filters), changes(filters, self)}, present: []host.Resource{self}},
		{name: "the bridge itself, at once", calls: [][]plan.Step{makes(self)}, present: []host.Resource{self}},
		{name: "access port", calls: [][]plan.Step{makes(filters, access)}, present: []host.Resource{filters, access}},
		{name: "another VLAN", calls: [][]plan.Step{makes(filters, access), changes(access, other)}, present: []host.Resource{other}},
		{name: "trunk", calls: [][]plan.Step{makes(filters, trunk)}, present: []host.Resource{trunk}},
		{name: "trunk with what has no tag", calls: [][]plan.Step{makes(filters, trunk), changes(trunk, native)}, present: []host.Resource{native}},
		{name: "out of all", calls: [][]plan.Step{makes(filters, native), changes(native, nothing)}, present: []host.Resource{nothing}},
		{name: "as every new port", calls: [][]plan.Step{makes(filters, nothing), changes(nothing, tap)}, present: []host.Resource{tap}},
		{name: "VLANs and flags", calls: [][]plan.Step{makes(filters, tap), changes(tap, isolated)}, present: []host.Resource{isolated}},
		{name: "unplug a port of a VLAN", calls: [][]plan.Step{makes(filters, access), changes(access, loose)}, present: []host.Resource{loose}},
		{name: "move a port of a VLAN", calls: [][]plan.Step{makes(filters, two, access), changes(access, moved)}, present: []host.Resource{moved}},
		{name: "the bridge goes", calls: [][]plan.Step{makes(filters, access), drops(filters)}, present: []host.Resource{loose}},
		{name: "every VLAN", calls: [][]plan.Step{makes(filters, with(tap, in("1 pvid untagged, 2-4094")))}, present: []host.Resource{with(tap, in("1 pvid untagged, 2-4094"))}},
		{name: "refuse VLANs without a bridge", refused: makes(with(loose, in("30"))), absent: keysOf(loose)},
		{name: "refuse to tell VLANs apart without being a bridge", refused: makes(with(loose, func(l *host.Link) { l.Filter = true })), absent: keysOf(loose)},
	}
}
