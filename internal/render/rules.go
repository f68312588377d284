package render

import (
	"slices"
	"strconv"
	"strings"

	"drawbridge/internal/host"
)

// The tables. inet decides what is routed and translated, bridge what guests
// may do to each other on their switch.
var (
	routed   = host.Table{Family: host.FamilyInet, Name: "drawbridge"}
	switched = host.Table{Family: host.FamilyBridge, Name: "drawbridge"}
)

// Names of sets and maps that modes put elements into. All are keyed by
// interface name, never by index: an index may be given to another link later.
const (
	// setBridges holds every bridge of ours.
	setBridges = "bridges"
	// setWithin holds bridge . bridge: traffic that stays on one switch but is
	// shown to the routing hooks, by br_netfilter or hairpin.
	setWithin = "within"
	// mapFrom and mapTo choose, by bridge, the chain for what guests send out
	// and for what is sent to them.
	mapFrom = "from_guests"
	mapTo   = "to_guests"
	// setSources4 and 6 hold bridge . subnet: the addresses guests may use.
	setSources4 = "sources4"
	setSources6 = "sources6"
	// setHidden4 and 6 hold the subnets that leave with the host's address.
	setHidden4 = "hidden4"
	setHidden6 = "hidden6"
	// setPorts, in the bridge table, holds the taps of guests.
	setPorts = "ports"
)

// Maps of forwards; a digit 4 or 6 follows, and for those whose key has the
// listen address, "_at". Where two of one address and port could match there is
// only ever one element, in one of them.
const (
	// mapDoors: protocol . port -> guest . port; a hash, so that one more costs
	// the same beside thirty thousand.
	mapDoors = "doors"
	// mapLimited: source prefix . protocol . port -> guest . port.
	mapLimited = "limited"
	// mapRanges: source prefix . protocol . ports -> guest; the port stays.
	mapRanges = "ranges"
	// mapWhole: source prefix . address -> guest; every protocol and port.
	mapWhole = "whole"
	// mapOneToOne: guest -> address, the way out of a forward of a whole address.
	mapOneToOne = "one_to_one"
)

// rule is one line of a chain and the reason for it; the reason becomes the
// rule's comment, seen by everyone who lists the ruleset.
type rule struct{ text, why string }

// chain is a chain as a mode describes it.
type chain struct {
	table     host.Table
	name      string
	typ, hook string
	priority  int
	why       string
	rules     []rule
}

func (c chain) resource() host.Chain {
	var lines []string
	for _, r := range c.rules {
		lines = append(lines, r.text+" comment "+strconv.Quote(r.why))
	}
	return host.Chain{Table: c.table, Name: c.name, Type: c.typ, Hook: c.hook, Priority: c.priority, Rules: strings.Join(lines, "\n")}
}

var sets = append(forwardMaps(), []host.Set{
	{Table: routed, Name: setBridges, Type: "ifname"},
	{Table: routed, Name: setWithin, Type: "ifname . ifname"},
	{Table: routed, Name: mapFrom, Type: "ifname", Value: "verdict"},
	{Table: routed, Name: mapTo, Type: "ifname", Value: "verdict"},
	{Table: routed, Name: setSources4, Type: "ifname . ipv4_addr", Interval: true},
	{Table: routed, Name: setSources6, Type: "ifname . ipv6_addr", Interval: true},
	{Table: routed, Name: setHidden4, Type: "ipv4_addr", Interval: true},
	{Table: routed, Name: setHidden6, Type: "ipv6_addr", Interval: true},
	{Table: switched, Name: setPorts, Type: "ifname"},
}...)

// The priorities are nft's standard ones: raw -300, dstnat -100, filter 0, srcnat 100; in the bridge
// family filter is -200.
const (
	priorityRaw          = -300
	priorityDNAT         = -100
	priorityFilter       = 0
	prioritySourceNAT    = 100
	priorityBridgeFilter = -200
)

