package nettest

import (
	"net/netip"
	"slices"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// Two firewalls of others: one of nftables' own kind, one in the layout of
// iptables, where a rule has to be one that iptables can read.
var (
	others      = host.Table{Family: host.FamilyInet, Name: "others"}
	othersChain = host.Chain{Table: others, Name: "through", Type: "filter", Hook: "forward", Rules: "counter drop"}
	iptables    = host.Table{Family: host.FamilyIP, Name: "filter"}
	dockerUser  = host.Chain{Table: iptables, Name: "DOCKER-USER", Rules: "counter drop"}
	tables6     = host.Table{Family: host.FamilyIP6, Name: "filter"}
	forward6    = host.Chain{Table: tables6, Name: "FORWARD", Type: "filter", Hook: "forward", Rules: "counter drop"}
)

// acceptsIn is one rule of each way that is about addresses of a family, and
// some that are about none.
func acceptsIn(c host.Chain, subnet string, more ...host.Way) (all []host.Resource) {
	one := host.Accept{Table: c.Table, Chain: c.Name, Bridge: "cbr0"}
	for _, w := range more {
		one.Way = w
		all = append(all, one)
	}
	one.Subnet = netip.MustParsePrefix(subnet)
	for _, w := range []host.Way{host.WayOut, host.WayBack, host.WayDoors} {
		one.Way = w
		all = append(all, one)
	}
	return all
}

// acceptScenes are about rules of ours in chains of others. The bridge that they
// name need not be there; the chain has to be.
func acceptScenes() []scene {
	native := acceptsIn(othersChain, "192.168.122.0/24", host.WayWithin, host.WayDHCP, host.WayOffer, host.WayDNS, host.WayDNSStream, host.WayName)
	native6 := acceptsIn(othersChain, "fd00:122::/64", host.WaySolicit, host.WayLook, host.WayFound, host.WayAdvert, host.WayAsk, host.WayTell)
	old := acceptsIn(dockerUser, "192.168.122.0/23", host.WayWithin, host.WayDHCP, host.WayOffer, host.WayDNS, host.WayDNSStream, host.WayName)
	old6 := acceptsIn(forward6, "fd00:122::/64", host.WayWithin, host.WaySolicit, host.WayAdvert)
	ground := makes(others, othersChain, iptables, dockerUser, tables6, forward6)
	every := slices.Concat(native, native6, old, old6)
	after := func(calls ...[]plan.Step) [][]plan.Step { return append([][]plan.Step{ground}, calls...) }
	return []scene{
		{name: "rules in a chain of others", calls: after(makes(slices.Concat(native, native6)...)), present: slices.Concat(native, native6), absent: keysOf(old...)},
		{name: "rules in chains of iptables", calls: after(makes(slices.Concat(old, old6)...)), present: slices.Concat(old, old6), absent: keysOf(native...)},
		{name: "one rule beside the others", calls: after(makes(native[1:]...), makes(native[0])), present: native},
		{name: "take rules out of chains of others", calls: after(makes(every...), drops(append(native, old6...)...)),
			present: slices.Concat(native6, old, []host.Resource{others}), absent: keysOf(append(native, old6...)...)},
		{name: "take out what is not there", calls: after(makes(old...), drops(native...)), present: old, absent: keysOf(native...)},
		{name: "some come while others go", calls: after(makes(native...), append(drops(native...), makes(native6...)...)), present: native6, absent: keysOf(native...)},
		{name: "a table of others takes our rules in it", calls: after(makes(every...), drops(others)), present: old, absent: append(keysOf(native...), others.Key())},
		{name: "refuse a rule in a missing chain", calls: [][]plan.Step{makes(others)}, refused: makes(native[0]), present: []host.Resource{others}, absent: keysOf(native[0])},
		{name: "refuse a rule in a missing table", refused: makes(native[0]), absent: keysOf(native[0], others)},
	}
}
