package host

import "net/netip"

// Pool is the DHCPv4 service of one bridge.
type Pool struct {
	Bridge  string
	Network string
	// Server is the host's address on the bridge with the subnet's length; it
	// is the server identifier (RFC 2131, option 54).
	Server netip.Prefix
	// First and Last bound what is given away; both invalid if only reserved
	// addresses are.
	First, Last  netip.Addr
	LeaseSeconds uint32
	// Router and DNS are options 3 and 6; invalid means the option is not sent.
	Router, DNS netip.Addr
	// Domain is option 15, MTU option 26; zero means not sent.
	Domain string
	MTU    int
}

// Key is the bridge.
func (p Pool) Key() Key { return Key{KindPool, p.Bridge} }

// Needs is the address that the service answers from.
func (p Pool) Needs() []Key { return []Key{Address{Link: p.Bridge, Addr: p.Server}.Key()} }
func (Pool) resource()      {}

// Reservation ties an address and a name to a hardware address on a bridge.
// The address may be of either family; only IPv4 ones are given by DHCP.
type Reservation struct {
	Bridge   string
	MAC      string
	Addr     netip.Addr
	Hostname string
}

// Key is the bridge and the hardware address.
func (r Reservation) Key() Key { return Key{KindReservation, r.Bridge + " " + r.MAC} }

// Needs is the bridge: a reservation without a pool still names a guest.
func (r Reservation) Needs() []Key { return []Key{LinkKey(r.Bridge)} }
func (Reservation) resource()      {}

// Router is the router advertisement service of one bridge (RFC 4861, 8106).
type Router struct {
	Bridge string
	// Server is the host's address on the bridge with the length of the prefix
	// that guests configure themselves from.
	Server netip.Prefix
	// Default says whether guests shall use the host as their default router.
	Default bool
	// DNS is the RDNSS option's server, invalid for none; Domain the DNSSL's.
	DNS    netip.Addr
	Domain string
	// MTU is the MTU option; 0 for none.
	MTU int
}

// Key is the bridge.
func (r Router) Key() Key { return Key{KindRouter, r.Bridge} }

// Needs is the address that guests will route to.
func (r Router) Needs() []Key { return []Key{Address{Link: r.Bridge, Addr: r.Server}.Key()} }
func (Router) resource()      {}

// Zone is the DNS service of one bridge.
type Zone struct {
	Bridge  string
	Network string
	// Domain is answered with authority; "" for none.
	Domain string
	// Addr4 and Addr6 are the host's addresses with their subnets: the service
	// listens there and answers the reverse zones of the subnets.
	Addr4, Addr6 netip.Prefix
	// Forward says whether other names are asked of the host's upstream servers.
	Forward bool
}

// Key is the bridge.
func (z Zone) Key() Key { return Key{KindZone, z.Bridge} }

// Needs are the addresses that the service listens on.
func (z Zone) Needs() []Key {
	var needs []Key
	for _, a := range []netip.Prefix{z.Addr4, z.Addr6} {
		if a.IsValid() {
			needs = append(needs, Address{Link: z.Bridge, Addr: a}.Key())
		}
	}
	return needs
}
func (Zone) resource() {}

// Guest names the guest behind a hardware address on a bridge, as its port
// does. In DNS it goes before reservations and before what DHCP clients say.
type Guest struct {
	Bridge string
	MAC    string
	Name   string
}

// Key is the bridge and the hardware address.
func (g Guest) Key() Key { return Key{KindGuest, g.Bridge + " " + g.MAC} }

// Needs is the bridge.
func (g Guest) Needs() []Key { return []Key{LinkKey(g.Bridge)} }
func (Guest) resource()      {}

// Snoop is listening to what the guest on a port says of its own addresses (ARP,
// neighbour discovery, DHCP), on a network where others give them out.
type Snoop struct {
	// Bridge is what the port stands on; see Link.On.
	Bridge, Tap string
	// MAC is the hardware address of the port's guest; "" if it is not known, and then
	// its name is not given to any address.
	MAC string
}

// Key is the bridge and the tap.
func (s Snoop) Key() Key { return Key{KindSnoop, s.Bridge + " " + s.Tap} }

// Needs is the tap.
func (s Snoop) Needs() []Key { return []Key{LinkKey(s.Tap)} }
func (Snoop) resource()      {}

// Resolver is the entry of one link in the host's own resolver (systemd-resolved),
// by which the host itself resolves the names of guests.
type Resolver struct {
	Link   string
	Server netip.Addr
	Domain string
	// Reverse are the zones in which the subnets' addresses have their names, and the
	// domains of other networks that the server answers for, in order and separated by
	// blanks: "122.168.192.in-addr.arpa lan.internal".
	Reverse string
}

// Key is the link.
func (r Resolver) Key() Key { return Key{KindResolver, r.Link} }

// Needs is the DNS service that is asked.
func (r Resolver) Needs() []Key { return []Key{{KindZone, r.Link}} }
func (Resolver) resource()      {}
