package dns

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"
	"time"

	mdns "github.com/miekg/dns"
)

// Bounds of what is asked elsewhere at one time. One guest can use up its own
// share and no more.
const (
	maxFlights   = 1024
	maxPerClient = 128
	maxWaiting   = 256 // clients that wait for the same answer
	// flightTime is less than the 5 s after which common stub resolvers ask again
	// (resolv.conf(5), timeout).
	flightTime = 4500 * time.Millisecond
)

// flights are the questions that are being asked.
type flights struct {
	mu      sync.Mutex
	open    map[string]*flight
	clients map[netip.Addr]int
}

// flight is one question on its way to an upstream server, with all who wait for
// the answer. Asking a question once however many want to know also takes away
// what an attacker gains from many equal questions in flight (RFC 5452 section 5).
type flight struct {
	key string
	// mixed is the name as it is sent, in letters of random case.
	mixed   []byte
	telling bool // mixed has a capital letter, and so is not what others send
	q       question
	waiting []*asked
}

// forward asks the upstream servers, or joins those who wait for the same. It
// is false only if the question is dropped.
func (s *Server) forward(a *asked, t *tables) bool {
	servers, why := s.upstream.current()
	if len(servers) == 0 {
		a.fail(mdns.RcodeServerFailure, mdns.ExtendedErrorCodeNoReachableAuthority, why)
		return true
	}
	key := a.q.key(nil)
	if a.q.flags&flagRD != 0 {
		key = append(key, 'R')
	}
	s.flights.mu.Lock()
	f := s.flights.open[string(key)]
	if f != nil && f.telling && t.own[a.client] && string(a.packet[headerSize:headerSize+a.q.n]) == string(f.mixed) {
		// The very letters that we sent come back from an address of this host: the
		// upstream server asks us. Refusing lets it answer whoever asked it.
		s.flights.mu.Unlock()
		a.fail(mdns.RcodeRefused, mdns.ExtendedErrorCodeProhibited, "loop: the upstream server asks this server")
		return true
	}
	full := s.flights.clients[a.client] >= maxPerClient
	if f != nil {
		full = full || len(f.waiting) >= maxWaiting
	} else {
		full = full || len(s.flights.open) >= maxFlights
	}
	if full {
		s.flights.mu.Unlock()
		a.fail(mdns.RcodeServerFailure, mdns.ExtendedErrorCodeNotReady, "too many questions at one time")
		return true
	}
	s.flights.clients[a.client]++
	if f != nil {
		f.waiting = append(f.waiting, a)
		s.flights.mu.Unlock()
		return true
	}
	f = &flight{key: string(key), q: a.q, waiting: []*asked{a}}
	f.mix()
	s.flights.open[f.key] = f
	s.flights.mu.Unlock()
	go s.fly(f, servers)
	return true
}

// mix draws the case of the letters.
func (f *flight) mix() {
	f.mixed = append([]byte(nil), f.q.name[:f.q.n]...)
	bits := make([]byte, f.q.n)
	_, _ = rand.Read(bits) // never fails (crypto/rand)
	for i, c := range f.mixed {
		// Lengths of labels are below 64 and so are no letters.
		if 'a' <= c && c <= 'z' && bits[i]&1 != 0 {
			f.mixed[i] = c - 'a' + 'A'
			f.telling = true
		}
	}
}

// fly asks and tells all who wait.
func (s *Server) fly(f *flight, servers []netip.AddrPort) {
	ctx, cancel := context.WithTimeout(context.Background(), flightTime)
	defer cancel()
	generation := s.cache.generation()
	var c *cached
	m, err := s.ask(ctx, f, servers)
	if err == nil {
		// What is kept is an answer to our own question, whatever a server made of it.
		m.Question = []mdns.Question{{Name: textName(string(f.mixed)), Qtype: f.q.typ, Qclass: classIN}}
		var ttl time.Duration
		if c, ttl, err = newCached(m, s.now()); err == nil && f.q.flags&flagRD != 0 {
			s.cache.put(string(f.q.key(nil)), c, ttl, generation)
		}
	}
	s.flights.mu.Lock()
	delete(s.flights.open, f.key)
	for _, a := range f.waiting {
		if s.flights.clients[a.client]--; s.flights.clients[a.client] == 0 {
			delete(s.flights.clients, a.client)
		}
	}
	s.flights.mu.Unlock()
	for _, a := range f.waiting {
		if err != nil {
			a.fail(mdns.RcodeServerFailure, mdns.ExtendedErrorCodeNoReachableAuthority, err.Error())
			continue
		}
		if m.Rcode == mdns.RcodeServerFailure || m.Rcode == mdns.RcodeRefused {
			a.zone.stats.failed.Add(1)
		} else {
			a.zone.stats.forwarded.Add(1)
		}
		a.answer(c, 0)
	}
}

// ask tries the servers in turn, twice; the second time with more patience. A
// server that fails is asked no further in the same flight, but its answer is
// given if no other has a better one.
//
// Where systemd-resolved is asked, its word is final: a name that it keeps to one
// link is not for the servers of another.
func (s *Server) ask(ctx context.Context, f *flight, servers []netip.AddrPort) (*mdns.Msg, error) {
	if len(servers) > 0 && servers[0].Addr() == resolvedProxy {
		m, err := s.exchange(ctx, f, servers[0], flightTime)
		servers = servers[1:]
		switch {
		case err == nil && !tellsLoopback(m):
			return m, nil
		case err == nil && len(servers) == 0:
			m.Rcode, m.Answer = mdns.RcodeNameError, nil
			return m, nil
		case err != nil && (len(servers) == 0 || !errors.Is(err, syscall.ECONNREFUSED)):
			return nil, fmt.Errorf("systemd-resolved: %w", err)
		}
		// Nobody listens there, or this is from the host's own file (hosts(5)), which
		// the proxy looks into too, as of version 252: a loopback address there is the
		// host and means nothing to guests.
	}
	var failed *mdns.Msg
	err := fmt.Errorf("no upstream server")
	refused := map[netip.AddrPort]bool{}
	for round := range 2 {
		for _, server := range servers {
			if refused[server] {
				continue
			}
			patience := time.Duration(1+round) * time.Second
			m, e := s.exchange(ctx, f, server, patience)
			if ctx.Err() != nil && e != nil {
				return failedOr(failed, fmt.Errorf("upstream server %s: no answer in time", server.Addr()))
			}
			s.upstream.report(server, e == nil)
			if e != nil {
				err = fmt.Errorf("upstream server %s: %w", server.Addr(), e)
				continue
			}
			if m.Rcode == mdns.RcodeSuccess || m.Rcode == mdns.RcodeNameError {
				return m, nil
			}
			refused[server], failed = true, m
		}
	}
	return failedOr(failed, err)
}

// tellsLoopback says whether an answer has an address that is whoever reads it.
func tellsLoopback(m *mdns.Msg) bool {
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *mdns.A:
			if rr.A.IsLoopback() {
				return true
			}
		case *mdns.AAAA:
			if rr.AAAA.IsLoopback() {
				return true
			}
		}
	}
	return false
}

func failedOr(m *mdns.Msg, err error) (*mdns.Msg, error) {
	if m != nil {
		return m, nil
	}
	return nil, err
}
