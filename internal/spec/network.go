package spec

import (
	"net/netip"
	"slices"
)

// NetworkName names a network: 1 to 63 of a-z, 0-9 and '-', beginning with a
// letter or digit, so that it can be a DNS label (RFC 1123).
type NetworkName string

// ModeName is the word that chooses what a network does with its traffic: nat,
// isolated and so on. Which words exist is known to package render alone.
type ModeName string

// IPv6Wish says whether a network without an IPv6 subnet shall be given one:
// IPv6Auto, IPv6Off, or the prefix that it shall be.
type IPv6Wish string

// The two words of an IPv6Wish.
const (
	// IPv6Auto asks for a unique local /64 (RFC 4193) if the host has IPv6.
	IPv6Auto IPv6Wish = "auto"
	// IPv6Off asks for no IPv6 on the network.
	IPv6Off IPv6Wish = "off"
)

// Prefix is the prefix that is wished for; false for a word.
func (w IPv6Wish) Prefix() (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(string(w))
	return p, err == nil && p.Addr().Is6()
}

// Limits of the kernel and of the protocols.
const (
	// MaxInterfaceName is IFNAMSIZ-1 (linux/if.h).
	MaxInterfaceName = 15
	// MinMTU is the least that IPv4 needs (RFC 791); with an IPv6 subnet the
	// least is MinMTU6 (RFC 8200, section 5).
	MinMTU  = 68
	MinMTU6 = 1280
	// MaxMTU is the largest that a Linux bridge takes (ETH_MAX_MTU).
	MaxMTU = 65535
	// DefaultMTU is Ethernet's.
	DefaultMTU = 1500
	// DefaultLeaseSeconds is how long a guest may keep an address unasked.
	DefaultLeaseSeconds = 3600
)

// Network is one wanted network. Fields that may be left open by a person are
// settled once, when the network is created, and then stored: Bridge, MAC,
// UUID and Subnets never change by themselves afterwards.
type Network struct {
	Name NetworkName
	// UUID identifies the network across renames (RFC 9562, lower case).
	UUID string
	Mode ModeName
	// Bridge is the interface name of the network's switch; "" until settled.
	Bridge string
	// MAC is the bridge's own hardware address, 52:54:00:…; "" until settled.
	MAC string
	// MTU in bytes; 0 means DefaultMTU.
	MTU int
	// Subnets in the order given; at most one for each family is served by
	// DHCP or router advertisements.
	Subnets []Subnet
	// IPv6 is looked at only while no IPv6 subnet is there.
	IPv6 IPv6Wish
	// Domain is the DNS domain of the guests, without a trailing dot; "" until
	// settled.
	Domain string
	// Uplinks are the host's own links that become ports of the bridge. The first
	// gives the bridge its MAC, MTU, addresses and routes.
	Uplinks []string
	// Adopt: the bridge is the host's own; it is used as it is, never made, changed
	// or deleted.
	Adopt bool
	// STP: the bridge speaks the spanning tree protocol (IEEE 802.1D).
	STP bool
	// Tags are the VLANs of guests whose port says nothing else.
	Tags Tags
	// AllowUsers names the local users that may attach ports of their own.
	AllowUsers []string
	// Reservations in the order of their addresses.
	Reservations []Reservation
	Forwards     Forwards
	// Autostart: Started becomes true at each boot of the host.
	Autostart bool
	// Started: the network shall run now.
	Started bool
}

// Subnet is one prefix of a network. The host has Gateway in it.
type Subnet struct {
	// Prefix is masked: its host bits are zero.
	Prefix netip.Prefix
	// Gateway is the host's own address in the prefix.
	Gateway netip.Addr
	// Range is what DHCP gives away, IPv4 only; the zero value means that no
	// addresses are given away other than reserved ones.
	Range Range
	// LeaseSeconds is the lease time, 120 to 31 536 000 (a year).
	LeaseSeconds int
}

// Range is an inclusive run of addresses of one family.
type Range struct{ First, Last netip.Addr }

// IsZero says whether the range is unset.
func (r Range) IsZero() bool { return !r.First.IsValid() && !r.Last.IsValid() }

// Contains says whether a lies in the range, both ends included.
func (r Range) Contains(a netip.Addr) bool {
	return !r.IsZero() && r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0
}

// String writes the range as people type it, A-B.
func (r Range) String() string {
	if r.IsZero() {
		return ""
	}
	return r.First.String() + "-" + r.Last.String()
}

// Reservation ties an address, and if wanted a name, to a hardware address.
type Reservation struct {
	// MAC in lower case with colons.
	MAC  string
	Addr netip.Addr
	// Hostname is a single DNS label, or "".
	Hostname string
}

// Clone returns a copy that shares no slice with n.
func (n Network) Clone() Network {
	n.Subnets = slices.Clone(n.Subnets)
	n.AllowUsers = slices.Clone(n.AllowUsers)
	n.Uplinks = slices.Clone(n.Uplinks)
	n.Reservations = slices.Clone(n.Reservations)
	return n
}

// GuestLink is the link that guests' ports stand on: the network's bridge or, where
// there is none, the NIC that they share. "" until settled.
func (n Network) GuestLink() string {
	if n.Bridge == "" && len(n.Uplinks) > 0 {
		return n.Uplinks[0]
	}
	return n.Bridge
}

// Equal compares by value; an empty list equals a missing one.
func (n Network) Equal(o Network) bool {
	return n.Name == o.Name && n.UUID == o.UUID && n.Mode == o.Mode && n.Bridge == o.Bridge &&
		n.MAC == o.MAC && n.MTU == o.MTU && n.IPv6 == o.IPv6 && n.Domain == o.Domain &&
		n.Autostart == o.Autostart && n.Started == o.Started &&
		n.Adopt == o.Adopt && n.STP == o.STP && n.Tags == o.Tags && slices.Equal(n.Uplinks, o.Uplinks) &&
		slices.Equal(n.Subnets, o.Subnets) && slices.Equal(n.AllowUsers, o.AllowUsers) &&
		slices.Equal(n.Reservations, o.Reservations) &&
		n.Forwards.Equal(o.Forwards)
}

// EffectiveMTU is the MTU in bytes that links of this network get.
func (n Network) EffectiveMTU() int {
	if n.MTU == 0 {
		return DefaultMTU
	}
	return n.MTU
}

// Subnet4 and Subnet6 return the first subnet of the family, if there is one.
func (n Network) Subnet4() (Subnet, bool) { return n.first(func(a netip.Addr) bool { return a.Is4() }) }

// Subnet6 returns the first IPv6 subnet, if there is one.
func (n Network) Subnet6() (Subnet, bool) { return n.first(func(a netip.Addr) bool { return a.Is6() }) }

func (n Network) first(family func(netip.Addr) bool) (Subnet, bool) {
	for _, s := range n.Subnets {
		if family(s.Prefix.Addr()) {
			return s, true
		}
	}
	return Subnet{}, false
}

// Reserve returns the network with r added, replacing one of the same MAC, the
// list kept in the order of addresses.
func (n Network) Reserve(r Reservation) Network {
	n = n.Unreserve(r.MAC)
	at, _ := slices.BinarySearchFunc(n.Reservations, r, func(a, b Reservation) int { return a.Addr.Compare(b.Addr) })
	n.Reservations = slices.Insert(n.Reservations, at, r)
	return n
}

// Unreserve returns the network without the reservation of that MAC.
func (n Network) Unreserve(mac string) Network {
	n = n.Clone()
	n.Reservations = slices.DeleteFunc(n.Reservations, func(r Reservation) bool { return r.MAC == mac })
	return n
}
