package services

import (
	"net/netip"

	"drawbridge/internal/host"
	"drawbridge/internal/snoop"
)

// This file is about addresses that guests use without having got them here: heard
// on their ports, or seen by the kernel.

// seen names an address that the guest of a port was heard to use.
func (p *Process) seen(s host.Snoop, addr netip.Addr, in bool) {
	if in {
		p.dns.Names.SetSeen(s.Bridge, s.MAC, addr)
	} else {
		p.dns.Names.RemoveSeen(s.Bridge, s.MAC, addr)
	}
}

func (p *Process) setNeighbours(list neighbourList) {
	now := map[Neighbour]bool{}
	for _, n := range list.List {
		now[n] = true
	}
	for _, old := range p.neighbours[list.Bridge] {
		if !now[old] {
			p.dns.Names.RemoveNeighbour(list.Bridge, old.MAC, old.Addr)
		}
	}
	for _, n := range list.List {
		p.dns.Names.SetNeighbour(list.Bridge, n.MAC, n.Addr)
	}
	p.neighbours[list.Bridge] = list.List
}

// Heard lists the addresses that guests on ports were heard to use.
func (a *Adapter) Heard() ([]snoop.Heard, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	reply, err := a.ask(message{Heard: true}, nil)
	return reply.HeardSet, err
}

// SetNeighbours tells the process which IPv6 addresses guests on a bridge use.
func (a *Adapter) SetNeighbours(bridge string, list []Neighbour) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, err := a.ask(message{Neighbours: &neighbourList{Bridge: bridge, List: list}}, nil)
	return err
}
