package render

import (
	"fmt"
	"slices"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// bridged puts guests on the host's own LAN, as machines like any other. The
// host's NIC becomes a port of a bridge and the bridge gets all that the NIC had
// (move.go). From then on the host's own network manager keeps bridge, addresses
// and routes; we only see to it that the ports are plugged in.
type bridged struct{}

func (bridged) Name() spec.ModeName { return "bridged" }

func (bridged) Summary() string {
	return "guests stand on the host's own LAN beside the host: everybody there reaches them, and gives them addresses"
}

// Chains is empty: what guests send is switched, not routed.
func (bridged) Chains() []chain { return nil }

func (bridged) Settle(n spec.Network, d spec.Document, f Facts) spec.Network {
	if n.Bridge == "" && n.Adopt {
		return n // refused by Validate: somebody has to say which
	}
	if n.Bridge == "" {
		n.Bridge = freeBridge("br", d, f)
	}
	f.leadWithAddresses(&n)
	from := n.Bridge
	if len(n.Uplinks) > 0 && !n.Adopt {
		from = n.Uplinks[0]
	}
	if l, there := f.Seen[host.LinkKey(from)].(host.Link); there {
		if n.MAC == "" || !n.Adopt {
			n.MAC = l.MAC
		}
		if n.MTU == 0 && l.MTU != spec.DefaultMTU {
			n.MTU = l.MTU
		}
	}
	n.IPv6 = spec.IPv6Off
	settleNames(&n, d.Revision, f)
	return n
}

// leadWithAddresses puts the uplink first over which the host speaks, if that is
// one of several: the bridge takes its identity.
func (f Facts) leadWithAddresses(n *spec.Network) {
	if len(n.Uplinks) < 2 || len(f.hostAddresses(n.Uplinks[0])) > 0 {
		return
	}
	for i, u := range n.Uplinks {
		if len(f.hostAddresses(u)) > 0 {
			n.Uplinks = slices.Concat([]string{u}, n.Uplinks[:i], n.Uplinks[i+1:])
			return
		}
	}
}

func (bridged) Validate(n spec.Network) error {
	switch {
	case n.Adopt && n.Bridge == "":
		return &spec.InvalidError{Field: "bridge", Reason: "say which bridge is to be adopted"}
	case len(n.Uplinks) == 0 && !n.Adopt:
		return &spec.InvalidError{Field: "uplink", Reason: "name the NIC that leads to the LAN, such as --uplink eth0, or a bridge that exists with --adopt"}
	case len(n.Subnets) > 0:
		return &spec.InvalidError{Field: "subnet", Reason: fmt.Sprintf("%s: a bridged network has the LAN's addresses, which the LAN gives out", n.Subnets[0].Prefix)}
	case len(n.Reservations) > 0:
		return &spec.InvalidError{Field: "reservation", Reason: "addresses on a bridged network are given out by the LAN"}
	case n.Forwards.Len() > 0:
		return &spec.InvalidError{Field: "forward", Reason: "guests of a bridged network are reached directly"}
	}
	return nil
}

// linkParameters are those of a link that the bridge takes over from the NIC
// where they are not the default (Documentation/networking/ip-sysctl.rst). In
// that order: autoconf before accept_ra, so that no advertisement is misread.
var linkParameters = map[string][]string{
	"ipv4": {
		"accept_local", "accept_redirects", "accept_source_route", "arp_accept", "arp_announce", "arp_filter", "arp_ignore",
		"arp_notify", "bc_forwarding", "disable_policy", "disable_xfrm", "drop_gratuitous_arp", "drop_unicast_in_l2_multicast",
		"force_igmp_version", "forwarding", "ignore_routes_with_linkdown", "log_martians", "promote_secondaries", "proxy_arp",
		"proxy_arp_pvlan", "route_localnet", "rp_filter", "secure_redirects", "send_redirects", "shared_media", "src_valid_mark",
	},
	"ipv6": {
		"accept_ra", "accept_ra_defrtr", "accept_ra_from_local", "accept_ra_min_hop_limit", "accept_ra_mtu", "accept_ra_pinfo",
		"accept_ra_rt_info_max_plen", "accept_ra_rt_info_min_plen", "accept_ra_rtr_pref", "accept_redirects", "accept_source_route",
		"accept_untracked_na", "addr_gen_mode", "autoconf", "dad_transmits", "disable_ipv6", "drop_unicast_in_l2_multicast",
		"drop_unsolicited_na", "enhanced_dad", "force_tllao", "forwarding", "hop_limit", "ignore_routes_with_linkdown",
		"keep_addr_on_down", "max_addresses", "ndisc_notify", "ndisc_tclass", "optimistic_dad", "proxy_ndp", "ra_defrtr_metric",
		"regen_max_retry", "router_solicitations", "suppress_frag_ndisc", "temp_prefered_lft", "temp_valid_lft",
		"use_oif_addrs_only", "use_optimistic", "use_tempaddr",
	},
}

func (bridged) Asks(n spec.Network, seen host.State) []host.Key {
	if n.Adopt || len(n.Uplinks) == 0 || joined(n, seen) {
		return nil
	}
	var keys []host.Key
	for _, u := range n.Uplinks {
		keys = append(keys, host.NICKey(u))
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		for _, p := range linkParameters[family] {
			for _, link := range []string{n.Uplinks[0], "default"} {
				keys = append(keys, host.LinkSysctl(family, link, p, "").Key())
			}
		}
	}
	return keys
}

// joined says whether all uplinks are ports of the network's bridge.
func joined(n spec.Network, seen host.State) bool {
	br, there := seen[host.LinkKey(n.Bridge)].(host.Link)
	if !there || br.Type != host.TypeBridge {
		return false
	}
	for _, u := range n.Uplinks {
		if l, ok := seen[host.LinkKey(u)].(host.Link); !ok || l.Master != n.Bridge {
			return false
		}
	}
	return true
}

func (m bridged) Render(n spec.Network, f Facts) (host.Wish, []Note, error) {
	w := host.NewWish()
	// Only seen by the routing hooks while br_netfilter is on.
	w.Present.Add(element(routed, setWithin, n.Bridge+" . "+n.Bridge, ""))
	br, there := f.Seen[host.LinkKey(n.Bridge)].(host.Link)
	if f.Moving[n.Name] && !joined(n, f.Seen) {
		notes, err := m.join(&w, n, f)
		return w, notes, err
	}
	if !there || br.Type != host.TypeBridge {
		return host.NewWish(), nil, nil // Trouble says so
	}
	m.profiles(&w, n, f)
	links := linksOf(n, f.Seen)
	for _, u := range n.Uplinks {
		l, ok := f.Seen[host.LinkKey(u)].(host.Link)
		// A NIC that was pulled out and has got nothing of its own since goes
		// back; one that has is somebody's, or is what a person has to decide.
		if ok && l.Master == "" && len(f.hostAddresses(u)) == 0 {
			l.Master, l.Up = n.Bridge, true
			links.Add(l)
		}
	}
	notes, err := f.tellApart(n, links)
	if err != nil {
		return host.NewWish(), nil, err
	}
	if n.MTU != 0 && !n.Adopt && br.MTU != n.EffectiveMTU() {
		notes = append(notes, Note(fmt.Sprintf("%s is the host's own by now and keeps its MTU of %d until network %s is stopped and started anew", n.Bridge, br.MTU, n.Name)))
	}
	for k, r := range links {
		// What differs in nothing is named for the bridge alone: ports stand on it.
		if k == br.Key() || !host.Same(f.Seen[k], r) {
			w.Given[k] = r
		}
	}
	if f.Moving[n.Name] && n.Adopt {
		notes = append(notes, Note("bridge "+n.Bridge+" is used as it is; it stays when the network is removed"))
	}
	return w, notes, nil
}

func (bridged) Trouble(n spec.Network, seen host.State) string {
	br, there := seen[host.LinkKey(n.Bridge)].(host.Link)
	switch {
	case !there:
		return fmt.Sprintf("bridge %s is not there: whoever manages the host's network has not made it; drawbridge network stop %s, then start, moves %s again", n.Bridge, n.Name, strings.Join(n.Uplinks, ", "))
	case br.Type != host.TypeBridge:
		return fmt.Sprintf("%s is no bridge", n.Bridge)
	}
	if !n.Tags.IsZero() && !br.Filter {
		return fmt.Sprintf("bridge %s does not tell VLANs apart; no guest is plugged in until it does", n.Bridge)
	}
	for _, u := range n.Uplinks {
		l, ok := seen[host.LinkKey(u)].(host.Link)
		switch {
		case !ok:
			return fmt.Sprintf("uplink %s is not there", u)
		case l.Master == "":
			return fmt.Sprintf("uplink %s is not a port of %s and has addresses of its own", u, n.Bridge)
		case l.Master != n.Bridge:
			return fmt.Sprintf("uplink %s is a port of %s, not of %s", u, l.Master, n.Bridge)
		}
	}
	return ""
}

// profiles asks for the host's own manager to keep the bridge.
func (bridged) profiles(w *host.Wish, n spec.Network, f Facts) {
	if f.Manager == "" || n.Adopt || len(n.Uplinks) == 0 {
		return
	}
	for _, stage := range []string{host.Reserved, host.Runtime, host.Permanent} {
		w.Present.Add(host.Profile{
			Stage: stage, Manager: f.Manager, Bridge: n.Bridge, Uplinks: strings.Join(n.Uplinks, " "),
			MAC: n.MAC, MTU: n.EffectiveMTU(), STP: n.STP,
		})
	}
}

// hostAddresses are the host's own addresses on a link: all but those that the
// kernel gives to every link.
func (f Facts) hostAddresses(link string) []host.Address {
	var out []host.Address
	mac := ""
	if l, ok := f.Seen[host.LinkKey(link)].(host.Link); ok {
		mac = l.MAC
	}
	for _, k := range f.Seen.Keys() {
		if a, ok := f.Seen[k].(host.Address); ok && a.Link == link && !ofKernel(a, mac) {
			out = append(out, a)
		}
	}
	slices.SortStableFunc(out, func(a, b host.Address) int { return a.Place - b.Place })
	return out
}
