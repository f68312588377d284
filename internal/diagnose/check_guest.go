package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// guestChecks are about guests' NICs and addresses.
func guestChecks() []Check {
	return []Check{
		{
			"port-off-bridge", Fault, "A guest's tap is not on its bridge", "The guest has a cable that is plugged in nowhere.",
			"Plug it in again; keep the host's network manager from taking it off (see manager-grabs).", findOffBridge,
		},
		{
			"port-down", Fault, "A guest's tap is set down", "The guest sees no carrier.",
			"Set it up.", findDown,
		},
		{
			"duplicate-mac", Fault, "Two guests have the same hardware address", "Frames go to the one that spoke last: both lose connections.",
			"Give one of them another hardware address; QEMU's default is the same for all.", findDuplicateMAC,
		},
		{
			"duplicate-address", Fault, "Two machines use the same address", "Which of them answers changes by the minute.",
			"Let one of them use DHCP, or reserve the address and take it out of the other.", findDuplicateAddress,
		},
		{
			"no-address", Warning, "A guest has no address", "The guest runs, and never asked for an address or never got one.",
			"Look at the guest's own network configuration, and at findings about DHCP here.", findNoAddress,
		},
		{
			"reservation-outside", Warning, "A reserved address is in none of the network's subnets", "The guest gets an address that leads nowhere, or none.",
			"Reserve an address of the subnet.", findOutside,
		},
		{
			"pool-full", Warning, "Nearly all addresses of a DHCP range are given away", "The next guests get none.",
			"Make the range larger, or the lease time shorter.", findFullPool,
		},
		{
			"rogue-server", Remark, "A guest plays DHCP server or router", "It is kept from doing harm on its own network: those frames are dropped and counted.",
			"Find the guest (its DHCP server or router is on by mistake, or it is hostile) and turn that off.", findRogue,
		},
		{
			"manager-grabs", Warning, "The host's network manager is about to take guests' ports", "With its next reload, taps lose their bridge or the bridge its addresses.",
			"Tell the manager to leave them alone.", findGrabbers,
		},
		{
			"forward-waits", Remark, "A forward leads nowhere", "Nobody answers on the port until the guest has an address.",
			"Start the guest, or correct its name.", findWaiting,
		},
	}
}

func findOffBridge(f *Facts) []Finding {
	var found []Finding
	for _, p := range f.Ports {
		l, ok := f.link(p.Tap)
		if !p.Ours || !ok || l.On() == p.Bridge || l.Type == host.TypeMacvtap {
			continue // a macvtap stands on its NIC for as long as it is there
		}
		if _, there := f.link(p.Bridge); !there {
			continue // that is the network's drift
		}
		where := "on no bridge"
		if l.Master != "" {
			where = "on " + l.Master
		}
		back := l
		back.Master = p.Bridge
		found = append(found, Finding{
			About: p.subject(), Seen: fmt.Sprintf("tap %s of guest %s is %s and not on %s", p.Tap, p.Guest, where, p.Bridge),
			Fix: Fix{Command: fmt.Sprintf("ip link set %s master %s", p.Tap, p.Bridge), Undo: fmt.Sprintf("ip link set %s nomaster", p.Tap), Turns: []Turn{{l, back}}},
		})
	}
	return found
}

func (p Port) subject() Subject { return Subject{Network: p.Network, Guest: p.Guest, Link: p.Tap} }

func findDown(f *Facts) []Finding {
	var found []Finding
	for _, p := range f.Ports {
		l, ok := f.link(p.Tap)
		if !ok || l.Up {
			continue
		}
		up := l
		up.Up = true
		found = append(found, Finding{
			About: p.subject(), Seen: fmt.Sprintf("tap %s of guest %s is down", p.Tap, p.Guest),
			Fix: Fix{Command: "ip link set " + p.Tap + " up", Undo: "ip link set " + p.Tap + " down", Turns: []Turn{{l, up}}},
		})
	}
	return found
}

func findDuplicateMAC(f *Facts) []Finding {
	type place struct{ bridge, mac string }
	taps := map[place][]string{}
	var order []place
	add := func(bridge, mac, tap string) {
		at := place{bridge, mac}
		if mac == "" || slices.Contains(taps[at], tap) {
			return
		}
		if taps[at] == nil {
			order = append(order, at)
		}
		taps[at] = append(taps[at], tap)
	}
	for _, p := range f.Ports {
		add(p.Bridge, p.MAC, p.Tap)
		for _, mac := range f.Learned[p.Tap] {
			add(p.Bridge, mac, p.Tap)
		}
	}
	var found []Finding
	for _, at := range order {
		if len(taps[at]) > 1 {
			found = append(found, Finding{
				About: Subject{Network: f.networkOn(at.bridge)}, Seen: fmt.Sprintf("%s is behind %s of bridge %s", at.mac, strings.Join(taps[at], " and "), at.bridge),
				Fix: Fix{Advice: "start one of the guests with another address: -device virtio-net-pci,mac=52:54:00:…"},
			})
		}
		if b, ok := f.link(at.bridge); ok && b.MAC == at.mac && f.ourBridge(at.bridge) {
			found = append(found, Finding{
				About: Subject{Network: f.networkOn(at.bridge)}, Seen: fmt.Sprintf("%s behind %s is the address of bridge %s itself", at.mac, taps[at][0], at.bridge),
				Fix: Fix{Advice: "start the guest with another address"},
			})
		}
	}
	return found
}

