package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// networkChecks are about networks: whether they run, and what of the host's
// addresses, routes and switches is in their way.
func networkChecks() []Check {
	return []Check{
		{
			"forwarding-off", Fault, "Forwarding is off", "The kernel throws away what guests send to the outside.",
			"Turn it on. While the daemon runs it does so by itself; if it goes off again, another program turns it off.", findForwarding,
		},
		{
			"network-held", Fault, "A network cannot run", "Something that drawbridge did not make is in the place of the network's bridge.",
			"Remove what is in the way, or give the network another bridge.", findHeld,
		},
		{
			"network-drift", Fault, "Something of a network is missing or changed", "Guests of the network may have no connection, no addresses or no names.",
			"The daemon puts it back; without it, start the daemon or let doctor do it once.", findDrift,
		},
		{
			"others-undo", Fault, "Another program keeps undoing what drawbridge does", "The network works for seconds and then does not.",
			"Tell the other program to leave it alone.", findQuarrel,
		},
		{
			"subnet-overlap", Fault, "A network's subnet overlaps another one that the host knows", "What guests or the host send there goes to only one of the two.",
			"Give the network another subnet, or take the other route away.", findOverlap,
		},
		{
			"uplink-down", Fault, "The uplink of a network has no carrier", "Guests of the network reach each other (bridged: and the host), and nothing else.",
			"Plug the cable in, set the NIC up, and look at the switch.", findUplink,
		},
		{
			"no-default-route", Warning, "The host has no default route", "Guests reach what the host reaches, and not the internet.",
			"Give the host a default route; guests use it at once.", findNoWayOut,
		},
		{
			"stp-delay", Warning, "A bridge makes new ports wait", "A guest's first seconds pass before its frames do: DHCP may give up (15 to 30 s by default).",
			"Turn the spanning tree protocol off, or the forward delay down, where no second way leads to the same switch. By doctor, ports that wait forward at once.", findSTP,
		},
		{
			"mtu-mismatch", Warning, "Ports of one bridge have different MTUs", "Large packets get lost without a word while small ones pass: connections begin and then hang.",
			"Give all of them the same MTU, in the guests too.", findMTU,
		},
		{
			"bridge-full", Warning, "A bridge has nearly all the ports that it can have", "Linux bridges have 1023 ports; the next guest cannot be plugged in.",
			"Put further guests on another network.", findFullBridge,
		},
		{
			"libvirt-conflict", Fault, "libvirt has a network of the same bridge or subnet", "Whoever starts second fails, or both serve the same guests.",
			"Stop libvirt's network and keep it from starting, or remove ours. libvirt guests can use our bridge: <source bridge='…'/>.", findLibvirt,
		},
		{
			"route-accepts-ra", Fault, "The host is about to lose its IPv6", "With forwarding on, the kernel ignores router advertisements where accept_ra is 1: the default route runs out.",
			"Set accept_ra to 2 on the uplink.", findRA,
		},
		{
			"rp-filter", Warning, "Strict reverse path filtering on a second way in", "What comes in by one NIC while the default route leads out by another is dropped: forwards do not answer there.",
			"Set rp_filter to 2 (loose) on that NIC.", findReversePath,
		},
	}
}

func findForwarding(f *Facts) []Finding {
	var found []Finding
	check := func(path, family string, has func(spec.Network) bool) {
		if f.Sysctls[path] != "0" {
			return
		}
		for _, n := range f.routed() {
			if has(n) {
				found = append(found, Finding{Seen: fmt.Sprintf("%s is 0, and network %s routes %s", path, n.Name, family), Fix: f.sysctlFix(path, "1")})
				return
			}
		}
	}
	check("net/ipv4/ip_forward", "IPv4", func(n spec.Network) bool { _, ok := n.Subnet4(); return ok })
	check("net/ipv6/conf/all/forwarding", "IPv6", func(n spec.Network) bool { _, ok := n.Subnet6(); return ok })
	return found
}

func findHeld(f *Facts) []Finding {
	var found []Finding
	for _, name := range f.Document.Names() {
		if why, held := f.Held[name]; held {
			n := f.Document.Networks[name]
			found = append(found, Finding{
				About: Subject{Network: name}, Seen: why,
				Fix: Fix{Advice: fmt.Sprintf("remove the link %s if nobody needs it (ip link del %s), or: drawbridge network stop %s; drawbridge network set %s bridge=OTHER; drawbridge network start %s", n.Bridge, n.Bridge, name, name, name)},
			})
		}
	}
	return found
}

