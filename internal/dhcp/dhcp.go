// Package dhcp serves DHCPv4 (RFC 2131) to guests and keeps their leases.
//
// It owns the protocol, the choice of addresses and the lease file. It works on
// open sockets that somebody hands it: it knows no netlink, no privileges, no
// networks beyond the pools, reservations and guests it is fed with.
//
// An address that a client never had is probed before it is offered, so that a
// guest who took it by hand is not disturbed; at most 32 at once and 10 a second
// on a bridge (probe.go). Beyond that new clients are served unprobed: each probe
// is a broadcast to all guests, and ten thousand that boot together would be made
// to wait for it and flood the bridge. Clients known from their lease never wait.
//
// Start reading at Server here and in serve.go. The states of the protocol are
// in handle.go, the choice of an address in table.go, the lease file in
// leases.go and bolt.go, packets in request.go, reply.go and frame.go, the
// sockets in conn_linux.go.
package dhcp

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// Config is what a Server needs. Both fields are required.
type Config struct {
	// Leases outlive the server; the caller closes them after the last Serve
	// has returned.
	Leases *Leases
	Log    *slog.Logger
}

// Server answers DHCP on any number of bridges. Its methods may be called from
// several goroutines.
type Server struct {
	leases *Leases
	log    *slog.Logger
	room   Room

	mu       sync.Mutex
	services map[string]*service // by bridge
}

// New returns a server that serves nothing yet.
func New(c Config) *Server {
	return &Server{leases: c.Leases, log: c.Log, services: map[string]*service{}}
}

// Apply carries out steps about host.Pool, host.Reservation and host.Guest.
// Steps are idempotent, hold from the next packet on, and may come before or
// after Serve and in any order. A change of a pool keeps every lease that still
// fits; a guest whose address no longer fits is told so (DHCPNAK) when it asks
// next. A step about any other kind is an error, and then none is done.
func (s *Server) Apply(steps ...plan.Step) error {
	for _, step := range steps {
		if _, err := bridgeOf(resourceOf(step)); err != nil {
			return err
		}
		if _, pool := step.After.(host.Pool); pool {
			s.leases.settle() // a pool begins with what is on disk
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, step := range steps {
		bridge, _ := bridgeOf(resourceOf(step))
		svc := s.service(bridge)
		svc.apply(resourceOf(step), step.After == nil)
		s.drop(svc)
	}
	return nil
}

// Observe returns the pools, reservations and guests that were applied, as they
// are in use now. Whether packets arrive for a pool is told by Serving.
func (s *Server) Observe() host.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := host.State{}
	for _, svc := range s.services {
		svc.observe(state)
	}
	return state
}

// Serving says whether a Serve is running for the bridge.
func (s *Server) Serving(bridge string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	svc, ok := s.services[bridge]
	return ok && svc.serving()
}

// Stats returns the counters of every bridge, sorted by its name.
func (s *Server) Stats() []Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Stats
	for _, bridge := range slices.Sorted(maps.Keys(s.services)) {
		all = append(all, s.services[bridge].stats())
	}
	return all
}

// service returns the bridge's service, made if need be. s.mu is held.
func (s *Server) service(bridge string) *service {
	svc, ok := s.services[bridge]
	if !ok {
		svc = newService(bridge, s.leases, s.log, &s.room)
		s.services[bridge] = svc
	}
	return svc
}

// drop forgets a service that has nothing to do. s.mu is held.
func (s *Server) drop(svc *service) {
	if svc.idle() {
		delete(s.services, svc.bridge)
	}
}

func resourceOf(step plan.Step) host.Resource {
	if step.After != nil {
		return step.After
	}
	return step.Before
}

func bridgeOf(r host.Resource) (string, error) {
	switch r := r.(type) {
	case host.Pool:
		return r.Bridge, nil
	case host.Reservation:
		return r.Bridge, nil
	case host.Guest:
		return r.Bridge, nil
	case nil:
		return "", fmt.Errorf("apply DHCP step: it is about nothing")
	}
	return "", fmt.Errorf("apply DHCP step: %s is not served by DHCP", r.Key())
}
