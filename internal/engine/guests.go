package engine

import (
	"context"
	"iter"
	"math"
	"net/netip"
	"slices"
	"strings"

	"drawbridge/internal/render"
	"drawbridge/internal/spec"
)

// guests is who is known on the networks at one moment: what forwards need in
// order to follow their guest.
type guests struct {
	e   *Engine
	ctx context.Context
	doc spec.Document
	// neighbours are read when they are first needed.
	neighbours []Neighbour
	asked      bool
}

// guests looks anew; the caller holds e.mu.
func (e *Engine) guests(ctx context.Context, doc spec.Document) *guests {
	return &guests{e: e, ctx: ctx, doc: doc}
}

// macs finds the hardware addresses of a guest on a network: of the name that
// its port has, else a reservation, else its DHCP client.
func (g *guests) macs(n spec.Network, guest string) []string {
	if strings.Contains(guest, ":") {
		return []string{guest}
	}
	var macs []string
	for _, p := range g.e.live {
		if p.Guest == guest && p.Network == string(n.Name) && p.MAC != "" {
			macs = append(macs, p.MAC)
		}
	}
	if len(macs) > 0 {
		slices.Sort(macs)
		return macs
	}
	for _, r := range n.Reservations {
		if strings.EqualFold(r.Hostname, guest) {
			return []string{r.MAC}
		}
	}
	for _, l := range g.e.leases {
		if l.Network == n.Name && strings.EqualFold(l.Hostname, guest) {
			macs = append(macs, l.MAC)
		}
	}
	slices.Sort(macs)
	return macs
}

// addr is the address that a guest uses on a network just now: leased, else
// reserved, else seen by the host in its neighbour table.
func (g *guests) addr(n spec.Network, guest string, six bool) (netip.Addr, bool) {
	macs := g.macs(n, guest)
	for _, mac := range macs {
		if l, ok := g.e.leases[leaseKey{n.Name, mac}]; ok && !six && fits(n, l) {
			if a, err := netip.ParseAddr(l.Address); err == nil {
				return a, true
			}
		}
	}
	for _, mac := range macs {
		for _, r := range n.Reservations {
			if r.MAC == mac && r.Addr.Is6() == six {
				return r.Addr, true
			}
		}
	}
	if len(macs) == 0 {
		return netip.Addr{}, false
	}
	subnet, ok := n.Subnet4()
	if six {
		subnet, ok = n.Subnet6()
	}
	if !ok {
		return netip.Addr{}, false
	}
	for _, seen := range g.seen() {
		if seen.Link == n.Bridge && slices.Contains(macs, seen.MAC) && subnet.Prefix.Contains(seen.Addr) {
			return seen.Addr, true
		}
	}
	return netip.Addr{}, false
}

// addrs are the addresses that the host saw a guest use on a network.
func (g *guests) addrs(n spec.Network, mac string) []string {
	var addrs []string
	for _, seen := range g.seen() {
		if mac != "" && seen.Link == n.Bridge && seen.MAC == mac {
			addrs = append(addrs, seen.Addr.String())
		}
	}
	return addrs
}

func (g *guests) seen() []Neighbour {
	if !g.asked {
		g.asked = true
		// Without the table a guest that only it knows waits, as it does while
		// it is silent; the next look asks again.
		g.neighbours, _ = g.e.Taps.Neighbours(g.ctx)
		slices.SortFunc(g.neighbours, func(a, b Neighbour) int { return a.Addr.Compare(b.Addr) })
	}
	return g.neighbours
}

// homes are the networks that a guest is known on.
func (g *guests) homes(guest string) []spec.NetworkName {
	var homes []spec.NetworkName
	for _, name := range g.doc.Names() {
		n := g.doc.Networks[name]
		if strings.Contains(guest, ":") {
			if g.hasMAC(n, guest) {
				homes = append(homes, name)
			}
		} else if len(g.macs(n, guest)) > 0 {
			homes = append(homes, name)
		}
	}
	return homes
}

// known are the names of all guests that a forward could lead to.
func (g *guests) known() []string {
	var names []string
	for _, p := range g.e.live {
		names = append(names, p.Guest)
	}
	for _, l := range g.e.leases {
		names = append(names, l.Hostname)
	}
	for _, n := range g.doc.Networks {
		for _, r := range n.Reservations {
			names = append(names, r.Hostname)
		}
	}
	return names
}

func (g *guests) hasMAC(n spec.Network, mac string) bool {
	for _, p := range g.e.live {
		if p.MAC == mac && p.Network == string(n.Name) {
			return true
		}
	}
	if _, ok := g.e.leases[leaseKey{n.Name, mac}]; ok {
		return true
	}
	return slices.ContainsFunc(n.Reservations, func(r spec.Reservation) bool { return r.MAC == mac })
}

// targets finds the address of every guest that the given forwards name.
func (g *guests) targets(into map[render.Target]netip.Addr, n spec.Network, list iter.Seq[spec.Forward]) {
	for f := range list {
		t, ask := render.TargetOf(n.Name, f)
		if !ask {
			continue
		}
		if _, done := into[t]; done {
			continue
		}
		a, _ := g.addr(n, f.Target, t.Six)
		into[t] = a
	}
}

// leaseKey is the guest that has a lease.
type leaseKey struct {
	network spec.NetworkName
	mac     string
}

// LeaseChanged tells that a guest got, renewed or lost a lease (live is false).
// Forwards follow it at once.
func (e *Engine) LeaseChanged(ctx context.Context, l Lease, live bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	key := leaseKey{l.Network, l.MAC}
	old, had := e.leases[key]
	if live {
		e.leases[key] = l
	} else if had && old.Address == l.Address {
		delete(e.leases, key)
	}
	if had && live && old.Address == l.Address && old.Hostname == l.Hostname {
		return
	}
	e.follow(ctx, l.Network, l.MAC, l.Hostname, old.Hostname)
}

// SyncLeases reads all leases anew: at start, and whenever changes may have
// been missed.
func (e *Engine) SyncLeases(ctx context.Context) error {
	list, err := e.Services.Leases(ctx)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.takeLeases(list)
	for name, n := range e.Store.Document().Networks {
		e.followAll(ctx, name, n.Forwards.List())
	}
	return nil
}

func (e *Engine) takeLeases(list []Lease) {
	doc := e.Store.Document()
	e.leases = make(map[leaseKey]Lease, len(list))
	for _, l := range list {
		key := leaseKey{l.Network, l.MAC}
		// A guest has several where it came by another client id, or from an earlier subnet.
		if other, there := e.leases[key]; there {
			n := doc.Networks[l.Network]
			if here, before := fits(n, l), fits(n, other); before && !here || before == here && lasts(other) > lasts(l) {
				continue
			}
		}
		e.leases[key] = l
	}
}

// lasts is when a lease ends, in seconds since 1970.
func lasts(l Lease) int64 {
	if l.Expires == 0 {
		return math.MaxInt64
	}
	return l.Expires
}