func findDrift(f *Facts) []Finding {
	byNetwork := map[spec.NetworkName][]string{}
	for _, d := range f.Drift {
		byNetwork[f.networkOf(d.Key)] = append(byNetwork[f.networkOf(d.Key)], d.What)
	}
	names := f.Document.Names()
	var found []Finding
	for _, name := range append(names, "") {
		list := byNetwork[name]
		if len(list) == 0 {
			continue
		}
		seen := strings.Join(list[:min(3, len(list))], "; ")
		if more := len(list) - 3; more > 0 {
			seen += fmt.Sprintf("; and %d more", more)
		}
		fix := Fix{Command: "systemctl start drawbridge", Edit: Edit{Reload: true}}
		if !f.Offline {
			fix.Command, fix.Advice = "drawbridge monitor", "the daemon puts it back within seconds; if it does not stay, see who takes it away"
		}
		found = append(found, Finding{About: Subject{Network: name}, Seen: seen, Fix: fix})
	}
	return found
}

// networkOf finds the network that a thing of ours belongs to, by its bridge.
func (f *Facts) networkOf(k host.Key) spec.NetworkName {
	words := strings.FieldsFunc(k.Name, func(r rune) bool { return r == ' ' || r == '/' })
	for _, name := range f.Document.Names() {
		if slices.Contains(words, f.Document.Networks[name].GuestLink()) {
			return name
		}
	}
	return ""
}

func findQuarrel(f *Facts) []Finding {
	if f.Quarrel == "" {
		return nil
	}
	return []Finding{{Seen: f.Quarrel, Fix: Fix{Advice: "see what it does with: drawbridge monitor"}}}
}

func findOverlap(f *Facts) []Finding {
	var found []Finding
	for _, n := range f.running() {
		for _, s := range n.Subnets {
			if what := f.overlap(s.Prefix, n.Bridge); what != "" {
				found = append(found, Finding{
					About: Subject{Network: n.Name}, Seen: fmt.Sprintf("subnet %s overlaps %s", s.Prefix, what),
					Fix: Fix{Advice: fmt.Sprintf("give it a free one: drawbridge export > host.yaml, change the subnet of %s, drawbridge apply -f host.yaml; guests get new addresses when they renew", n.Name)},
				})
			}
		}
	}
	return found
}

// overlap finds a route or address of others that shares addresses with a
// subnet: the default route and the halves of it that VPNs use do not count.
func (f *Facts) overlap(p netip.Prefix, bridge string) string {
	for _, r := range f.placed() {
		switch r := r.(type) {
		case host.Route:
			if r.Link == bridge || !r.Dst.Overlaps(p) {
				continue
			}
			text := "the route to " + r.Dst.String()
			if r.Gateway.IsValid() {
				text += " via " + r.Gateway.String()
			}
			if r.Link != "" {
				text += " on " + r.Link
			}
			return text
		case host.Address:
			if r.Link != bridge && r.Addr.Masked().Overlaps(p) {
				return "the address " + r.Addr.String() + " on " + r.Link
			}
		}
	}
	return ""
}

// placed are the routes and addresses, in order, that a subnet can overlap.
func (f *Facts) placed() []host.Resource {
	if f.places != nil {
		return f.places
	}
	f.places = []host.Resource{}
	for _, key := range f.keys() {
		switch r := f.State[key].(type) {
		case host.Route:
			a := r.Dst.Addr()
			if r.Dst.Bits() > 1 && !a.IsLinkLocalUnicast() && !a.IsMulticast() && (r.Table != host.LocalTable || r.Type == 2) {
				f.places = append(f.places, r)
			}
		case host.Address:
			if !r.Addr.Addr().IsLinkLocalUnicast() {
				f.places = append(f.places, r)
			}
		}
	}
	return f.places
}

func findUplink(f *Facts) []Finding {
	var found []Finding
	for _, n := range f.running() {
		for _, u := range n.Uplinks {
			l, there := f.link(u)
			nic, looked := f.State[host.NICKey(u)].(host.NIC)
			about := Subject{Network: n.Name, Link: u}
			switch {
			case !there:
				found = append(found, Finding{About: about, Seen: fmt.Sprintf("the uplink %s is not there", u), Fix: Fix{Advice: "look for the NIC with: ip link"}})
			case !l.Up:
				was, up := l, l
				up.Up = true
				found = append(found, Finding{
					About: about, Seen: fmt.Sprintf("the uplink %s is set down", u),
					Fix: Fix{Command: "ip link set " + u + " up", Undo: "ip link set " + u + " down", Turns: []Turn{{was, up}}},
				})
			case looked && !nic.Carrier:
				found = append(found, Finding{About: about, Seen: fmt.Sprintf("the uplink %s has no carrier", u), Fix: Fix{Advice: "look at the cable and at the switch's port"}})
			}
		}
	}
	return found
}

