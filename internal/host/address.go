package host

import (
	"net/netip"
	"strconv"
)

// Address is an IP address on a link, with all that the kernel knows of it but
// what follows from the rest (secondary, tentative, deprecated).
type Address struct {
	Link string
	// Addr is the address with its prefix length; host bits are kept.
	Addr netip.Prefix
	// NoDAD asks for no duplicate address detection (IFA_F_NODAD): an address
	// of a bridge of our own has nobody to collide with, and must be usable at
	// once. False for IPv4.
	NoDAD bool
	// Dynamic addresses have a lifetime, from DHCP or RA. They are moved to
	// another link with what is left of it, and never made from nothing.
	Dynamic bool

	// Peer is the other end of a point-to-point address, whose prefix length is
	// Addr's; invalid for none.
	Peer netip.Addr `json:",omitzero"`
	// Broadcast is invalid for the usual one (the last of the subnet), 0.0.0.0
	// for none.
	Broadcast netip.Addr `json:",omitzero"`
	// Scope is an IPv4 address's RT_SCOPE_* (0 global, 253 link, 254 host); that
	// of IPv6 follows from the address.
	Scope int `json:",omitempty"`
	// Label of IPv4 (eth0:1); "" for the usual one, the link's name.
	Label string `json:",omitempty"`
	// Metric of the route to the subnet (IFA_RT_PRIORITY); 0 for the usual one.
	Metric int `json:",omitempty"`
	// Proto is who made the address (IFAPROT_*: 1 loopback, 2 router
	// advertisement, 3 link-local), 0 for nobody in particular.
	Proto int `json:",omitempty"`
	// NoPrefixRoute: no route to the subnet came with it (IFA_F_NOPREFIXROUTE).
	NoPrefixRoute bool `json:",omitempty"`
	// Home, ManageTemp, Optimistic, MulticastJoin are flags of these names.
	Home          bool `json:",omitempty"`
	ManageTemp    bool `json:",omitempty"`
	Optimistic    bool `json:",omitempty"`
	MulticastJoin bool `json:",omitempty"`

	// ValidUntil and PreferredUntil are seconds of CLOCK_MONOTONIC; 0 is for
	// ever. PreferredUntil may lie in the past: the address is deprecated. They
	// run by themselves and clients extend them, so they do not count in Same.
	ValidUntil     int64 `json:",omitempty"`
	PreferredUntil int64 `json:",omitempty"`
	// Place orders the addresses of one link as they were made: those of a lower
	// place first. The first of a subnet is its primary, and the kernel chooses
	// sources by this order. It does not count in Same.
	Place int `json:",omitempty"`
	// Unrestorable names what could not be made again if the address were taken
	// away, such as being temporary; "" if everything could.
	Unrestorable string `json:",omitempty"`
}

// Key is the link and the address, and the peer if there is one.
func (a Address) Key() Key {
	name := a.Link + " " + a.Addr.String()
	if a.Peer.IsValid() {
		name += " peer " + a.Peer.String()
	}
	return Key{KindAddress, name}
}

// Needs is the link.
func (a Address) Needs() []Key { return []Key{LinkKey(a.Link)} }
func (Address) resource()      {}

// MainTable and LocalTable are RT_TABLE_MAIN and RT_TABLE_LOCAL.
const (
	MainTable  = 254
	LocalTable = 255
)

// Route is one entry of a routing table with all that the kernel knows of it.
type Route struct {
	// Dst is the destination, ::/0 or 0.0.0.0/0 for a default route.
	Dst netip.Prefix
	// Gateway is the next hop; invalid if the destination is on the link.
	Gateway netip.Addr
	// Link is the outgoing interface; "" for blackholes and multipath routes.
	Link   string
	Table  int
	Metric int
	// Protocol is who made the route (RTPROT_*: 2 kernel, 3 boot, 4 static, 16 dhcp).
	Protocol int
	// Type is RTN_*: 1 unicast, 2 local, 3 broadcast, 6 blackhole.
	Type int

	// From restricts IPv6 routes to a source prefix; invalid for none.
	From netip.Prefix `json:",omitzero"`
	// TOS is the type of service that the route is for; 0 for all.
	TOS int `json:",omitempty"`
	// Src is the preferred source address; invalid for none.
	Src netip.Addr `json:",omitzero"`
	// Scope of IPv4 in words (global, site, link, host, nowhere, or a number); ""
	// for the usual one, as ip-route(8) chooses it.
	Scope string `json:",omitempty"`
	// OnLink: the gateway is taken to be on the link although no subnet holds it.
	OnLink bool `json:",omitempty"`
	// Pref is the router preference of IPv6 (RFC 4191): 0 medium, 1 high, 3 low.
	Pref int `json:",omitempty"`
	// Realm is RTA_FLOW.
	Realm uint32 `json:",omitempty"`
	// Metrics are RTAX_* in words: "mtu 1400 advmss 1360", "mtu lock 1400".
	Metrics string `json:",omitempty"`
	// Hops are the next hops of a multipath route, in order and joined by "; ":
	// "via 192.0.2.1 dev eth0 weight 2 onlink".
	Hops string `json:",omitempty"`

	// Until is when the route ends, in seconds of CLOCK_MONOTONIC; 0 for never.
	// It does not count in Same.
	Until int64 `json:",omitempty"`
	// Unrestorable names attributes that could not be made again if the route
	// were taken away (next hop objects, encapsulations); "" if everything could.
	Unrestorable string `json:",omitempty"`
}

