package render

import (
	"fmt"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// direct has guests share a NIC of the host's that is not touched: each has a
// macvtap on it, with an address of its own. Nothing is on the host but these, and
// they come and go with the guests.
type direct struct{}

func (direct) Name() spec.ModeName { return "direct" }

func (direct) Summary() string {
	return "guests share a NIC of the host's by macvtap, which is not touched: everybody on the LAN reaches them but the host itself"
}

// directCaveat is the line that everyone misses. The kernel gives what the host
// sends by the NIC to the cable, and not to the macvtaps beside it.
const directCaveat = "the host and guests of a direct network cannot talk to each other, whatever the firewall says; guests that need the host take a second NIC on another network"

// Remarks are what to know about a network whenever one looks at it, one line each.
func Remarks(n spec.Network) []Note {
	if IsDirect(n) {
		return []Note{directCaveat}
	}
	return nil
}

// Chains is empty: nothing passes the host's rules.
func (direct) Chains() []chain { return nil }

func (direct) Settle(n spec.Network, d spec.Document, f Facts) spec.Network {
	if len(n.Uplinks) > 0 && n.MTU == 0 {
		if mtu := f.MTUOf(n.Uplinks[0]); mtu != 0 && mtu != spec.DefaultMTU {
			n.MTU = mtu
		}
	}
	n.IPv6 = spec.IPv6Off
	settleNames(&n, d.Revision, f)
	return n
}

func (direct) Validate(n spec.Network) error {
	bad := func(field, format string, args ...any) error {
		return &spec.InvalidError{Field: field, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case len(n.Uplinks) != 1:
		return bad("uplink", "a direct network has one NIC that guests share, such as --uplink eth0")
	case n.Bridge != "" || n.Adopt:
		return bad("bridge", "a direct network has no bridge; guests of mode bridged are on one")
	case n.STP:
		return bad("stp", "a direct network has no bridge that could speak the spanning tree protocol")
	case !n.Tags.IsZero():
		return bad("vlan", "a NIC is shared as it is; make a VLAN interface on %s and name that as the uplink", n.Uplinks[0])
	case len(n.Subnets) > 0:
		return bad("subnet", "%s: guests of a direct network have the LAN's addresses, which the LAN gives out", n.Subnets[0].Prefix)
	case len(n.Reservations) > 0:
		return bad("reservation", "addresses on a direct network are given out by the LAN")
	case n.Forwards.Len() > 0:
		return bad("forward", "guests of a direct network are reached directly")
	}
	return nil
}

func (direct) Asks(n spec.Network, seen host.State) []host.Key {
	var keys []host.Key
	for _, u := range n.Uplinks {
		keys = append(keys, host.NICKey(u))
	}
	return keys
}

func (m direct) Render(n spec.Network, f Facts) (host.Wish, []Note, error) {
	w := host.NewWish()
	nic, there := f.Seen[host.LinkKey(n.Uplinks[0])].(host.Link)
	var notes []Note
	if f.Moving[n.Name] {
		if why := m.unusable(n.Uplinks[0], f); why != "" {
			return w, nil, &spec.InvalidError{Field: "uplink", Reason: why}
		}
		notes = append(notes, directCaveat)
		notes = append(notes, f.cloudNote(n.Uplinks[0])...)
	}
	if there {
		w.Given[nic.Key()] = nic // as it is; the guests' macvtaps stand on it
	}
	return w, notes, nil
}

// unusable says why guests cannot share a NIC; "" if they can.
func (direct) unusable(name string, f Facts) string {
	l, there := f.Seen[host.LinkKey(name)].(host.Link)
	facts, _ := f.Seen[host.NICKey(name)].(host.NIC)
	switch {
	case !there:
		return f.missing(name)
	case l.Type == host.TypeBridge:
		return name + " is a bridge; guests are plugged into it by mode bridged, with --adopt " + name
	case noPort[l.Type] != "":
		return name + " " + noPort[l.Type]
	case noEthernet(l):
		return name + " carries no Ethernet frames and cannot be shared"
	case facts.Wireless:
		return name + " is a Wi-Fi station: an access point takes frames from its own address only, so guests that share it would reach nobody; use a NAT network, or a cable"
	case !l.Up:
		return fmt.Sprintf("%s is down; bring it up first: ip link set %s up", name, name)
	case !facts.Carrier:
		return name + " has no carrier: no cable, or nobody at its other end"
	case l.Master != "":
		return fmt.Sprintf("%s belongs to %s, which takes its frames first; name that as the uplink, of mode bridged if it is a bridge", name, l.Master)
	}
	return ""
}

// Leave has nothing to give back.
func (direct) Leave(spec.Network, Facts) (host.Wish, []Note, error) {
	return host.NewWish(), nil, nil
}

func (direct) Trouble(n spec.Network, seen host.State) string {
	nic, there := seen[host.LinkKey(n.Uplinks[0])].(host.Link)
	switch {
	case !there:
		return fmt.Sprintf("NIC %s is not there; guests that shared it have lost theirs, and have to be started again once it is back", n.Uplinks[0])
	case !nic.Up:
		return fmt.Sprintf("NIC %s is down", n.Uplinks[0])
	case nic.Master != "":
		return fmt.Sprintf("NIC %s belongs to %s now, which takes its frames first", n.Uplinks[0], nic.Master)
	}
	return ""
}