func findNoWayOut(f *Facts) []Finding {
	if f.State == nil || len(f.routed()) == 0 {
		return nil
	}
	for _, r := range f.State {
		if route, ok := r.(host.Route); ok && route.Dst.Bits() <= 1 && route.Type == 1 && !f.ourBridge(route.Link) {
			return nil
		}
	}
	return []Finding{{Seen: "no route to 0.0.0.0/0 or ::/0 in any table", Fix: Fix{Advice: "ask the host's network manager, or: ip route add default via ROUTER"}}}
}

func (f *Facts) ourBridge(link string) bool {
	for _, n := range f.Document.Networks {
		if n.Bridge == link && len(n.Uplinks) == 0 && !n.Adopt {
			return true
		}
	}
	return false
}

// longDelay is the forward delay, in hundredths of a second, from which a DHCP
// client's patience is at stake.
const longDelay = 400

func findSTP(f *Facts) []Finding {
	var found []Finding
	for _, key := range f.keys() {
		l, ok := f.State[key].(host.Link)
		if !ok || l.Type != host.TypeBridge || !l.STP || l.ForwardDelay < longDelay || !f.hasGuests(l.Name) {
			continue
		}
		if n := f.Document.Networks[spec.NetworkName(f.networkOn(l.Name))]; n.STP && l.ForwardDelay == longDelay {
			continue // as short as can be, and asked for
		}
		quick := l
		quick.STP, quick.ForwardDelay = false, 0
		found = append(found, Finding{
			About: Subject{Link: l.Name, Network: f.networkOn(l.Name)},
			Seen:  fmt.Sprintf("bridge %s has STP on and a forward delay of %.0f s", l.Name, float64(l.ForwardDelay)/100),
			Fix: Fix{
				Command: noSpanningTree(l.Name),
				Undo:    fmt.Sprintf("ip link set %s type bridge stp_state 1 forward_delay %d", l.Name, l.ForwardDelay),
				Turns:   []Turn{{l, quick}},
			},
		})
	}
	return found
}

// noSpanningTree is the command that turns it off; with both in one the kernel refuses a
// delay of 0. Ports that wait already go on waiting until they are told, as doctor does.
func noSpanningTree(bridge string) string {
	return fmt.Sprintf("ip link set %s type bridge stp_state 0 && ip link set %s type bridge forward_delay 0", bridge, bridge)
}

// hasGuests says whether a bridge is a network's, or has taps on it.
func (f *Facts) hasGuests(bridge string) bool {
	if f.networkOn(bridge) != "" {
		return true
	}
	return slices.ContainsFunc(f.keys(), func(k host.Key) bool {
		l, ok := f.State[k].(host.Link)
		return ok && l.Master == bridge && l.Type == host.TypeTap
	})
}

func (f *Facts) networkOn(link string) spec.NetworkName {
	for name, n := range f.Document.Networks {
		if n.GuestLink() == link {
			return name
		}
	}
	return ""
}

func findMTU(f *Facts) []Finding {
	running := map[string]spec.Network{}
	for _, n := range f.running() {
		running[n.Bridge] = n
	}
	var found []Finding
	for _, key := range f.keys() {
		l, ok := f.State[key].(host.Link)
		n, ours := running[l.Master]
		b, there := f.link(n.Bridge)
		if !ok || !ours || !there || l.MTU == b.MTU {
			continue
		}
		same := l
		same.MTU = b.MTU
		x := Finding{
			About: Subject{Network: n.Name, Link: l.Name}, Seen: fmt.Sprintf("port %s has MTU %d, bridge %s has %d", l.Name, l.MTU, n.Bridge, b.MTU),
			Fix: Fix{
				Command: fmt.Sprintf("ip link set %s mtu %d", l.Name, b.MTU), Undo: fmt.Sprintf("ip link set %s mtu %d", l.Name, l.MTU),
				Turns: []Turn{{l, same}},
			},
		}
		if slices.Contains(n.Uplinks, l.Name) {
			x.Fix = Fix{Advice: fmt.Sprintf("set the MTU of network %s to that of the LAN: drawbridge network set %s mtu=%d", n.Name, n.Name, l.MTU)}
		}
		found = append(found, x)
	}
	return found
}

