package render

import (
	"net/netip"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// Facts is all that rendering may know of the host.
type Facts struct {
	// Seen is what is on the host, foreign things included.
	Seen host.State
	// Seed makes made-up values (MAC, UUID, ULA) differ from host to host and
	// stay the same on one.
	Seed string
	// KernelIPv6 is false where the kernel has IPv6 switched off altogether.
	KernelIPv6 bool
	// Resolved is true where systemd-resolved answers for the host.
	Resolved bool
	// Targets are the addresses of the guests that forwards name; a guest that
	// has none yet is missing.
	Targets map[Target]netip.Addr
	// Moving are the networks that a person asked to start or change just now:
	// only for them are the host's own links moved. Leaving are those that end.
	Moving  map[spec.NetworkName]bool
	Leaving []spec.Network
	// Manager is the host's own network manager, as host.Profile names it; "" if
	// nobody looked.
	Manager string
	// HandsOff is true where the host's own network managers can be told which links
	// are none of theirs.
	HandsOff bool
	// Had is the document before the change; the same where nobody asked for one.
	Had spec.Document
	// PortTags are the VLANs of those guests' ports that have some of their own.
	PortTags map[spec.NetworkName][]spec.Tags
	// Now is the time in seconds since 1970, for what ends by itself.
	Now int64

	// ours are the bridges of the document.
	ours map[string]bool
	// onLAN are the networks of the document whose bridge leads to the LAN, by that.
	onLAN map[string]spec.NetworkName
}

// hasIPv6 says whether the host itself has an IPv6 address beyond its links,
// on a link other than the given bridges.
func (f Facts) hasIPv6(ours map[string]bool) bool {
	for _, r := range f.Seen {
		a, ok := r.(host.Address)
		if ok && !ours[a.Link] && a.Addr.Addr().Is6() && a.Addr.Addr().IsGlobalUnicast() {
			return true
		}
	}
	return false
}

// collision finds what already uses part of a prefix: a route in any table or
// an address, on a link other than except. It returns "" if the prefix is free.
func (f Facts) collision(p netip.Prefix, except string) string {
	for _, key := range f.Seen.Keys() {
		switch r := f.Seen[key].(type) {
		case host.Route:
			if r.Link != except && !isDefault(r.Dst) && r.Dst.Overlaps(p) && !linkLocal(r.Dst) {
				return "route " + describe(r)
			}
		case host.Address:
			if r.Link != except && r.Addr.Masked().Overlaps(p) && !linkLocal(r.Addr) {
				return "address " + r.Addr.String() + " on " + r.Link
			}
		}
	}
	return ""
}

// isDefault takes the halves by which VPNs cover the default route (0/1 and
// 128/1) for what they mean.
func isDefault(p netip.Prefix) bool { return p.Bits() <= 1 }

func linkLocal(p netip.Prefix) bool {
	return p.Addr().IsLinkLocalUnicast() || p.Addr().IsMulticast()
}

func describe(r host.Route) string {
	var b strings.Builder
	b.WriteString(r.Dst.String())
	if r.Gateway.IsValid() {
		b.WriteString(" via " + r.Gateway.String())
	}
	if r.Link != "" {
		b.WriteString(" on " + r.Link)
	}
	return b.String()
}

// protocolRA is RTPROT_RA of linux/rtnetlink.h: the kernel made the route from
// a router advertisement.
const protocolRA = 9

// linksThatNeedRA lists the links over which the host learnt its IPv6 default
// route by router advertisement.
func (f Facts) linksThatNeedRA() []string {
	var links []string
	for _, key := range f.Seen.Keys() {
		r, ok := f.Seen[key].(host.Route)
		if ok && r.Dst.Addr().Is6() && r.Dst.Bits() == 0 && r.Protocol == protocolRA && r.Link != "" {
			links = append(links, r.Link)
		}
	}
	return links
}
