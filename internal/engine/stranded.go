package engine

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// fits says whether a lease is for an address that the network still has. One of
// an earlier subnet is kept in the lease file, since the change may be undone, but
// leads nowhere.
func fits(n spec.Network, l Lease) bool {
	four, ok := n.Subnet4()
	a, err := netip.ParseAddr(l.Address)
	return ok && err == nil && four.Prefix.Contains(a)
}

// elsewhere tells of guests that get a reserved address while they have another: they
// keep that one until they ask DHCP again.
func (e *Engine) elsewhere(had, want spec.Document) []string {
	var notes []string
	for _, name := range want.Names() {
		old, now := had.Networks[name], want.Networks[name]
		if slices.Equal(old.Reservations, now.Reservations) {
			continue
		}
		for _, r := range now.Reservations {
			l, leased := e.leases[leaseKey{name, r.MAC}]
			if !leased || !fits(now, l) || l.Address == r.Addr.String() || !r.Addr.Is4() || slices.Contains(old.Reservations, r) {
				continue
			}
			four, _ := now.Subnet4()
			notes = append(notes, fmt.Sprintf("%s keeps %s until it asks DHCP again: at once when it is started anew, else within %s",
				nameOr(r.Hostname, nameOr(l.Hostname, r.MAC)), l.Address, time.Duration(four.LeaseSeconds)*time.Second/2))
		}
	}
	return notes
}

// stranded names the guests that a change leaves with an address that their running
// network no longer has, or with a gateway that is no more: they stay plugged in, but
// reach nobody until they ask DHCP again.
func (e *Engine) stranded(ctx context.Context, had, want spec.Document, seen host.State) (names []string, note string) {
	who := e.guests(ctx, had)
	for _, name := range had.Names() {
		old, now := had.Networks[name], want.Networks[name]
		before, was := old.Subnet4()
		after, is := now.Subnet4()
		if !was || !old.Started || !now.Started || before.Prefix == after.Prefix && before.Gateway == after.Gateway {
			continue
		}
		gone := func(text string) bool {
			a, err := netip.ParseAddr(text)
			return err == nil && before.Prefix.Contains(a) && (before.Gateway != after.Gateway || !after.Prefix.Contains(a))
		}
		for _, p := range e.portsOn(ctx, old, seen) {
			l := e.leases[leaseKey{name, p.MAC}]
			if gone(l.Address) || slices.ContainsFunc(who.addrs(old, p.MAC), gone) {
				names = append(names, nameOr(p.Guest, nameOr(l.Hostname, p.Tap)))
			}
		}
		if is && len(names) > 0 {
			half := time.Duration(before.LeaseSeconds) * time.Second / 2
			note = fmt.Sprintf("guests get addresses in %s when they ask DHCP again: at once when they are started anew, else within %s", after.Prefix, half)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), note
}