// maxPorts is BR_MAX_PORTS without the one that is never given out
// (net/bridge/br_private.h); manyPorts nine tenths of it.
const maxPorts, manyPorts = 1023, 921

func findFullBridge(f *Facts) []Finding {
	ports := map[string]int{}
	for _, r := range f.State {
		if l, ok := r.(host.Link); ok && l.Master != "" {
			ports[l.Master]++
		}
	}
	var found []Finding
	for _, n := range f.running() {
		if c := ports[n.Bridge]; c >= manyPorts {
			found = append(found, Finding{
				About: Subject{Network: n.Name}, Seen: fmt.Sprintf("bridge %s has %d of %d ports", n.Bridge, c, maxPorts),
				Fix: Fix{Command: "drawbridge network create " + string(n.Name) + "2 --mode " + string(n.Mode)},
			})
		}
	}
	return found
}

func findLibvirt(f *Facts) []Finding {
	var found []Finding
	for _, l := range f.Libvirt {
		if !l.Active && !l.Autostart || l.Mode == "bridge" {
			continue
		}
		for _, n := range f.running() {
			what := ""
			if l.Bridge != "" && l.Bridge == n.Bridge {
				what = "the bridge " + l.Bridge
			}
			for _, a := range l.Subnets {
				for _, b := range n.Subnets {
					if a.Masked().Overlaps(b.Prefix) {
						what = "the subnet " + a.Masked().String()
					}
				}
			}
			if what == "" {
				continue
			}
			state := "active"
			if !l.Active {
				state = "not active, but starts with the next boot"
			}
			found = append(found, Finding{
				About: Subject{Network: n.Name}, Seen: fmt.Sprintf("libvirt's network %s (%s) has %s, as network %s has", l.Name, state, what, n.Name),
				Fix: Fix{
					Command: fmt.Sprintf("virsh net-destroy %s; virsh net-autostart --disable %s", l.Name, l.Name),
					Undo:    fmt.Sprintf("virsh net-autostart %s; virsh net-start %s", l.Name, l.Name),
				},
			})
		}
	}
	return found
}

// protocolRA is RTPROT_RA: the kernel made the route of a router advertisement.
const protocolRA = 9

func findRA(f *Facts) []Finding {
	if f.Sysctls["net/ipv6/conf/all/forwarding"] != "1" {
		return nil
	}
	var found []Finding
	for _, key := range f.keys() {
		r, ok := f.State[key].(host.Route)
		if !ok || !r.Dst.Addr().Is6() || r.Dst.Bits() != 0 || r.Protocol != protocolRA {
			continue
		}
		path := "net/ipv6/conf/" + r.Link + "/accept_ra"
		if f.Sysctls[path] == "1" {
			found = append(found, Finding{About: Subject{Link: r.Link}, Seen: fmt.Sprintf("%s is 1, forwarding is on, and the IPv6 default route over %s comes from router advertisements", path, r.Link), Fix: f.sysctlFix(path, "2")})
		}
	}
	return found
}

func findReversePath(f *Facts) []Finding {
	forwards := false
	for _, n := range f.routed() {
		forwards = forwards || n.Forwards.Len() > 0
	}
	best, others := f.defaultLinks()
	if !forwards || best == "" {
		return nil
	}
	var found []Finding
	for _, link := range others {
		path := "net/ipv4/conf/" + link + "/rp_filter"
		// The kernel takes the larger of the two (ip-sysctl.rst, rp_filter).
		if max(f.Sysctls["net/ipv4/conf/all/rp_filter"], f.Sysctls[path]) == "1" {
			found = append(found, Finding{
				About: Subject{Link: link}, Seen: fmt.Sprintf("rp_filter of %s is strict (1) and the default route leads over %s", link, best), Fix: f.sysctlFix(path, "2"),
			})
		}
	}
	return found
}

// defaultLinks are the link of the best IPv4 default route of the main table,
// and those of the worse ones.
func (f *Facts) defaultLinks() (best string, others []string) {
	metric := 0
	for _, key := range f.keys() {
		r, ok := f.State[key].(host.Route)
		if !ok || r.Table != host.MainTable || r.Dst.Bits() != 0 || !r.Dst.Addr().Is4() || r.Link == "" {
			continue
		}
		switch {
		case best == "" || r.Metric < metric:
			if best != "" {
				others = append(others, best)
			}
			best, metric = r.Link, r.Metric
		case r.Link != best:
			others = append(others, r.Link)
		}
	}
	return best, others
}
