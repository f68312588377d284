package nettest

import (
	"net/netip"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// moveScenes are about what a link hands to another: every attribute, and
// nothing in between.
func moveScenes() []scene {
	p := netip.MustParsePrefix
	other := with(twoBridge, func(l *host.Link) { l.MAC = theBridge.MAC })
	there4, there6 := address4, address6
	there4.Link, there6.Link = other.Name, other.Name
	loud := address6
	loud.NoDAD = false
	loudThere := loud
	loudThere.Link = other.Name
	lease := host.Address{Link: "cbr0", Addr: p("192.0.2.7/24"), Dynamic: true, ValidUntil: 1 << 31, PreferredUntil: 1 << 30}
	rich := host.Route{
		Dst: p("203.0.113.0/24"), Gateway: netip.MustParseAddr("172.19.0.1"), Link: "cbr0", Table: 100, Metric: 30, Protocol: 77, Type: 1,
		Src: address4.Addr.Addr(), OnLink: true, Metrics: "mtu 1400 advmss 1300",
	}
	lean := rich
	lean.Metrics = ""
	gate := host.Route{Dst: p("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.168.122.9"), Link: "cbr0", Table: host.MainTable, Protocol: 4, Type: 1}
	gateThere := gate
	gateThere.Link = other.Name
	many := host.Route{
		Dst: p("198.51.100.0/24"), Table: host.MainTable, Protocol: 4, Type: 1,
		Hops: "via 192.168.122.8 dev cbr0 weight 2; via 192.168.122.9 dev cbr0 weight 1",
	}
	manyThere := many
	manyThere.Hops = "via 192.168.122.8 dev cbr1 weight 2; via 192.168.122.9 dev cbr1 weight 1"
	rule := host.Rule{Priority: 1000, Iif: "cbr0", From: p("192.168.122.0/24"), Mark: 7, Mask: 255, Action: 1, Table: 100, Protocol: 4}
	ruleThere := rule
	ruleThere.Iif = other.Name
	six := host.Rule{Six: true, Priority: 1001, Not: true, To: p("2001:db8::/32"), Oif: "nowhere0", Action: 1, Table: 300}
	return []scene{
		{name: "an address with a lifetime", calls: [][]plan.Step{makes(theBridge, lease)}, present: []host.Resource{lease}},
		{name: "a route with everything", calls: [][]plan.Step{makes(theBridge, address4, rich)}, present: []host.Resource{rich}},
		{name: "a route with less", calls: [][]plan.Step{makes(theBridge, address4, rich), changes(rich, lean)}, present: []host.Resource{lean}},
		{name: "several next hops", calls: [][]plan.Step{makes(theBridge, address4, many)}, present: []host.Resource{many}},
		{name: "rules", calls: [][]plan.Step{makes(theBridge, rule, six)}, present: []host.Resource{rule, six}},
		{name: "no rules", calls: [][]plan.Step{makes(theBridge, rule, six), drops(rule, six)}, absent: keysOf(rule, six)},
		{name: "a rule outlives its link", calls: [][]plan.Step{makes(theBridge, rule), drops(theBridge)}, present: []host.Resource{rule}},
		{name: "addresses move", calls: [][]plan.Step{makes(theBridge, other, address4, loud), append(makes(there4, loudThere), drops(address4, loud)...)},
			present: []host.Resource{there4, loudThere, subnetRoute(there4), localRoute(there4), subnetRoute(there6)}, absent: keysOf(address4, loud, subnetRoute(address4))},
		{name: "all moves", calls: [][]plan.Step{
			makes(theBridge, other, address4, gate, many, rule),
			append(append(makes(there4, ruleThere, subnetRoute(there4), gateThere), changes(many, manyThere)...), drops(gate, subnetRoute(address4), rule, address4)...),
		}, present: []host.Resource{there4, subnetRoute(there4), gateThere, manyThere, ruleThere}, absent: keysOf(address4, gate, subnetRoute(address4), rule)},
		{name: "all moves off a link that goes", calls: [][]plan.Step{
			makes(theBridge, other, address4, gate, many, rule),
			append(append(makes(there4, ruleThere, subnetRoute(there4), gateThere), changes(many, manyThere)...), drops(rule, theBridge)...),
		}, present: []host.Resource{there4, subnetRoute(there4), gateThere, manyThere, ruleThere}, absent: keysOf(theBridge, address4, gate, rule)},
	}
}
