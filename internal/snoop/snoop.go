// Package snoop learns which addresses guests use on networks where others give
// them out, from what the guests themselves send: ARP, neighbour discovery and DHCP.
//
// It owns the reading of such frames and what was heard on each port, for how long.
// It does not know netlink, privileges, nor how its sockets come about: they are
// handed to it open, with a filter that lets no other frames through. Whatever it
// hears may be a lie: it is good for being shown, and for the name of the very port
// on which it was heard.
//
// Start reading at Server below; frame.go reads frames.
package snoop

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

const (
	// mostHeard bounds what is kept for one port: a guest with privacy addresses
	// (RFC 8981) has some ten; one that makes them up by the thousand must not fill
	// the table.
	mostHeard = 16
	// silence is after what time an address that nothing was heard of is forgotten.
	// A guest that talks to anybody is heard every few minutes, as its neighbours'
	// caches run out and its leases are renewed.
	silence = time.Hour
)

// Config is what a server is made of.
type Config struct {
	// Changed is told which address the guest of a port began or ceased to use, if
	// it speaks with the port's own hardware address. It must not call the server.
	Changed func(s host.Snoop, addr netip.Addr, in bool)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Server listens on any number of ports. Its methods may be called at any time from
// any goroutine.
type Server struct {
	Config
	mu    sync.Mutex
	ports map[string]*port
}

type port struct {
	host.Snoop
	heard []heard
}

type heard struct {
	mac  string
	addr netip.Addr
	last time.Time
}

// Heard is what was heard on one port: who uses which address, in the order in which
// they came up.
type Heard struct {
	Tap  string     `json:"tap"`
	MAC  string     `json:"mac"`
	Addr netip.Addr `json:"addr"`
}

// New returns a server that listens to nobody yet.
func New(c Config) *Server {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Changed == nil {
		c.Changed = func(host.Snoop, netip.Addr, bool) {}
	}
	return &Server{Config: c, ports: map[string]*port{}}
}

// Apply begins or ends to listen on a port.
func (s *Server) Apply(step plan.Step) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r := step.After.(type) {
	case host.Snoop:
		p := s.ports[r.Tap]
		if p == nil {
			p = &port{}
			s.ports[r.Tap] = p
		}
		if p.Snoop != r {
			s.tell(p, false)
			p.Snoop = r
			s.tell(p, true)
		}
		return nil
	case nil:
		if old, ok := step.Before.(host.Snoop); ok {
			s.forget(old.Tap)
			return nil
		}
	}
	return fmt.Errorf("%s %s: nothing to listen to", step.Verb(), step.Key())
}

// tell passes on all that was heard of the port's own guest.
func (s *Server) tell(p *port, in bool) {
	for _, h := range p.heard {
		if h.mac == p.MAC {
			s.Changed(p.Snoop, h.addr, in)
		}
	}
}

func (s *Server) forget(tap string) {
	if p := s.ports[tap]; p != nil {
		s.tell(p, false)
		delete(s.ports, tap)
	}
}

// Observe lists what is listened to, exactly as it was applied.
func (s *Server) Observe() []host.Resource {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []host.Resource
	for _, p := range s.ports {
		all = append(all, p.Snoop)
	}
	return all
}

// Heard lists what was heard, by port.
func (s *Server) Heard() []Heard {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Heard
	for tap, p := range s.ports {
		s.age(p)
		for _, h := range p.heard {
			all = append(all, Heard{tap, h.mac, h.addr})
		}
	}
	slices.SortStableFunc(all, func(a, b Heard) int { return cmp.Compare(a.Tap, b.Tap) })
	return all
}

// age forgets what nothing was heard of for long.
func (s *Server) age(p *port) {
	oldest := s.Now().Add(-silence)
	p.heard = slices.DeleteFunc(p.heard, func(h heard) bool { return h.last.Before(oldest) && s.drop(p, h) })
}

// drop says that something is forgotten; it is always true.
func (s *Server) drop(p *port, h heard) bool {
	if h.mac == p.MAC {
		s.Changed(p.Snoop, h.addr, false)
	}
	return true
}

// hear notes one frame.
func (s *Server) hear(tap string, frame []byte) {
	what, ok := parse(frame)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.ports[tap]
	if p == nil {
		return
	}
	s.age(p)
	h := heard{text(what.mac), what.addr, s.Now()}
	i := slices.IndexFunc(p.heard, func(o heard) bool { return o.mac == h.mac && o.addr == h.addr })
	switch {
	case i >= 0 && what.gone:
		s.drop(p, h)
		p.heard = slices.Delete(p.heard, i, i+1)
	case what.gone:
	case i >= 0:
		p.heard[i].last = h.last
	default:
		if len(p.heard) == mostHeard {
			i := quietest(p.heard)
			s.drop(p, p.heard[i])
			p.heard = slices.Delete(p.heard, i, i+1)
		}
		p.heard = append(p.heard, h)
		if h.mac == p.MAC {
			s.Changed(p.Snoop, h.addr, true)
		}
	}
}

// quietest is what was not heard of for the longest time.
func quietest(list []heard) int {
	least := 0
	for i, h := range list {
		if h.last.Before(list[least].last) {
			least = i
		}
	}
	return least
}

// Serve listens to a port until ctx ends, or until the port is gone, which is no
// error: what was heard there is forgotten.
func (s *Server) Serve(ctx context.Context, tap string, c *Conn) error {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	pace := pacer{now: s.Now}
	buffer := make([]byte, frameSize)
	for {
		n, err := c.read(buffer)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == errGone:
			s.mu.Lock()
			defer s.mu.Unlock()
			s.forget(tap)
			return nil
		case err != nil:
			return fmt.Errorf("listen to %s: %w", tap, err)
		}
		s.hear(tap, buffer[:n])
		if wait := pace.spend(); wait > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
	}
}

// A guest that floods the LAN with ARP is not followed: the kernel drops what is not
// read. These are far above what a guest that means well sends.
const (
	burst = 64
	rate  = 200 // frames a second
)

// pacer is a token bucket.
type pacer struct {
	now   func() time.Time
	spent float64
	at    time.Time
}

// spend counts one frame and says how long to wait before the next.
func (p *pacer) spend() time.Duration {
	now := p.now()
	p.spent = max(0, p.spent-now.Sub(p.at).Seconds()*rate) + 1
	p.at = now
	if p.spent < burst {
		return 0
	}
	return time.Second / rate
}
