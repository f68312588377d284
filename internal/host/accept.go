package host

import "net/netip"

// Way is one kind of packet that guests need to pass another program's firewall.
type Way string

// The ways. Each opens for one bridge what its guests cannot do without, and
// nothing of the host or of others.
const (
	// WayOut: what guests send on, with an address of their subnet.
	WayOut Way = "out"
	// WayBack: answers to guests (connections established or related).
	WayBack Way = "back"
	// WayDoors: what comes to guests by a forward (translated destinations).
	WayDoors Way = "forwards"
	// WayWithin: what ports of the bridge send each other, where br_netfilter
	// shows it to the routing hooks.
	WayWithin Way = "within"
	// WayDHCP, WayDNS and WayDNSStream (TCP): questions to the host's services.
	WayDHCP      Way = "dhcp"
	WayDNS       Way = "dns"
	WayDNSStream Way = "dns-tcp"
	// WayOffer and WayName: the answers to these.
	WayOffer Way = "dhcp-answers"
	WayName  Way = "dns-answers"
	// IPv6 address configuration (RFC 4861): router and neighbour solicitations and
	// neighbour advertisements from guests, then what the host says.
	WaySolicit Way = "router-solicit"
	WayLook    Way = "neighbour-solicit"
	WayFound   Way = "neighbour-advert"
	WayAdvert  Way = "host-router-advert"
	WayAsk     Way = "host-neighbour-solicit"
	WayTell    Way = "host-neighbour-advert"
)

// Accept is a rule of ours at the head of a chain of another program's firewall,
// by which one way is open for the guests of one bridge. To accept in our own
// table would not help: every base chain at a hook has to accept.
type Accept struct {
	// Table and Chain are the other program's. The family may be ip, ip6 or inet.
	Table Table
	Chain string
	// Bridge whose guests are meant.
	Bridge string
	Way    Way
	// Subnet that the guests' addresses are in; invalid where the way is not about
	// addresses.
	Subnet netip.Prefix `json:",omitzero"`
}

// Key is the chain, the bridge, the way and the subnet's family.
func (a Accept) Key() Key {
	name := a.Table.String() + " " + a.Chain + " " + a.Bridge + " " + string(a.Way)
	if a.Subnet.IsValid() {
		name += " " + a.Subnet.String()
	}
	return Key{KindAccept, name}
}

// Needs nothing: what a rule matches need not be there.
func (a Accept) Needs() []Key { return nil }
func (Accept) resource()      {}

// InZone has a bridge of ours in a zone of firewalld, now and when it starts or reloads.
// It is the exception for a firewalld that lets nobody else put rules into its table.
type InZone struct {
	Bridge string
	// Zone is OurZone; "" is seen where the bridge is in it only by half: by what
	// firewalld says and not by its files, or the other way round.
	Zone string
}

// OurZone is the zone that comes with drawbridge's files for firewalld: its links may
// ask the host for addresses and names, and send on what they like.
const OurZone = "drawbridge"

// Key is the bridge: it can be in one zone only.
func (z InZone) Key() Key { return Key{KindInZone, z.Bridge} }

// Needs nothing: firewalld knows links by their names.
func (InZone) Needs() []Key { return nil }
func (InZone) resource()    {}

// Excepted is the bridge for whose guests a resource is an exception in another
// program's firewall; "" if it is none.
func Excepted(r Resource) string {
	switch r := r.(type) {
	case Accept:
		return r.Bridge
	case InZone:
		return r.Bridge
	}
	return ""
}

// IsException says whether a kind is one of exceptions in other programs' firewalls.
func IsException(k Kind) bool { return k == KindAccept || k == KindInZone }
