// Package dns answers guests' DNS questions on sockets that it is handed open.
//
// It owns the table of who is called what (Names), authority over the networks'
// domains and reverse zones, forwarding to the host's own upstream servers with
// a cache, and what is refused or dropped. It does not know netlink, privileges,
// nor how its sockets and leases come about: it is fed.
//
// Start reading at Server below. A question takes this way: udp.go or tcp.go
// receive it; fast.go answers what is local or cached straight from packet to
// packet; slow.go, with a full DNS library, does everything else and hands what
// is not ours to forward.go. What is local is decided in one place, local.go.
package dns

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/latency"
	"drawbridge/internal/plan"
)

// Config is what a server needs to know of the host.
type Config struct {
	// Hostname is the host's own name: guests find the host under it, and none
	// of them can take it. "" for none.
	Hostname string
	// ResolvFiles are resolver configurations in the order of preference; the
	// first that names a server we may ask is followed. nil means
	// DefaultResolvFiles.
	ResolvFiles []string
	// UpstreamPort is where upstream servers listen; 0 means 53.
	UpstreamPort uint16
	// Now is the clock that cached answers age by; nil means time.Now.
	Now func() time.Time
}

// Server answers DNS for any number of bridges. Its methods may be called at
// any time from any goroutine.
type Server struct {
	// Names is the table that answers are made from; the caller feeds it.
	Names *Names

	now      func() time.Time
	apply    sync.Mutex // held while tables are replaced
	tables   atomic.Pointer[tables]
	upstream *upstream
	cache    *cache
	flights  flights
	conns    connLimit
	batches  sync.Pool
	statsMu  sync.Mutex
	stats    map[string]*counters
}

// NewServer returns a server that serves nothing yet. It reads the resolver
// configuration at once; FollowUpstream keeps up with it.
func NewServer(c Config) *Server {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.ResolvFiles == nil {
		c.ResolvFiles = DefaultResolvFiles()
	}
	if c.UpstreamPort == 0 {
		c.UpstreamPort = 53
	}
	s := &Server{
		Names: NewNames(c.Hostname), now: c.Now,
		upstream: newUpstream(c.ResolvFiles, c.UpstreamPort, c.Now),
		cache:    newCache(c.Now), stats: map[string]*counters{},
	}
	s.batches.New = func() any { return newBatch() }
	s.flights.open = map[string]*flight{}
	s.flights.clients = map[netip.Addr]int{}
	s.conns.perClient = map[netip.Addr]int{}
	s.tables.Store(newTables(nil, s.Names.hostname))
	s.upstream.reload()
	return s
}

// Observe returns the zones that are answered, the guests that are named and the
// reservations that are known, exactly as they were applied; with keys, only
// those. It implements txn.Host.
func (s *Server) Observe(_ context.Context, keys ...host.Key) (host.State, error) {
	all := host.State{}
	for _, z := range s.tables.Load().byBridge {
		all.Add(z.Zone)
	}
	for _, g := range s.Names.Guests() {
		all.Add(g)
	}
	for _, r := range s.Names.Reservations() {
		all.Add(r)
	}
	if len(keys) == 0 {
		return all, nil
	}
	return all.Only(keys), nil
}

// Apply carries out steps about zones, guests and reservations; any other kind
// is an error. Answers change with the step: a question is answered either from
// the state before or from that after. It implements txn.Host.
func (s *Server) Apply(_ context.Context, steps []plan.Step) error {
	s.apply.Lock()
	defer s.apply.Unlock()
	var zones map[string]host.Zone
	for _, step := range steps {
		switch r := step.After.(type) {
		case host.Guest:
			s.Names.SetGuest(r.Bridge, r.MAC, r.Name)
			continue
		case host.Reservation:
			s.Names.SetReservation(r)
			continue
		}
		switch r := first(step.After, step.Before).(type) {
		case host.Guest:
			s.Names.RemoveGuest(r.Bridge, r.MAC)
		case host.Reservation:
			s.Names.RemoveReservation(r.Bridge, r.MAC)
		case host.Zone:
			if zones == nil {
				zones = s.zones()
			}
			if step.After == nil {
				delete(zones, r.Bridge)
			} else {
				zones[r.Bridge] = r
			}
		default:
			return fmt.Errorf("%s %s: not a matter of DNS", step.Verb(), step.Key())
		}
	}
	if zones != nil {
		s.serve(zones)
	}
	return nil
}

func first(a, b host.Resource) host.Resource {
	if a != nil {
		return a
	}
	return b
}

func (s *Server) zones() map[string]host.Zone {
	out := map[string]host.Zone{}
	for name, z := range s.tables.Load().byBridge {
		out[name] = z.Zone
	}
	return out
}

// serve puts new tables in place of the old ones.
func (s *Server) serve(zones map[string]host.Zone) {
	t := newTables(zones, s.Names.hostname)
	for bridge, z := range t.byBridge {
		z.stats = s.counters(bridge)
	}
	s.tables.Store(t)
	s.upstream.setOwn(t.own)
	s.cache.flush() // names that were asked elsewhere may have become our own
}

// FollowUpstream reads the resolver configuration again whenever it has changed,
// looking at each tick (once a second is cheap: one stat for each file), until
// ctx ends. What was cached from other servers is forgotten then: another
// network may see other names.
func (s *Server) FollowUpstream(ctx context.Context, ticks <-chan time.Time) {
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-ticks:
			if !ok {
				return
			}
			if s.upstream.changed() && s.upstream.reload() {
				s.cache.flush()
			}
		}
	}
}

// Upstreams lists the servers that are asked, in order, and says in words where
// they come from or why there are none.
func (s *Server) Upstreams() (servers []netip.AddrPort, why string) {
	list, why := s.upstream.current()
	return list, why
}

// Stats are counts since the server was made.
type Stats struct {
	// Queries that came from a guest's address, well-formed or not.
	Queries uint64
	// Local, Cached and Forwarded say where answers came from; Failed counts
	// SERVFAIL and REFUSED answers.
	Local, Cached, Forwarded, Failed uint64
	// Malformed packets were answered FORMERR where they had a header, else
	// dropped. Outside counts packets from addresses that are not of the bridge's
	// subnets; they are dropped.
	Malformed, Outside uint64
	// Latency is over all answers, from receiving the question to handing over the
	// answer.
	Latency latency.Snapshot
}

type counters struct {
	queries, local, cached, forwarded, failed, malformed, outside atomic.Uint64
	latency                                                       latency.Histogram
}

// Stats returns the counts of each bridge that ever had a zone.
func (s *Server) Stats() map[string]Stats {
	s.statsMu.Lock()
	all := maps.Clone(s.stats)
	s.statsMu.Unlock()
	out := make(map[string]Stats, len(all))
	for bridge, c := range all {
		out[bridge] = Stats{
			Queries: c.queries.Load(), Local: c.local.Load(), Cached: c.cached.Load(),
			Forwarded: c.forwarded.Load(), Failed: c.failed.Load(), Malformed: c.malformed.Load(),
			Outside: c.outside.Load(), Latency: c.latency.Snapshot(),
		}
	}
	return out
}

func (s *Server) counters(bridge string) *counters {
	s.statsMu.Lock()
	defer s.statsMu.Unlock()
	if s.stats[bridge] == nil {
		s.stats[bridge] = &counters{}
	}
	return s.stats[bridge]
}
