package engine

import (
	"net/netip"
	"slices"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/render"
	"drawbridge/internal/spec"
)

// Heard is an address that the guest on a port was heard to use.
type Heard struct {
	Tap, MAC string
	Addr     netip.Addr
}

// wishSnoops asks to listen to the guests of networks where others give out the
// addresses, to all that are plugged in, and for the zone in which those of ours
// have their names. It claims, for this plan only, what there is of that already.
func (e *Engine) wishSnoops(wish *host.Wish, ledger host.Ledger, doc spec.Document, seen host.State) {
	for k, r := range seen {
		if ofSnoops(r) {
			ledger[k] = host.Claim{Kind: host.Made}
		}
	}
	networks := map[string]spec.Network{}
	for _, n := range doc.Networks {
		if n.Started && render.Open(n) {
			networks[n.GuestLink()] = n
		}
	}
	if len(networks) == 0 {
		return
	}
	for _, k := range seen.Keys() {
		l, ok := seen[k].(host.Link)
		n, open := networks[l.On()]
		if !ok || l.On() == "" || !open || render.IsUplink(n, l) {
			continue
		}
		mac := e.live[l.Name].MAC
		if l.Type == host.TypeMacvtap {
			mac = l.MAC // it is the guest's own NIC
		}
		wish.Present.Add(host.Snoop{Bridge: l.On(), Tap: l.Name, MAC: mac})
		if n.Domain != "" {
			wish.Present.Add(host.Zone{Bridge: l.On(), Network: string(n.Name), Domain: n.Domain, Forward: true})
			resolveAlso(wish.Present, n.Domain)
		}
	}
	for k, r := range wish.Present {
		if ofSnoops(r) {
			ledger[k] = host.Claim{Kind: host.Made}
		}
	}
}

// resolveAlso has the host ask for a domain where it asks for that of another
// network: on the LAN's own link its resolver is the LAN's. Without another network
// that answers the host, the host asks nobody.
func resolveAlso(wanted host.State, domain string) {
	for _, k := range wanted.Keys() {
		r, ok := wanted[k].(host.Resolver)
		if z, _ := wanted[host.Key{Kind: host.KindZone, Name: k.Name}].(host.Zone); !ok || !z.Forward {
			continue
		}
		zones := append(strings.Fields(r.Reverse), domain)
		slices.Sort(zones)
		r.Reverse = strings.Join(slices.Compact(zones), " ")
		wanted[k] = r
		return
	}
}

// ofSnoops says whether a thing is there for guests that are listened to.
func ofSnoops(r host.Resource) bool {
	switch r := r.(type) {
	case host.Snoop:
		return true
	case host.Zone:
		return !r.Addr4.IsValid() && !r.Addr6.IsValid()
	}
	return false
}

// disownSnoops takes out of a ledger what is not stored: it lives as long as the
// process that listens.
func disownSnoops(ledger host.Ledger, wish host.Wish, seen host.State) {
	for k := range ledger {
		if ofSnoops(wish.Present[k]) || ofSnoops(seen[k]) {
			delete(ledger, k)
		}
	}
}

// addHeard adds the addresses that guests were heard to use: those of the port's own
// hardware address, or of whoever speaks there where that is not known.
func addHeard(ports []Port, heard []Heard) {
	if len(heard) == 0 {
		return
	}
	on := map[string][]Heard{}
	for _, h := range heard {
		on[h.Tap] = append(on[h.Tap], h)
	}
	for i, p := range ports {
		for _, h := range on[p.Tap] {
			a := h.Addr.String()
			if (p.MAC == "" || p.MAC == h.MAC) && !slices.Contains(ports[i].Addresses, a) {
				ports[i].Addresses = append(ports[i].Addresses, a)
			}
		}
		// IPv4 first, as everywhere.
		slices.SortStableFunc(ports[i].Addresses, func(a, b string) int {
			x, _ := netip.ParseAddr(a)
			y, _ := netip.ParseAddr(b)
			return x.BitLen() - y.BitLen()
		})
	}
}