// baseChains are there whatever modes are in use.
var baseChains = []chain{
	{
		table: routed, name: "forward", typ: "filter", hook: "forward", priority: priorityFilter,
		why: "what the host routes to and from guests; everything else passes untouched",
		rules: []rule{
			{"iifname . oifname @within accept", "guests of one network reach each other"},
			{"iifname vmap @from_guests", "what the guests of this network may reach"},
			{"oifname vmap @to_guests", "what may reach the guests of this network"},
		},
	},
	{
		table: routed, name: "input", typ: "filter", hook: "input", priority: priorityFilter,
		why: "what guests send to the host itself",
		rules: []rule{
			{"iifname @bridges jump guest_services", "services that the host offers to guests"},
		},
	},
	{
		table: routed, name: "guest_services",
		why: "counted, so that a firewall in the way of DHCP or DNS can be told from a silent guest",
		rules: []rule{
			{"udp dport 67 counter accept", "DHCP requests"},
			{"udp dport 53 counter accept", "DNS questions"},
			{"tcp dport 53 counter accept", "DNS questions over TCP"},
			{"icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept", "IPv6 address configuration"},
		},
	},
	{
		table: routed, name: "postrouting", typ: "nat", hook: "postrouting", priority: prioritySourceNAT,
		why: "source NAT; names no outgoing interface, so it follows the uplink wherever it moves",
		rules: []rule{
			{`oifname "lo" return`, "what the host says to itself, also by its address on a bridge, keeps its source"},
			{"oifname . ip saddr @sources4 ct status dnat masquerade", "a guest that comes back to its own network by a forward: the answer must come back here"},
			{"oifname . ip6 saddr @sources6 ct status dnat masquerade", "the same in IPv6"},
			{"oifname @bridges ip saddr 127.0.0.0/8 ct status dnat masquerade", "a forward used by 127.0.0.1: no guest can answer to that"},
			{"oifname @bridges return", "guests see the true source of what reaches them"},
			{"snat ip to ip saddr map @one_to_one4", "a guest that was given a whole address goes out with it"},
			{"snat ip6 to ip6 saddr map @one_to_one6", "the same in IPv6"},
			{"ip daddr { 224.0.0.0/4, 255.255.255.255 } return", "multicast and broadcast are never translated"},
			{"ip saddr @hidden4 masquerade", "guests go out with the host's address"},
			{"ip6 daddr ff00::/8 return", "multicast is never translated"},
			{"ip6 saddr @hidden6 masquerade", "guests go out with the host's IPv6 address"},
		},
	},
	{
		table: routed, name: "loopback_guard", typ: "filter", hook: "prerouting", priority: priorityRaw,
		why: "a bridge that serves forwards to 127.0.0.1 has route_localnet: what comes in there must not reach the host's loopback services",
		rules: []rule{
			{"iifname @bridges ip daddr 127.0.0.0/8 counter drop", "no guest speaks to the host's loopback"},
			{"iifname @bridges ip saddr 127.0.0.0/8 counter drop", "no guest speaks as the host's loopback"},
		},
	},
	{
		table: routed, name: "prerouting", typ: "nat", hook: "prerouting", priority: priorityDNAT,
		why: "forwards, for what comes from outside and from guests", rules: toDoors,
	},
	{
		table: routed, name: "output", typ: "nat", hook: "output", priority: priorityDNAT,
		why: "forwards, for what the host itself sends", rules: slices.Concat([]rule{
			{"ip6 daddr ::1 return", "::1 cannot leave the host: IPv6 has no route_localnet"},
		}, toDoors),
	},
	{table: routed, name: "doors_at", why: "forwards of one address, which need not be the host's own", rules: doorRules(true)},
	{table: routed, name: "doors_local", why: "forwards of every address of the host", rules: doorRules(false)},
	{
		table: switched, name: "prerouting", typ: "filter", hook: "prerouting", priority: priorityBridgeFilter,
		why: "what guests may say on their switch",
		rules: []rule{
			{"iifname @ports jump guard", "frames that come out of a guest"},
		},
	},
	{
		table: switched, name: "guard",
		why: "a guest does not play the network's servers",
		rules: []rule{
			{"ether type ip udp sport 67 udp dport 68 counter drop", "no DHCP server in a guest"},
			{"ether type ip6 icmpv6 type nd-router-advert counter drop", "no router advertisements from a guest"},
		},
	},
}

func element(t host.Table, set, value, data string) host.Element {
	return host.Element{Table: t, Set: set, Value: value, Data: data}
}
