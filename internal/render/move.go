package render

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// join asks for the move of the uplinks into a new bridge. Everything that the
// first one has is given to the bridge as it is; plan knows the order in which
// no packet is lost.
func (m bridged) join(w *host.Wish, n spec.Network, f Facts) ([]Note, error) {
	if err := m.joinable(n, f); err != nil {
		return nil, err
	}
	m.profiles(w, n, f)
	nic := f.Seen[host.LinkKey(n.Uplinks[0])].(host.Link)
	br := host.Link{
		Name: n.Bridge, Type: host.TypeBridge, MAC: nic.MAC, MTU: nic.MTU, Up: true, STP: n.STP,
		Alias: aliasOf(n),
	}
	if n.STP {
		// The least that IEEE 802.1D allows: 4 s. Without spanning tree the kernel
		// takes 0, and a port forwards at once.
		br.ForwardDelay = 400
	}
	w.Given.Add(br)
	notes := []Note{m.whatMoves(n, f)}
	f.moveAll(w.Given, nic.Name, n.Bridge)
	f.copyParameters(w.Given, nic.Name, n.Bridge)
	for _, u := range n.Uplinks {
		l := f.Seen[host.LinkKey(u)].(host.Link)
		if l.Master != "" {
			notes = append(notes, Note(fmt.Sprintf("%s is taken out of bridge %s", u, l.Master)))
		}
		l.Master, l.Up, l.Isolated, l.Hairpin, l.VLANs = n.Bridge, true, false, false, ""
		w.Given.Add(l)
		notes = append(notes, f.cloudNote(u)...)
	}
	links := host.NewState(br)
	for _, u := range n.Uplinks {
		links.Add(w.Given[host.LinkKey(u)])
	}
	said, err := f.tellApart(n, links)
	maps.Copy(w.Given, links)
	return append(notes, said...), err
}

// cloudNote warns where the network knows the machine by its address.
func (f Facts) cloudNote(nic string) []Note {
	facts, ok := f.Seen[host.NICKey(nic)].(host.NIC)
	if !ok || facts.Cloud == "" {
		return nil
	}
	return []Note{Note(fmt.Sprintf("this machine runs at %s, whose network drops frames from hardware addresses that it did not give out: guests would reach nobody; a NAT network works there", facts.Cloud))}
}

func (bridged) whatMoves(n spec.Network, f Facts) Note {
	nic := n.Uplinks[0]
	var addrs []string
	for _, a := range f.hostAddresses(nic) {
		addrs = append(addrs, a.Addr.String())
	}
	routes := 0
	for _, r := range f.Seen {
		if r, ok := r.(host.Route); ok && r.Protocol != protocolKernel && usesLink(r, nic) {
			routes++
		}
	}
	if len(addrs) == 0 {
		return Note(fmt.Sprintf("%s becomes a port of %s; the host has no addresses on it", nic, n.Bridge))
	}
	switch routes {
	case 0:
	case 1:
		addrs = append(addrs, "1 route")
	default:
		addrs = append(addrs, fmt.Sprintf("%d routes", routes))
	}
	return Note(fmt.Sprintf("%s becomes a port of %s; %s go to %s, with the same hardware address", nic, n.Bridge, strings.Join(addrs, ", "), n.Bridge))
}

// Leave asks for the way back: what the bridge has *now* goes to the NIC, which
// may be more or less than what came from there.
func (bridged) Leave(n spec.Network, f Facts) (host.Wish, []Note, error) {
	w := host.NewWish()
	br, there := f.Seen[host.LinkKey(n.Bridge)].(host.Link)
	if n.Adopt || !there || br.Type != host.TypeBridge || len(n.Uplinks) == 0 {
		return w, nil, nil
	}
	nic, ok := f.Seen[host.LinkKey(n.Uplinks[0])].(host.Link)
	if !ok {
		if len(f.hostAddresses(n.Bridge)) == 0 {
			w.Given[br.Key()] = nil
			return w, nil, nil
		}
		return w, nil, &spec.InvalidError{Field: "uplink", Reason: fmt.Sprintf("%s is not there, and what %s has would have nowhere to go; plug it in again, or move the addresses away by hand", n.Uplinks[0], n.Bridge)}
	}
	f.moveAll(w.Given, n.Bridge, nic.Name)
	for _, u := range n.Uplinks {
		if l, ok := f.Seen[host.LinkKey(u)].(host.Link); ok && l.Master == n.Bridge {
			l.Master, l.Isolated, l.Hairpin, l.Up, l.VLANs = "", false, false, true, ""
			w.Given.Add(l)
		}
	}
	w.Given[br.Key()] = nil
	return w, []Note{Note(fmt.Sprintf("%s gets back what %s has, and %s is deleted", nic.Name, n.Bridge, n.Bridge))}, nil
}