// Key is what makes a route one of its own to the kernel.
func (r Route) Key() Key {
	name := r.Dst.String() + " table " + strconv.Itoa(r.Table) + " metric " + strconv.Itoa(r.Metric)
	if r.From.IsValid() {
		name += " from " + r.From.String()
	}
	if r.TOS != 0 {
		name += " tos " + strconv.Itoa(r.TOS)
	}
	if r.Gateway.IsValid() {
		name += " via " + r.Gateway.String()
	}
	if r.Link != "" {
		name += " dev " + r.Link
	}
	return Key{KindRoute, name + " type " + strconv.Itoa(r.Type)}
}

// Needs is the outgoing link.
func (r Route) Needs() []Key {
	if r.Link == "" {
		return nil
	}
	return []Key{LinkKey(r.Link)}
}
func (Route) resource() {}

// Rule is an entry of the routing policy database (ip-rule(8)).
type Rule struct {
	// Six: the rule is for IPv6.
	Six      bool
	Priority uint32
	// Iif and Oif name links, which need not be there; "" for any.
	Iif, Oif string
	// From and To are invalid for all; TOS is 0 for all.
	From, To netip.Prefix `json:",omitzero"`
	TOS      int          `json:",omitempty"`
	// Mark and Mask are those of packets; Mask 0 for any.
	Mark, Mask uint32 `json:",omitempty"`
	// Action is FR_ACT_* (1: look up Table).
	Action int
	Table  int `json:",omitempty"`
	// Not inverts what the rule matches.
	Not bool `json:",omitempty"`
	// Protocol is who made the rule (RTPROT_*).
	Protocol int `json:",omitempty"`
	// Rest are all other attributes as the kernel gave them (struct nlattr one
	// after the other, in hexadecimal): ports, user ids, suppressed prefixes.
	Rest string `json:",omitempty"`
}

// Key is everything: to the kernel two rules are the same only if all is.
func (r Rule) Key() Key {
	name := "inet"
	if r.Six {
		name = "inet6"
	}
	name += " pref " + strconv.FormatUint(uint64(r.Priority), 10)
	word := func(name, value string) string {
		if value == "" {
			return ""
		}
		return " " + name + " " + value
	}
	prefix := func(p netip.Prefix) string {
		if !p.IsValid() {
			return ""
		}
		return p.String()
	}
	number := func(n uint64, base int) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatUint(n, base)
	}
	if r.Not {
		name += " not"
	}
	name += word("from", prefix(r.From)) + word("to", prefix(r.To)) + word("tos", number(uint64(r.TOS), 10)) +
		word("mark", number(uint64(r.Mark), 16)) + word("mask", number(uint64(r.Mask), 16)) +
		word("iif", r.Iif) + word("oif", r.Oif) + word("action", strconv.Itoa(r.Action)) +
		word("table", number(uint64(r.Table), 10)) + word("protocol", number(uint64(r.Protocol), 10)) + word("rest", r.Rest)
	return Key{KindRule, name}
}

// Needs nothing: a rule may name links and tables that are not there yet.
func (Rule) Needs() []Key { return nil }
func (Rule) resource()    {}

// FollowsAddress says whether the kernel makes the route by itself for every address, or
// for a link that is up: what is delivered to the host, broadcast, anycast, multicast.
// Of IPv6 nobody else can make them: their metric is 0, which a program's route cannot
// have (1024 is taken instead, inet6_rtm_newroute in net/ipv6/route.c), and they come
// only when the address was probed.
func (r Route) FollowsAddress() bool {
	return r.Protocol == protocolKernel && (r.Table == LocalTable || r.Type != typeUnicast)
}

// Numbers of linux/rtnetlink.h.
const (
	protocolKernel = 2 // RTPROT_KERNEL
	typeUnicast    = 1 // RTN_UNICAST
)

// Same says whether two resources are the same, apart from what runs by itself:
// the rest of a lifetime, which clients extend, and the place among others.
func Same(a, b Resource) bool { return timeless(a) == timeless(b) }

func timeless(r Resource) Resource {
	switch r := r.(type) {
	case Address:
		r.ValidUntil, r.PreferredUntil, r.Place = 0, 0, 0
		return r
	case Route:
		r.Until = 0
		return r
	}
	return r
}
