package nettest

import (
	"fmt"
	"net/netip"
	"slices"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// What the scenes are played with.
var (
	theBridge = host.Link{Name: "cbr0", Type: host.TypeBridge, MAC: "52:54:00:01:02:03", MTU: 1500, Up: true, Alias: "network default"}
	twoBridge = host.Link{Name: "cbr1", Type: host.TypeBridge, MAC: "52:54:00:01:02:04", MTU: 1500, Up: true}

	address4  = host.Address{Link: "cbr0", Addr: netip.MustParsePrefix("192.168.122.1/24")}
	another4  = host.Address{Link: "cbr0", Addr: netip.MustParsePrefix("192.168.122.2/24")}
	elsewhere = host.Address{Link: "cbr0", Addr: netip.MustParsePrefix("10.1.2.3/16")}
	address6  = host.Address{Link: "cbr0", Addr: netip.MustParsePrefix("fd00:122::1/64"), NoDAD: true}

	way4 = host.Route{Dst: netip.MustParsePrefix("203.0.113.0/24"), Gateway: netip.MustParseAddr("192.168.122.9"), Link: "cbr0", Table: host.MainTable, Metric: 50, Protocol: 4, Type: 1}
	way6 = host.Route{Dst: netip.MustParsePrefix("2001:db8::/32"), Gateway: netip.MustParseAddr("fd00:122::9"), Link: "cbr0", Table: 100, Metric: 1024, Protocol: 4, Type: 1}
	hole = host.Route{Dst: netip.MustParsePrefix("198.51.100.0/24"), Table: host.MainTable, Protocol: 4, Type: 6}

	table   = host.Table{Family: host.FamilyInet, Name: "drawbridge"}
	set     = host.Set{Table: table, Name: "bridges", Type: "ifname"}
	nets    = host.Set{Table: table, Name: "sources4", Type: "ifname . ipv4_addr", Interval: true}
	choose  = host.Set{Table: table, Name: "to_guests", Type: "ifname", Value: "verdict"}
	element = host.Element{Table: table, Set: "bridges", Value: "cbr0"}
	net122  = host.Element{Table: table, Set: "sources4", Value: "cbr0 . 192.168.122.0/24"}
	choice  = host.Element{Table: table, Set: "to_guests", Value: "cbr0", Data: "jump to_nat"}
	toNAT   = host.Chain{Table: table, Name: "to_nat", Rules: "ct state { established, related } accept comment \"answers\"\ncounter reject with icmpx admin-prohibited"}
	forward = host.Chain{Table: table, Name: "forward", Type: "filter", Hook: "forward", Rules: "oifname vmap @to_guests"}
	input   = host.Chain{Table: table, Name: "input", Type: "filter", Hook: "input", Rules: "iifname @bridges accept"}
)

func aTap(name string) host.Link {
	return host.Link{Name: name, Type: host.TypeTap, MAC: "fe:54:00:01:02:03", MTU: 1500, Up: true, Master: "cbr0", Isolated: true}
}

// with is a link after an edit.
func with(l host.Link, edit func(*host.Link)) host.Link {
	edit(&l)
	return l
}

// from is a route with the address as its source.
func from(r host.Route, a host.Address) host.Route {
	r.Src = a.Addr.Addr()
	return r
}

func scenes() []scene {
	return slices.Concat(linkScenes(), cascadeScenes(), addressScenes(), routeScenes(), moveScenes(), parameterScenes(), ruleScenes(), acceptScenes())
}

func linkScenes() []scene {
	tap := aTap("ctap0")
	stp := with(theBridge, func(l *host.Link) { l.STP, l.ForwardDelay = true, 400 })
	odd := with(tap, func(l *host.Link) {
		l.MAC, l.MTU, l.Alias, l.Isolated, l.Hairpin = "fe:54:00:ff:ff:ff", 1400, "guest x", false, true
	})
	out := with(tap, func(l *host.Link) { l.Master, l.Isolated, l.Up = "", false, false })
	moved := with(tap, func(l *host.Link) { l.Master = "cbr1" })
	var many []host.Resource
	for i := range 5 {
		many = append(many, aTap(fmt.Sprintf("ctap%d", i)))
	}
	long := with(theBridge, func(l *host.Link) { l.Name = "sixteen-letters-" })
	return []scene{
		{name: "bridge", calls: [][]plan.Step{makes(theBridge)}, present: []host.Resource{theBridge}},
		{name: "bridge with jumbo frames", calls: [][]plan.Step{makes(with(theBridge, func(l *host.Link) { l.MTU = 9000 }), tap)},
			present: []host.Resource{with(theBridge, func(l *host.Link) { l.MTU = 9000 }), tap}},
		{name: "bridge that a small port does not shrink", calls: [][]plan.Step{makes(theBridge, odd)}, present: []host.Resource{theBridge, odd}},
		{name: "bridge with spanning tree", calls: [][]plan.Step{makes(stp)}, present: []host.Resource{stp}},
		{name: "spanning tree on", calls: [][]plan.Step{makes(theBridge), changes(theBridge, stp)}, present: []host.Resource{stp}},
		{name: "spanning tree off", calls: [][]plan.Step{makes(stp), changes(stp, theBridge)}, present: []host.Resource{theBridge}},
		{name: "tap on a bridge", calls: [][]plan.Step{makes(theBridge, tap)}, present: []host.Resource{theBridge, tap}},
		{name: "every attribute of a port", calls: [][]plan.Step{makes(theBridge, tap), changes(tap, odd)}, present: []host.Resource{odd}},
		{name: "and back", calls: [][]plan.Step{makes(theBridge, odd), changes(odd, tap)}, present: []host.Resource{tap}},
		{name: "unplug", calls: [][]plan.Step{makes(theBridge, tap), changes(tap, out)}, present: []host.Resource{out}},
		{name: "plug in", calls: [][]plan.Step{makes(theBridge, out), changes(out, tap)}, present: []host.Resource{tap}},
		{name: "move to another bridge", calls: [][]plan.Step{makes(theBridge, twoBridge, tap), changes(tap, moved)}, present: []host.Resource{moved}},
		{name: "delete one", calls: [][]plan.Step{makes(theBridge, tap), drops(tap)}, present: []host.Resource{theBridge}, absent: keysOf(tap)},
		{name: "delete many", calls: [][]plan.Step{makes(append([]host.Resource{theBridge}, many...)...), drops(many[:4]...)},
			present: []host.Resource{theBridge, many[4]}, absent: keysOf(many[:4]...)},
		{name: "delete ports and bridge", calls: [][]plan.Step{makes(append([]host.Resource{theBridge}, many...)...), append(drops(many...), drops(theBridge)...)},
			absent: keysOf(append(many, theBridge)...)},
		{name: "delete what is not there", calls: [][]plan.Step{drops(tap, theBridge, address4)}, absent: keysOf(tap, theBridge)},
		{name: "refuse a missing bridge", refused: makes(tap)},
		{name: "refuse a long name", refused: makes(long), absent: keysOf(long)},
		{name: "refuse another type", calls: [][]plan.Step{makes(theBridge)}, refused: makes(with(out, func(l *host.Link) { l.Name = "cbr0" })), present: []host.Resource{theBridge}},
		{name: "refuse a network card", refused: makes(host.Link{Name: "ceth0", MTU: 1500}), absent: []host.Key{host.LinkKey("ceth0")}},
		{name: "refuse a bridge in a bridge", calls: [][]plan.Step{makes(theBridge)}, refused: makes(with(twoBridge, func(l *host.Link) { l.Master = "cbr0" }))},
		{name: "refuse port flags without a bridge", refused: makes(with(tap, func(l *host.Link) { l.Master = "" }))},
	}
}

func cascadeScenes() []scene {
	tap := aTap("ctap0")
	loose := with(tap, func(l *host.Link) { l.Master, l.Isolated = "", false })
	down := with(theBridge, func(l *host.Link) { l.Up = false })
	sysctl := host.LinkSysctl("ipv6", "cbr0", "accept_ra", "0")
	whole := makes(theBridge, tap, sysctl, address4, another4, address6, way4)
	return []scene{
		{name: "a bridge takes all that is on it", calls: [][]plan.Step{whole, drops(theBridge)}, present: []host.Resource{loose},
			absent: keysOf(theBridge, sysctl, address4, another4, address6, way4, subnetRoute(address4), localRoute(address4))},
		{name: "link down", calls: [][]plan.Step{whole, changes(theBridge, down)}, present: []host.Resource{down, tap, sysctl, address4, another4, localRoute(address4)},
			absent: keysOf(address6, way4, subnetRoute(address4), subnetRoute(address6))},
		{name: "link up again", calls: [][]plan.Step{whole, changes(theBridge, down, theBridge)}, present: []host.Resource{theBridge, address4, subnetRoute(address4), localRoute(address4)},
			absent: keysOf(address6, way4)},
		{name: "a primary address takes its secondaries", calls: [][]plan.Step{makes(theBridge, address4, another4, elsewhere), drops(address4)},
			present: []host.Resource{elsewhere, subnetRoute(elsewhere)}, absent: keysOf(address4, another4, subnetRoute(address4))},
		{name: "a secondary address goes alone", calls: [][]plan.Step{makes(theBridge, address4, another4), drops(another4)},
			present: []host.Resource{address4, subnetRoute(address4)}, absent: keysOf(another4, localRoute(another4))},
		{name: "the last address takes the routes", calls: [][]plan.Step{makes(theBridge, address4, way4), drops(address4)}, present: []host.Resource{theBridge}, absent: keysOf(address4, way4)},
	}
}

func addressScenes() []scene {
	loud := address6
	loud.NoDAD = false
	longer := address6
	longer.Addr = netip.MustParsePrefix("fd00:122::1/80")
	lease := host.Address{Link: "cbr0", Addr: netip.MustParsePrefix("192.0.2.7/24"), Dynamic: true}
	point := host.Address{Link: "cbr0", Addr: netip.MustParsePrefix("192.0.2.8/32")}
	odd := host.Address{Link: "cbr0", Addr: netip.MustParsePrefix("192.168.123.1/24")}
	wide := host.Address{Link: "cbr0", Addr: netip.MustParsePrefix("172.31.255.1/15")}
	return []scene{
		{name: "IPv4 address", calls: [][]plan.Step{makes(theBridge, address4)}, present: []host.Resource{address4, subnetRoute(address4), localRoute(address4)}},
		{name: "two addresses", calls: [][]plan.Step{makes(theBridge, address4, another4)}, present: []host.Resource{address4, another4, from(localRoute(another4), address4)}},
		{name: "addresses of odd subnets", calls: [][]plan.Step{makes(theBridge, odd, wide)}, present: []host.Resource{odd, wide, subnetRoute(odd), subnetRoute(wide)}},
		{name: "single address", calls: [][]plan.Step{makes(theBridge, point)}, present: []host.Resource{point, localRoute(point)}},
		{name: "IPv6 address", calls: [][]plan.Step{makes(theBridge, address6)}, present: []host.Resource{address6, subnetRoute(address6)}},
		{name: "IPv6 address that is probed", calls: [][]plan.Step{makes(theBridge, loud)}, present: []host.Resource{loud}},
		{name: "no longer probed", calls: [][]plan.Step{makes(theBridge, loud), changes(loud, address6)}, present: []host.Resource{address6}},
		{name: "another length in place of one that goes", calls: [][]plan.Step{makes(theBridge, address6), append(makes(longer), drops(address6)...)},
			present: []host.Resource{longer, subnetRoute(longer)}, absent: keysOf(address6, subnetRoute(address6))},
		{name: "refuse another length beside one that stays", calls: [][]plan.Step{makes(theBridge, address6)}, refused: makes(longer), present: []host.Resource{address6}, absent: keysOf(longer)},
		{name: "refuse a lifetime", calls: [][]plan.Step{makes(theBridge)}, refused: makes(lease), absent: keysOf(lease)},
		{name: "refuse a missing link", refused: makes(address4), absent: keysOf(address4)},
	}
}

func routeScenes() []scene {
	static, booted := way4, way4
	booted.Protocol = 3
	around := way4
	around.Gateway = netip.MustParseAddr("192.168.122.10")
	lost := way4
	lost.Gateway = netip.MustParseAddr("172.31.9.9")
	def := host.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.168.122.9"), Link: "cbr0", Table: host.MainTable, Protocol: 4, Type: 1}
	def6 := host.Route{Dst: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fd00:122::9"), Link: "cbr0", Table: host.MainTable, Metric: 1024, Protocol: 4, Type: 1}
	ground := makes(theBridge, address4, address6)
	after := func(steps ...plan.Step) [][]plan.Step { return [][]plan.Step{ground, steps} }
	return []scene{
		{name: "routes", calls: after(makes(way4, way6, def, def6)...), present: []host.Resource{way4, way6, def, def6}},
		{name: "blackhole", calls: [][]plan.Step{makes(hole)}, present: []host.Resource{hole}},
		{name: "no blackhole", calls: [][]plan.Step{makes(hole), drops(hole)}, absent: keysOf(hole)},
		{name: "delete routes", calls: [][]plan.Step{ground, makes(way4, way6, def), drops(way4, way6)}, present: []host.Resource{def}, absent: keysOf(way4, way6)},
		{name: "who made a route", calls: [][]plan.Step{ground, makes(static), changes(static, booted)}, present: []host.Resource{booted}},
		{name: "a route in place of one that goes", calls: [][]plan.Step{ground, makes(way4), append(makes(around), drops(way4)...)}, present: []host.Resource{around}, absent: keysOf(way4)},
		{name: "refuse a route beside one that stays", calls: [][]plan.Step{ground, makes(way4)}, refused: makes(around), present: []host.Resource{way4}, absent: keysOf(around)},
		{name: "refuse a gateway out of reach", calls: [][]plan.Step{ground}, refused: makes(lost), absent: keysOf(lost)},
		{name: "refuse a route over a missing link", refused: makes(way4), absent: keysOf(way4)},
		{name: "refuse a route over nothing", refused: makes(host.Route{Dst: way4.Dst, Table: host.MainTable, Type: 1})},
	}
}

func parameterScenes() []scene {
	on := host.Sysctl{Path: "net/ipv4/ip_forward", Value: "1"}
	off := host.Sysctl{Path: "net/ipv4/ip_forward", Value: "0"}
	ra := host.LinkSysctl("ipv6", "cbr0", "accept_ra", "0")
	no6 := host.LinkSysctl("ipv6", "cbr0", "disable_ipv6", "1")
	nowhere := host.Sysctl{Path: "net/ipv4/no_such_parameter", Value: "1"}
	return []scene{
		{name: "parameter of the host", calls: [][]plan.Step{makes(on)}, present: []host.Resource{on}},
		{name: "and off again", calls: [][]plan.Step{makes(on), changes(on, off)}, present: []host.Resource{off}},
		{name: "parameter of a link", calls: [][]plan.Step{makes(theBridge, ra)}, present: []host.Resource{ra}},
		{name: "a parameter cannot be deleted", calls: [][]plan.Step{makes(theBridge, ra), drops(ra)}, present: []host.Resource{ra}},
		{name: "no IPv6 on a link", calls: [][]plan.Step{makes(theBridge, address6, no6)}, refused: makes(address6), present: []host.Resource{no6}, absent: keysOf(address6)},
		{name: "refuse a parameter that is not there", refused: makes(nowhere), absent: keysOf(nowhere)},
		{name: "refuse a parameter of a missing link", refused: makes(ra), absent: keysOf(ra)},
	}
}

func ruleScenes() []scene {
	full := []host.Resource{table, set, nets, choose, toNAT, forward, input, element, net122, choice}
	stricter := toNAT
	stricter.Rules = "counter reject with icmpx admin-prohibited"
	dropped := choice
	dropped.Data = "drop"
	wide := net122
	wide.Value = "cbr0 . 192.168.0.0/16"
	return []scene{
		{name: "rules", calls: [][]plan.Step{makes(full...)}, present: full},
		{name: "change a chain", calls: [][]plan.Step{makes(full...), changes(toNAT, stricter)}, present: []host.Resource{stricter, choice, forward}},
		{name: "change what a map yields", calls: [][]plan.Step{makes(full...), changes(choice, dropped)}, present: []host.Resource{dropped, toNAT}},
		{name: "delete elements", calls: [][]plan.Step{makes(full...), drops(element, net122, choice)}, present: []host.Resource{set, nets, choose, toNAT, input}, absent: keysOf(element, net122, choice)},
		{name: "a table takes all that is in it", calls: [][]plan.Step{makes(full...), drops(table)}, absent: keysOf(full...)},
		{name: "a set takes its elements", calls: [][]plan.Step{makes(table, nets, net122), drops(nets)}, present: []host.Resource{table}, absent: keysOf(nets, net122)},
		{name: "one element for a wider one", calls: [][]plan.Step{makes(full...), append(drops(net122), makes(wide)...)}, present: []host.Resource{wide}, absent: keysOf(net122)},
		// The other way round the kernel lets it pass in a set of several parts
		// (nft_pipapo looks at both ends of the new one only); the fake does not.
		{name: "refuse an element that overlaps", calls: [][]plan.Step{makes(table, nets, wide)}, refused: makes(net122), present: []host.Resource{wide}, absent: keysOf(net122)},
		{name: "refuse to delete a set in use", calls: [][]plan.Step{makes(full...)}, refused: drops(set), present: full},
		{name: "refuse to delete a chain in use", calls: [][]plan.Step{makes(full...)}, refused: drops(toNAT), present: full},
		{name: "refuse an element of a missing set", calls: [][]plan.Step{makes(table)}, refused: makes(element), present: []host.Resource{table}, absent: keysOf(element)},
		{name: "refuse a chain that names a missing set", calls: [][]plan.Step{makes(table)}, refused: makes(input), absent: keysOf(input)},
		{name: "refuse a jump to a missing chain", calls: [][]plan.Step{makes(table, choose)}, refused: makes(choice), absent: keysOf(choice)},
		{name: "refuse a set in a missing table", refused: makes(set), absent: keysOf(set, table)},
	}
}
