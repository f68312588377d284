package dns

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"drawbridge/internal/host"
)

// Names says who is called what. It is fed piecemeal from ports, reservations,
// leases and neighbours, in any order, and may be read while it is fed.
//
// A name is held once on the whole host: by all ports that bear it (one guest
// may have several NICs), else by all reservations that give it, else by the
// one lease whose client said it first. Nobody can hold the host's own name,
// localhost or wpad (RFC 7269 on why wpad must not be left to guests). A
// claim that loses waits, and wins when the holder is gone.
//
// What the operator gave (port and reservation) always stands; what a DHCP
// client says of itself counts only where the operator gave nothing.
type Names struct {
	hostname string // the host's own, a single label in lower case
	taken    map[string]bool
	changes  atomic.Uint64

	mu       sync.RWMutex
	stations map[stationKey]*station
	claims   map[string]*claims
	bridges  map[string]*bridgeNames
}

// maxNeighbours is how many IPv6 addresses are kept for one hardware address:
// a guest with privacy addresses (RFC 8981) makes one a day and keeps seven; one
// that makes them by the thousand must not fill the table or the answers.
const maxNeighbours = 16

type stationKey struct{ bridge, mac string }

// station is one NIC on one bridge, with all that was said about it.
type station struct {
	key      stationKey
	port     string
	reserved *host.Reservation
	leases   []lease
	// neighbours in the order in which they were first seen.
	neighbours []netip.Addr
	// said are the claims that the station has now, best first.
	said []claim
}

type lease struct {
	addr     netip.Addr
	hostname string
}

type claim struct {
	rank  int
	label string
}

// The sources of names, best first.
const (
	rankPort = iota
	rankReservation
	rankLease
	ranks
)

// claims are the stations that want one name, by source, first come first.
type claims [ranks][]*station

// best is the source whose claims hold the name, or ranks if nobody wants it.
func (c *claims) best() int {
	for rank, list := range c {
		if len(list) > 0 {
			return rank
		}
	}
	return ranks
}

// holders are those who have the name.
func (c *claims) holders() []*station {
	switch rank := c.best(); rank {
	case ranks:
		return nil
	case rankLease:
		return c[rank][:1]
	default:
		return c[rank]
	}
}

// bridgeNames is what is looked up: both maps hold values that are replaced and
// never changed.
type bridgeNames struct {
	hosts map[string]*hostAddrs
	// owners lists who has an address, best source first.
	owners map[netip.Addr][]owner
}

type owner struct {
	rank int
	st   *station
}

// hostAddrs are the addresses behind a name on one bridge.
type hostAddrs struct{ v4, v6 []netip.Addr }

// NewNames returns an empty table. hostname is the host's own name, which no
// guest can claim; of a qualified one the first label counts. A host without a
// usable name is called gateway.
func NewNames(hostname string) *Names {
	label, ok := Label(hostname)
	if !ok || label == "localhost" {
		label = "gateway"
	}
	return &Names{
		hostname: label,
		taken:    map[string]bool{label: true, "localhost": true, "wpad": true},
		stations: map[stationKey]*station{}, claims: map[string]*claims{}, bridges: map[string]*bridgeNames{},
	}
}

// Label makes a single DNS label of what a guest calls itself: the first label
// in lower case. It is false if that is not a host name by RFC 1123 section 2.1
// (letters, digits and inner hyphens, at most 63).
func Label(name string) (string, bool) {
	label, _, _ := strings.Cut(name, ".")
	if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return "", false
	}
	for _, c := range []byte(label) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-') {
			return "", false
		}
	}
	return strings.ToLower(label), true
}

// SetGuest gives the NIC with that hardware address on that bridge the name of
// its port. mac is in lower case with colons, here and below.
func (n *Names) SetGuest(bridge, mac, name string) {
	n.edit(bridge, mac, func(s *station) { s.port = name })
}

// RemoveGuest takes the port's name back.
func (n *Names) RemoveGuest(bridge, mac string) {
	n.edit(bridge, mac, func(s *station) { s.port = "" })
}

// SetReservation enters an address, and a name if r has one, replacing an
// earlier reservation for the same bridge and hardware address.
func (n *Names) SetReservation(r host.Reservation) {
	n.edit(r.Bridge, r.MAC, func(s *station) { s.reserved = &r })
}

// RemoveReservation takes out what SetReservation entered.
func (n *Names) RemoveReservation(bridge, mac string) {
	n.edit(bridge, mac, func(s *station) { s.reserved = nil })
}

