package render

import (
	"net/netip"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// services says what a mode offers on a switch of our own.
type services struct {
	// routed: the host is the guests' router.
	routed bool
	// forwardDNS: names that are not ours are asked of the host's upstream servers.
	forwardDNS bool
}

// switchAndServices asks for the switch of a network, the host's addresses on
// it, and the services for its guests: what all modes with a switch of their
// own have in common.
func switchAndServices(w *host.Wish, n spec.Network, f Facts, s services) {
	w.Present.Add(host.Link{
		Name: n.Bridge, Type: host.TypeBridge, MAC: n.MAC, MTU: n.EffectiveMTU(), Up: true,
		Alias: aliasOf(n),
	})
	if f.HandsOff {
		w.Present.Add(host.Unmanaged{Links: n.Bridge})
	}
	_, six := n.Subnet6()
	if f.KernelIPv6 {
		w.Present.Add(
			host.LinkSysctl("ipv6", n.Bridge, "disable_ipv6", zeroOne(!six)),
			host.LinkSysctl("ipv6", n.Bridge, "accept_ra", "0"),
			host.LinkSysctl("ipv6", n.Bridge, "autoconf", "0"),
		)
	}
	for _, subnet := range n.Subnets {
		w.Present.Add(host.Address{Link: n.Bridge, Addr: gateway(subnet), NoDAD: subnet.Gateway.Is6()})
	}
	w.Present.Add(
		element(routed, setBridges, n.Bridge, ""),
		element(routed, setWithin, n.Bridge+" . "+n.Bridge, ""),
	)
	guestServices(w, n, f, s)
}

// aliasOf is the mark by which a bridge of ours is known, beside its hardware address.
func aliasOf(n spec.Network) string { return "drawbridge network " + string(n.Name) }

// Usurped says whether something else stands under the name of the bridge that was made
// for a network. A bridge of ours whose mark somebody took away still has its hardware
// address, and the other way round.
func Usurped(n spec.Network, seen host.State) bool {
	l, there := seen[host.LinkKey(n.Bridge)].(host.Link)
	return there && n.MAC != "" && l.Alias != aliasOf(n) && l.MAC != n.MAC
}

func guestServices(w *host.Wish, n spec.Network, f Facts, s services) {
	if len(n.Subnets) == 0 {
		return
	}
	zone := host.Zone{Bridge: n.Bridge, Network: string(n.Name), Domain: n.Domain, Forward: s.forwardDNS}
	if four, ok := n.Subnet4(); ok {
		zone.Addr4 = gateway(four)
		pool := host.Pool{
			Bridge: n.Bridge, Network: string(n.Name), Server: gateway(four),
			First: four.Range.First, Last: four.Range.Last, LeaseSeconds: uint32(four.LeaseSeconds),
			DNS: four.Gateway, Domain: n.Domain,
		}
		if s.routed {
			pool.Router = four.Gateway
		}
		if n.EffectiveMTU() != spec.DefaultMTU {
			pool.MTU = n.EffectiveMTU()
		}
		w.Present.Add(pool)
	}
	if six, ok := n.Subnet6(); ok {
		zone.Addr6 = gateway(six)
		w.Present.Add(host.Router{
			Bridge: n.Bridge, Server: gateway(six), Default: s.routed, DNS: six.Gateway,
			Domain: n.Domain, MTU: n.EffectiveMTU(),
		})
	}
	w.Present.Add(zone)
	for _, r := range n.Reservations {
		w.Present.Add(host.Reservation{Bridge: n.Bridge, MAC: r.MAC, Addr: r.Addr, Hostname: r.Hostname})
	}
	if f.Resolved && n.Domain != "" {
		server := zone.Addr4
		if !server.IsValid() {
			server = zone.Addr6
		}
		w.Present.Add(host.Resolver{Link: n.Bridge, Server: server.Addr(), Domain: n.Domain, Reverse: strings.Join(reverseZones(n.Subnets), " ")})
	}
}

// forwarding asks for what lets the host route for a network. Turning IPv6
// forwarding on makes the kernel ignore router advertisements on links with
// accept_ra=1, so links that the host's own IPv6 hangs on get 2 first
// (Documentation/networking/ip-sysctl.rst, accept_ra).
func forwarding(w *host.Wish, n spec.Network, f Facts) []Note {
	if _, four := n.Subnet4(); four {
		w.Present.Add(host.Sysctl{Path: "net/ipv4/ip_forward", Value: "1"})
	}
	if _, six := n.Subnet6(); !six || !f.KernelIPv6 {
		return nil
	}
	w.Present.Add(host.Sysctl{Path: "net/ipv6/conf/all/forwarding", Value: "1"})
	var notes []Note
	for _, link := range f.linksThatNeedRA() {
		w.Present.Add(host.LinkSysctl("ipv6", link, "accept_ra", "2"))
		notes = append(notes, Note("accept_ra of "+link+" is 2, so that the host keeps its own IPv6 while it forwards for guests"))
	}
	return notes
}

func gateway(s spec.Subnet) netip.Prefix { return netip.PrefixFrom(s.Gateway, s.Prefix.Bits()) }

func zeroOne(on bool) string {
	if on {
		return "1"
	}
	return "0"
}
