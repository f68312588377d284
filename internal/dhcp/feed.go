package dhcp

import (
	"net/netip"

	"drawbridge/internal/host"
)

// apply puts a resource into the service, or takes it out if gone is set.
func (s *service) apply(r host.Resource, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r := r.(type) {
	case host.Pool:
		if gone {
			s.table = nil
			s.endProbes()
			return
		}
		s.setPool(r)
	case host.Reservation:
		old, there := s.reservations[r.MAC]
		if gone {
			delete(s.reservations, r.MAC)
		} else {
			s.reservations[r.MAC] = r
		}
		if there && (gone || old.Addr != r.Addr) {
			s.unreserve(old)
		}
		if !gone {
			s.reserve(r)
		}
	case host.Guest:
		mac, ok := parseMAC(r.MAC)
		if !ok {
			return
		}
		if gone {
			delete(s.guests, mac)
		} else {
			s.guests[mac] = r
		}
	}
}

// setPool replaces the pool. Leases that still fit stay.
func (s *service) setPool(p host.Pool) {
	old, had := s.table, s.pool
	s.pool = p
	if old != nil && sameAddresses(had, p) {
		return
	}
	s.endProbes()
	s.table = newTable(p)
	// Also those that did not fit the last pool: its subnet may be given back.
	for _, l := range s.leases.Network(p.Network) {
		s.table.load(l)
	}
	if old != nil && had.Network == p.Network {
		s.table.inherit(old) // what is on its way to the disk
	}
	for _, r := range s.reservations {
		s.reserve(r)
	}
}

func (s *service) reserve(r host.Reservation) {
	if mac, ok := parseMAC(r.MAC); ok && s.table != nil && r.Addr.Is4() {
		s.table.reserve(mac, toInt(r.Addr))
	}
}

func (s *service) unreserve(r host.Reservation) {
	if mac, ok := parseMAC(r.MAC); ok && s.table != nil && r.Addr.Is4() {
		s.table.unreserve(mac, toInt(r.Addr))
	}
	// Two reservations may have had one address while a change was under way.
	for _, other := range s.reservations {
		if other.Addr == r.Addr && r.Addr != (netip.Addr{}) {
			s.reserve(other)
		}
	}
}

func (s *service) observe(into host.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.table != nil {
		into.Add(s.pool)
	}
	for _, r := range s.reservations {
		into.Add(r)
	}
	for _, g := range s.guests {
		into.Add(g)
	}
}

// name is how the guest is known to us: by its port, else by its reservation.
func (s *service) name(mac [6]byte) string {
	if g, ok := s.guests[mac]; ok {
		if name := Hostname(g.Name); name != "" {
			return name
		}
	}
	return Hostname(s.reservations[formatMAC(mac)].Hostname)
}
