// Package ra advertises the host as IPv6 router to guests: prefixes to configure
// themselves from (SLAAC), DNS server and domain, MTU (RFC 4861, 4862, 8106).
//
// It owns the content and the timing of router advertisements. It works on an
// open socket that somebody hands it: it knows no netlink, no privileges, no
// networks beyond the resources it is fed with.
//
// Start reading at Server here and Serve in serve.go; the advertisement itself
// is in message.go, the socket in conn_linux.go.
package ra

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// Config is what a Server needs.
type Config struct {
	Log *slog.Logger
}

// Server advertises on any number of bridges. Its methods may be called from
// several goroutines.
type Server struct {
	log *slog.Logger

	mu       sync.Mutex
	services map[string]*service // by bridge
}

// New returns a server that advertises nothing yet.
func New(c Config) *Server { return &Server{log: c.Log, services: map[string]*service{}} }

// Stats are the counters of one bridge.
type Stats struct {
	Bridge string
	// Serving says that a Serve is running for the bridge.
	Serving bool
	// Solicited and Unsolicited count advertisements sent.
	Solicited, Unsolicited uint64
	// Solicitations counts those received, Malformed those that were not valid
	// (RFC 4861, section 6.1.1), Limited those not answered because too many
	// came, SendErrors advertisements that the kernel did not take.
	Solicitations, Malformed, Limited, SendErrors uint64
}

// Apply carries out steps about host.Router. Steps are idempotent and may come
// before or after Serve. What changed is advertised at once; a prefix that is no
// longer advertised is first declared to be over, as is a router that goes. A
// step about any other kind is an error, and then none is done.
func (s *Server) Apply(steps ...plan.Step) error {
	for _, step := range steps {
		if k := step.Key(); k.Kind != host.KindRouter {
			return fmt.Errorf("apply router advertisement step: %s is not advertised", k)
		}
		if r, ok := step.After.(host.Router); ok {
			if _, err := marshal(advertisement(r)); err != nil {
				return fmt.Errorf("apply %s: %w", r.Key(), err)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, step := range steps {
		if r, ok := step.After.(host.Router); ok {
			s.service(r.Bridge).set(&r)
			continue
		}
		svc := s.service(step.Before.(host.Router).Bridge)
		svc.set(nil)
		s.drop(svc)
	}
	return nil
}

// Observe returns the routers that were applied. Whether they are advertised on
// a socket is told by Serving.
func (s *Server) Observe() host.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := host.State{}
	for _, svc := range s.services {
		if r := svc.current(); r != nil {
			state.Add(*r)
		}
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
		svc = newService(bridge, s.log)
		s.services[bridge] = svc
	}
	return svc
}

// drop forgets a service that has nothing to do. s.mu is held.
func (s *Server) drop(svc *service) {
	if svc.current() == nil && !svc.serving() {
		delete(s.services, svc.bridge)
	}
}