// moveAll gives all that one link has to another: addresses, routes in every
// table, and policy rules that name it.
func (f Facts) moveAll(given host.State, from, to string) {
	for _, a := range f.hostAddresses(from) {
		given[a.Key()] = nil
		a.Link = to
		if rest, ok := strings.CutPrefix(a.Label, from); ok {
			a.Label = shorten(to+rest, spec.MaxInterfaceName)
		}
		given.Add(a)
	}
	ownLinkLocal := f.keepsLinkLocal(from)
	for _, r := range f.Seen {
		switch r := r.(type) {
		case host.Route:
			if r.FollowsAddress() || !usesLink(r, from) || ownLinkLocal && isLinkLocalNet(r) {
				continue
			}
			given[r.Key()] = nil
			if r.Link == from {
				r.Link = to
			}
			r.Hops = renameHops(r.Hops, from, to)
			given.Add(r)
		case host.Rule:
			if r.Iif != from && r.Oif != from {
				continue
			}
			given[r.Key()] = nil
			if r.Iif == from {
				r.Iif = to
			}
			if r.Oif == from {
				r.Oif = to
			}
			given.Add(r)
		}
	}
}

func shorten(s string, most int) string { return s[:min(len(s), most)] }

// Numbers of linux/rtnetlink.h and linux/if_addr.h.
const (
	protocolKernel = 2 // RTPROT_KERNEL
	addrLinkLocal  = 3 // IFAPROT_KERNEL_LL
)

func usesLink(r host.Route, link string) bool {
	return r.Link == link || slices.Contains(strings.Fields(r.Hops), link)
}

func renameHops(hops, from, to string) string {
	words := strings.Split(hops, " ")
	for i := 1; i < len(words); i++ {
		name, end := strings.CutSuffix(words[i], ";")
		if words[i-1] == "dev" && name == from {
			words[i] = to
			if end {
				words[i] += ";"
			}
		}
	}
	return strings.Join(words, " ")
}

var linkLocalNet = netip.MustParsePrefix("fe80::/64")

func isLinkLocalNet(r host.Route) bool {
	return r.Dst == linkLocalNet && r.Protocol == protocolKernel && !r.Gateway.IsValid()
}

// keepsLinkLocal says whether the kernel's own link-local address is on the
// link; it stays there, as every port of a bridge has one, and so does its route.
func (f Facts) keepsLinkLocal(link string) bool {
	l, _ := f.Seen[host.LinkKey(link)].(host.Link)
	for _, r := range f.Seen {
		if a, ok := r.(host.Address); ok && a.Link == link && ofKernel(a, l.MAC) {
			return true
		}
	}
	return false
}

// ofKernel says whether the kernel gives an address to a link by itself. Before
// 5.18 it does not say so, but forms it of the MAC (RFC 4291, appendix A).
func ofKernel(a host.Address, mac string) bool {
	if !a.Addr.Addr().Is6() || !a.Addr.Addr().IsLinkLocalUnicast() {
		return false
	}
	return a.Proto == addrLinkLocal || a.Addr.Addr() == eui64(mac)
}

func eui64(mac string) netip.Addr {
	var m [6]byte
	parts := strings.Split(mac, ":")
	if len(parts) != len(m) {
		return netip.Addr{}
	}
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 16, 8)
		if err != nil {
			return netip.Addr{}
		}
		m[i] = byte(v)
	}
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]})
}

// copyParameters gives the bridge the NIC's parameters where they are not what
// every new link gets.
func (f Facts) copyParameters(given host.State, from, to string) {
	for _, family := range []string{"ipv4", "ipv6"} {
		for _, p := range linkParameters[family] {
			is, ok1 := f.Seen[host.LinkSysctl(family, from, p, "").Key()].(host.Sysctl)
			usual, ok2 := f.Seen[host.LinkSysctl(family, "default", p, "").Key()].(host.Sysctl)
			if ok1 && ok2 && is.Value != usual.Value {
				given.Add(host.LinkSysctl(family, to, p, is.Value))
			}
		}
	}
}
