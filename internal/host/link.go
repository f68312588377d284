package host

import (
	"net/netip"
	"strconv"
)

// The link types that we make, as the kernel names them (IFLA_INFO_KIND); a
// link of any other type keeps the kernel's word, a plain NIC has "".
const (
	TypeBridge = "bridge"
	TypeTap    = "tun"
	TypeVeth   = "veth"
)

// Link is a network interface. Every field is managed: a wanted link says all
// of them, an observed one shows all of them.
type Link struct {
	Name string
	Type string
	// MAC in lower case with colons; "" for links that have none.
	MAC string
	// MTU in bytes.
	MTU int
	// Up is the administrative state (IFF_UP), not the carrier.
	Up bool
	// Master is the bridge that the link is a port of, or "".
	Master string
	// STP and ForwardDelay (hundredths of a second) are a bridge's, else zero.
	STP          bool
	ForwardDelay uint32
	// Isolated and Hairpin are a bridge port's flags, else false
	// (IFLA_BRPORT_ISOLATED, IFLA_BRPORT_MODE).
	Isolated bool
	Hairpin  bool
	// Alias is the text that `ip link` shows as alias; it names the network.
	Alias string
}

// Key is the interface's name.
func (l Link) Key() Key { return LinkKey(l.Name) }

// Needs is the bridge that the link is plugged into.
func (l Link) Needs() []Key {
	if l.Master == "" {
		return nil
	}
	return []Key{LinkKey(l.Master)}
}
func (Link) resource() {}

// LinkKey is the key of the interface of that name.
func LinkKey(name string) Key { return Key{KindLink, name} }

// Address is an IP address on a link.
type Address struct {
	Link string
	// Addr is the address with its prefix length; host bits are kept.
	Addr netip.Prefix
	// NoDAD asks for no duplicate address detection (IFA_F_NODAD): an address
	// of a bridge of our own has nobody to collide with, and must be usable at
	// once. False for IPv4.
	NoDAD bool
	// Dynamic addresses came with a lifetime, from DHCP or RA, and are never
	// ours to make.
	Dynamic bool
}

// Key is the link and the address.
func (a Address) Key() Key { return Key{KindAddress, a.Link + " " + a.Addr.String()} }

// Needs is the link.
func (a Address) Needs() []Key { return []Key{LinkKey(a.Link)} }
func (Address) resource()      {}

// MainTable and LocalTable are RT_TABLE_MAIN and RT_TABLE_LOCAL.
const (
	MainTable  = 254
	LocalTable = 255
)

// Route is one entry of a routing table, as far as networks need to see it.
type Route struct {
	// Dst is the destination, ::/0 or 0.0.0.0/0 for a default route.
	Dst netip.Prefix
	// Gateway is the next hop; invalid if the destination is on the link.
	Gateway netip.Addr
	// Link is the outgoing interface; "" for blackholes and multipath routes.
	Link   string
	Table  int
	Metric int
	// Protocol is who made the route (RTPROT_*: 2 kernel, 3 boot, 4 static, 16 dhcp).
	Protocol int
	// Type is RTN_*: 1 unicast, 2 local, 3 broadcast, 6 blackhole.
	Type int
}

// Key is what makes a route one of its own to the kernel.
func (r Route) Key() Key {
	name := r.Dst.String() + " table " + strconv.Itoa(r.Table) + " metric " + strconv.Itoa(r.Metric)
	if r.Gateway.IsValid() {
		name += " via " + r.Gateway.String()
	}
	if r.Link != "" {
		name += " dev " + r.Link
	}
	return Key{KindRoute, name + " type " + strconv.Itoa(r.Type)}
}

// Needs is the outgoing link.
func (r Route) Needs() []Key {
	if r.Link == "" {
		return nil
	}
	return []Key{LinkKey(r.Link)}
}
func (Route) resource() {}

// Sysctl is one kernel parameter. Path has slashes, so that interface names
// with dots are no trouble: net/ipv4/ip_forward.
type Sysctl struct {
	Path  string
	Value string
	// Link is the interface that the parameter belongs to, or "".
	Link string
}

// Key is the path.
func (s Sysctl) Key() Key { return SysctlKey(s.Path) }

// Needs is the link that the parameter belongs to.
func (s Sysctl) Needs() []Key {
	if s.Link == "" {
		return nil
	}
	return []Key{LinkKey(s.Link)}
}
func (Sysctl) resource() {}

// SysctlKey is the key of the parameter at that path.
func SysctlKey(path string) Key { return Key{KindSysctl, path} }

// LinkSysctl is a parameter of one interface, e.g. ("ipv6", "virbr0",
// "accept_ra", "0") for net/ipv6/conf/virbr0/accept_ra.
func LinkSysctl(family, link, name, value string) Sysctl {
	return Sysctl{Path: "net/" + family + "/conf/" + link + "/" + name, Value: value, Link: link}
}