// SetLease enters an address that DHCP gave, with the name that the client sent
// ("" for none). Feed leases oldest first after a start: among leases the first
// to say a name keeps it.
func (n *Names) SetLease(bridge, mac string, addr netip.Addr, hostname string) {
	n.edit(bridge, mac, func(s *station) {
		i := slices.IndexFunc(s.leases, func(l lease) bool { return l.addr == addr })
		if i < 0 {
			s.leases = append(s.leases, lease{addr, hostname})
		} else {
			s.leases[i].hostname = hostname
		}
	})
}

// RemoveLease takes the lease of addr back.
func (n *Names) RemoveLease(bridge, mac string, addr netip.Addr) {
	n.edit(bridge, mac, func(s *station) {
		s.leases = slices.DeleteFunc(s.leases, func(l lease) bool { return l.addr == addr })
	})
}

// SetNeighbour enters an IPv6 address that was seen in use by mac. Addresses
// that are no use in DNS (link-local, multicast, loopback) are passed over. An
// address belongs to one station: the kernel's neighbour table has one
// link-layer address for each, and says nothing to the former owner.
func (n *Names) SetNeighbour(bridge, mac string, addr netip.Addr) {
	if !addr.Is6() || addr.Is4In6() || !addr.IsGlobalUnicast() {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if b := n.bridges[bridge]; b != nil {
		for _, o := range slices.Clone(b.owners[addr]) {
			if o.rank == ranks && o.st.key.mac != mac {
				n.editLocked(bridge, o.st.key.mac, func(s *station) { s.dropNeighbour(addr) })
			}
		}
	}
	n.editLocked(bridge, mac, func(s *station) {
		if slices.Contains(s.neighbours, addr) {
			return
		}
		if len(s.neighbours) == maxNeighbours {
			s.neighbours = s.neighbours[1:]
		}
		s.neighbours = append(slices.Clip(s.neighbours), addr)
	})
}

// SetSeen enters an address, of either family, that the guest behind a port was
// heard to use there. Others keep theirs, whatever it says.
func (n *Names) SetSeen(bridge, mac string, addr netip.Addr) {
	n.edit(bridge, mac, func(s *station) {
		if len(s.neighbours) < maxNeighbours && !slices.Contains(s.neighbours, addr) {
			s.neighbours = append(slices.Clip(s.neighbours), addr)
		}
	})
}

// RemoveSeen takes the address back.
func (n *Names) RemoveSeen(bridge, mac string, addr netip.Addr) { n.RemoveNeighbour(bridge, mac, addr) }

// RemoveNeighbour takes the address back.
func (n *Names) RemoveNeighbour(bridge, mac string, addr netip.Addr) {
	n.edit(bridge, mac, func(s *station) { s.dropNeighbour(addr) })
}

func (s *station) dropNeighbour(addr netip.Addr) {
	s.neighbours = slices.DeleteFunc(slices.Clone(s.neighbours), func(a netip.Addr) bool { return a == addr })
}

// Addrs returns the addresses of a guest of that bridge: those of every NIC
// there that holds the name. label is in lower case. The slices are shared: read
// them only.
func (n *Names) Addrs(bridge, label string) (v4, v6 []netip.Addr, ok bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if b := n.bridges[bridge]; b != nil {
		if h := b.hosts[label]; h != nil {
			return h.v4, h.v6, true
		}
	}
	return nil, nil, false
}

// addrsOf is Addrs for a label that is still in a packet; it allocates nothing.
func (n *Names) addrsOf(bridge string, label []byte) *hostAddrs {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if b := n.bridges[bridge]; b != nil {
		return b.hosts[string(label)]
	}
	return nil
}

// Name returns the label that reverse look-ups of addr give on that bridge.
func (n *Names) Name(bridge string, addr netip.Addr) (label string, ok bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	b := n.bridges[bridge]
	if b == nil {
		return "", false
	}
	for _, o := range b.owners[addr] {
		if name := n.name(o.st); name != "" {
			return name, true
		}
	}
	return "", false
}

// Guests lists what SetGuest entered, in no order.
func (n *Names) Guests() []host.Guest {
	n.mu.RLock()
	defer n.mu.RUnlock()
	var out []host.Guest
	for k, s := range n.stations {
		if s.port != "" {
			out = append(out, host.Guest{Bridge: k.bridge, MAC: k.mac, Name: s.port})
		}
	}
	return out
}

// Reservations lists what SetReservation entered, in no order.
func (n *Names) Reservations() []host.Reservation {
	n.mu.RLock()
	defer n.mu.RUnlock()
	var out []host.Reservation
	for _, s := range n.stations {
		if s.reserved != nil {
			out = append(out, *s.reserved)
		}
	}
	return out
}