func findDuplicateAddress(f *Facts) []Finding {
	type place struct {
		link string
		addr netip.Addr
	}
	owner := map[place]string{}
	for _, n := range f.running() {
		for _, s := range n.Subnets {
			owner[place{n.Bridge, s.Gateway}] = "the host"
		}
	}
	for _, l := range f.Leases {
		if n, ok := f.Document.Networks[l.Network]; ok && (l.Expires == 0 || l.Expires > f.Now) {
			owner[place{n.Bridge, l.Addr}] = l.MAC
		}
	}
	var found []Finding
	for _, x := range f.Neighbours {
		who, ok := owner[place{x.Link, x.Addr}]
		if !ok || who == x.MAC {
			continue
		}
		found = append(found, Finding{
			About: Subject{Network: f.networkOn(x.Link)}, Seen: fmt.Sprintf("%s on %s belongs to %s and is used by %s", x.Addr, x.Link, who, x.MAC),
			Fix: Fix{Advice: fmt.Sprintf("find the guest with: drawbridge port ls; to keep the address for it: drawbridge reservation add %s %s %s", f.networkOn(x.Link), x.MAC, x.Addr)},
		})
	}
	return found
}

// patience is how long, in seconds, a guest may be without an address before that
// is told: what a slow machine needs to boot.
const patience = 120

func findNoAddress(f *Facts) []Finding {
	var found []Finding
	for _, p := range f.Ports {
		n, ok := f.Document.Networks[p.Network]
		if !ok || !n.Started || len(n.Subnets) == 0 || len(p.Addresses) > 0 || p.PID == 0 || p.MAC == "" || p.Since == 0 || f.Now-p.Since < patience {
			continue
		}
		found = append(found, Finding{
			About: p.subject(), Seen: fmt.Sprintf("guest %s (%s, tap %s) is plugged in for %d minutes and has no address", p.Guest, p.MAC, p.Tap, (f.Now-p.Since)/60),
			Fix: Fix{Advice: "in the guest: ip address; dhclient or networkctl renew"},
		})
	}
	return found
}

func findOutside(f *Facts) []Finding {
	var found []Finding
	for _, name := range f.Document.Names() {
		n := f.Document.Networks[name]
		if len(n.Subnets) == 0 {
			continue
		}
		for _, r := range n.Reservations {
			if slices.ContainsFunc(n.Subnets, func(s spec.Subnet) bool { return s.Prefix.Contains(r.Addr) }) {
				continue
			}
			x := Finding{
				About: Subject{Network: name}, Seen: fmt.Sprintf("%s is reserved for %s and is in no subnet of network %s", r.Addr, r.MAC, name),
				Fix: Fix{
					Command: fmt.Sprintf("drawbridge reservation rm %s %s", name, r.MAC), Undo: fmt.Sprintf("drawbridge reservation add %s %s %s", name, r.MAC, r.Addr),
				},
			}
			x.Fix.Edit.Unreserve.Network, x.Fix.Edit.Unreserve.MAC = name, r.MAC
			found = append(found, x)
		}
	}
	return found
}

func findFullPool(f *Facts) []Finding {
	var found []Finding
	for _, n := range f.running() {
		four, ok := n.Subnet4()
		if !ok || four.Range.IsZero() {
			continue
		}
		size, used := sizeOf(four.Range), 0
		for _, l := range f.Leases {
			if l.Network == n.Name && four.Range.Contains(l.Addr) && (l.Expires == 0 || l.Expires > f.Now) {
				used++
			}
		}
		if used*10 < size*9 {
			continue
		}
		found = append(found, Finding{
			About: Subject{Network: n.Name}, Seen: fmt.Sprintf("%d of %d addresses of %s are given away", used, size, four.Range),
			Fix: Fix{Advice: fmt.Sprintf("drawbridge export > host.yaml, enlarge the range or shorten the lease time of %s, drawbridge apply -f host.yaml", n.Name)},
		})
	}
	return found
}

func sizeOf(r spec.Range) int {
	n := func(a netip.Addr) int {
		b := a.As4()
		return int(b[0])<<24 | int(b[1])<<16 | int(b[2])<<8 | int(b[3])
	}
	return n(r.Last) - n(r.First) + 1
}

func findGrabbers(f *Facts) []Finding {
	var found []Finding
	for _, g := range f.Grabbers {
		found = append(found, Finding{Seen: fmt.Sprintf("%s would take %s: %s", g.Manager, strings.Join(g.Links, ", "), g.Why), Fix: Fix{Command: g.Fix}})
	}
	return found
}

func findWaiting(f *Facts) []Finding {
	var found []Finding
	for _, n := range f.routed() {
		for fwd := range n.Forwards.All() {
			if _, fixed := fwd.TargetAddr(); fixed || f.knowsGuest(n, fwd.Target) {
				continue
			}
			found = append(found, Finding{
				About: Subject{Network: n.Name}, Seen: fmt.Sprintf("forward %s leads to guest %q, which is not on network %s", fwd.Key(), fwd.Target, n.Name),
				Fix: Fix{Command: "drawbridge forward rm " + fwd.Key()},
			})
		}
	}
	return found
}

func (f *Facts) knowsGuest(n spec.Network, name string) bool {
	for _, p := range f.Ports {
		if p.Network == n.Name && (strings.EqualFold(p.Guest, name) || p.MAC == name) {
			return true
		}
	}
	for _, r := range n.Reservations {
		if strings.EqualFold(r.Hostname, name) || r.MAC == name {
			return true
		}
	}
	return slices.ContainsFunc(f.Leases, func(l Lease) bool {
		return l.Network == n.Name && (strings.EqualFold(l.Hostname, name) || l.MAC == name)
	})
}
