package render

import (
	"fmt"
	"slices"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// joinable refuses, in one line each, what could not work or could not be taken
// back. Nothing has been touched then.
func (m bridged) joinable(n spec.Network, f Facts) error {
	bad := func(field, format string, args ...any) error {
		return &spec.InvalidError{Field: field, Reason: fmt.Sprintf(format, args...)}
	}
	br, exists := f.Seen[host.LinkKey(n.Bridge)].(host.Link)
	switch {
	case n.Adopt && !exists:
		return bad("adopt", "there is no bridge %s", n.Bridge)
	case n.Adopt && br.Type != host.TypeBridge:
		return bad("adopt", "%s is no bridge", n.Bridge)
	case n.Adopt:
		for _, u := range n.Uplinks {
			if l, ok := f.Seen[host.LinkKey(u)].(host.Link); !ok || l.Master != n.Bridge {
				return bad("uplink", "%s is not a port of %s; an adopted bridge is used as it is", u, n.Bridge)
			}
		}
		return nil
	case exists && br.Type == host.TypeBridge:
		return bad("bridge", "%s is there already and was not made by drawbridge; --adopt %s uses it as it is, --bridge names another", n.Bridge, n.Bridge)
	case exists:
		return bad("bridge", "%s is there already and is no bridge; --bridge names another", n.Bridge)
	}
	if len(n.Uplinks) > 1 && !n.STP {
		return bad("uplink", "%s in one bridge are a loop if they lead to the same LAN, and frames would go round for ever; --stp has the bridge keep one of them open, and a bond, named as the only uplink, uses all", strings.Join(n.Uplinks, " and "))
	}
	for i, u := range n.Uplinks {
		if why := m.unusable(u, f); why != "" {
			return bad("uplink", "%s", why)
		}
		if a := f.hostAddresses(u); i > 0 && len(a) > 0 {
			return bad("uplink", "%s has the address %s; the host has addresses on %s too, and what only one of them has can move to the bridge; take it away from one", u, a[0].Addr, n.Uplinks[0])
		}
		if i > 0 && f.MTUOf(u) < f.MTUOf(n.Uplinks[0]) {
			return bad("uplink", "%s has an MTU of %d, less than the bridge's %d; large frames would be lost", u, f.MTUOf(u), f.MTUOf(n.Uplinks[0]))
		}
	}
	return nil
}

// MTUOf is the MTU of a link in bytes, 0 if it is not there.
func (f Facts) MTUOf(link string) int {
	l, _ := f.Seen[host.LinkKey(link)].(host.Link)
	return l.MTU
}

// noPort are link types that cannot be ports of a bridge, and why.
var noPort = map[string]string{
	host.TypeBridge: "is a bridge itself; --adopt uses it",
	"ipvlan":        "shares the hardware address of the NIC below it and cannot be a port; name that one",
	"macvlan":       "takes frames for its own address only and cannot be a port; name the NIC below it",
	"macvtap":       "takes frames for its own address only and cannot be a port; name the NIC below it",
	"wireguard":     "is a tunnel for IP packets and carries no Ethernet frames",
	"vrf":           "is a routing table, no NIC",
}

// unusable says why a link cannot be an uplink; "" if it can.
func (bridged) unusable(name string, f Facts) string {
	l, there := f.Seen[host.LinkKey(name)].(host.Link)
	facts, _ := f.Seen[host.NICKey(name)].(host.NIC)
	switch {
	case !there:
		return f.missing(name)
	case noPort[l.Type] != "":
		return name + " " + noPort[l.Type]
	case noEthernet(l):
		return name + " carries no Ethernet frames and cannot be a port of a bridge"
	case facts.Wireless:
		return name + " is a Wi-Fi station: an access point takes frames from its own address only, so guests behind it would reach nobody; use a NAT network, or a cable"
	case facts.Root != "":
		return fmt.Sprintf("the root filesystem comes over %s (%s): if the move went wrong, the machine would stand still before it could be taken back; use another NIC", name, facts.Root)
	case !l.Up:
		return fmt.Sprintf("%s is down; bring it up first: ip link set %s up", name, name)
	case !facts.Carrier:
		return name + " has no carrier: no cable, or nobody at its other end"
	}
	if l.Master != "" {
		if why := f.heldBy(l); why != "" {
			return why
		}
	}
	return f.standingOn(name)
}

func noEthernet(l host.Link) bool { return l.MAC == "" || l.MAC == "00:00:00:00:00:00" }

func (f Facts) missing(name string) string {
	return fmt.Sprintf("there is no interface %q; there are %s", name, strings.Join(f.candidates(), ", "))
}

// candidates are links that could be meant.
func (f Facts) candidates() []string {
	var names []string
	for _, k := range f.Seen.Keys() {
		l, ok := f.Seen[k].(host.Link)
		if ok && l.Name != "lo" && noPort[l.Type] == "" && l.Type != host.TypeTap && l.MAC != "" {
			names = append(names, l.Name)
		}
	}
	if len(names) == 0 {
		return []string{"none"}
	}
	return names
}

// heldBy says why a NIC cannot be taken out of what it is in now. Out of a switch
// of our own it can: nobody puts a NIC there but by mistake.
func (f Facts) heldBy(l host.Link) string {
	master, _ := f.Seen[host.LinkKey(l.Master)].(host.Link)
	if master.Type != host.TypeBridge {
		return fmt.Sprintf("%s belongs to %s (%s); name %s as the uplink", l.Name, l.Master, master.Type, l.Master)
	}
	if name, ok := f.onLAN[l.Master]; ok {
		return fmt.Sprintf("%s is a port of %s, the bridge of network %q; guests can be plugged in there", l.Name, l.Master, name)
	}
	if f.ours[l.Master] {
		return ""
	}
	var others []string
	for _, k := range f.Seen.Keys() {
		if o, ok := f.Seen[k].(host.Link); ok && o.Master == l.Master && o.Name != l.Name {
			others = append(others, o.Name)
		}
	}
	if len(others) > 0 {
		return fmt.Sprintf("%s is a port of %s, which was not made by drawbridge and has other ports (%s); --adopt %s uses it as it is", l.Name, l.Master, strings.Join(others, ", "), l.Master)
	}
	if a := f.hostAddresses(l.Master); len(a) > 0 {
		return fmt.Sprintf("%s is a port of %s, over which the host has the address %s; --adopt %s uses it as it is", l.Name, l.Master, a[0].Addr, l.Master)
	}
	return ""
}

// standingOn names links on top of a NIC that keep it from being a port: a
// macvlan takes all frames before a bridge could (netdev_rx_handler_register
// allows one taker). VLANs take theirs before either, and stay.
func (f Facts) standingOn(name string) string {
	for _, k := range f.Seen.Keys() {
		l, ok := f.Seen[k].(host.Link)
		if ok && l.Lower == name && slices.Contains([]string{"macvlan", "macvtap", "ipvlan", "ipvtap"}, l.Type) {
			return fmt.Sprintf("%s (%s) stands on %s, and both cannot be: delete it first", l.Name, l.Type, name)
		}
	}
	return ""
}
