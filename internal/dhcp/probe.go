package dhcp

import (
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// How new addresses are probed before they are given away.
const (
	// probeWait is how long somebody who uses an address has to answer.
	probeWait = 200 * time.Millisecond
	// probeBurst and probeRate (a second) bound the probes of a bridge, since
	// each is a broadcast to all guests and 200 ms of waiting. When more new
	// clients than that come at once, the rest get their address unprobed;
	// dnsmasq does likewise, with 6 probes in 30 s (dhcp.c, do_icmp_ping).
	probeBurst = 32
	probeRate  = 10
	// maxConflicts is after how many addresses in use a client has to ask again.
	maxConflicts = 3
)

// probe is an address that is about to be given to a client.
type probe struct {
	r    *request
	addr uint32
	// ack: the client shall get the address itself, not the offer of it.
	ack       bool
	conflicts int
	timer     *time.Timer
}

// probeBudget is a token bucket.
type probeBudget struct {
	spent float64
	at    time.Time
}

func (p *probeBudget) spend(now time.Time) bool {
	p.spent = max(0, p.spent-now.Sub(p.at).Seconds()*probeRate)
	p.at = now
	if p.spent > probeBurst-1 {
		return false
	}
	p.spent++
	return true
}

// give gives an address, after a probe if the client never had it. Other
// clients are served meanwhile.
func (s *service) give(p *probe, known bool, b *batch) error {
	if running, ok := s.probes[p.addr]; ok {
		if running.r.who != p.r.who {
			return dropError{dropBusy}
		}
		running.r, running.ack = p.r, p.ack // the client asks again: answer that
		return nil
	}
	if known || s.conn == nil {
		s.deliver(p, b)
		return nil
	}
	if !s.budget.spend(time.Now()) {
		s.counts.Unprobed++
		s.deliver(p, b)
		return nil
	}
	s.counts.Probes++
	s.table.offer(p.r.who, p.addr, s.now())
	s.probes[p.addr] = p
	b.ask = append(b.ask, p.addr)
	p.timer = time.AfterFunc(probeWait, func() { s.process(func(b *batch) { s.unanswered(p, b) }) })
	return nil
}

// unanswered gives the address: nobody seems to use it.
func (s *service) unanswered(p *probe, b *batch) {
	if s.probes[p.addr] != p || s.table == nil {
		return
	}
	delete(s.probes, p.addr)
	if s.table.judge(p.r.who, p.addr, s.now()) == refuse {
		// The address was reserved for somebody else meanwhile.
		if p.r.kind != dhcpv4.MessageTypeDiscover {
			s.refuse(p.r, p.addr, b)
		}
		return
	}
	s.deliver(p, b)
}

// answered looks for another address: somebody uses this one, unless it is the
// client itself.
func (s *service) answered(reply ARPReply, b *batch) {
	p, ok := s.probes[toInt(reply.Addr)]
	if !ok || s.table == nil {
		return
	}
	p.timer.Stop()
	if reply.MAC == p.r.who.mac {
		s.unanswered(p, b)
		return
	}
	delete(s.probes, p.addr)
	s.conflict(p.addr, "it answered an ARP probe", reply.MAC, b)
	switch {
	case p.r.kind != dhcpv4.MessageTypeDiscover:
		s.refuse(p.r, p.addr, b)
	case p.conflicts+1 < maxConflicts:
		if err := s.discover(p.r, b, p.conflicts+1); err != nil {
			s.counts.Dropped[dropFull]++
		}
	default:
		s.counts.Dropped[dropBusy]++
	}
}

// endProbes gives up all probes; the clients ask again.
func (s *service) endProbes() {
	for addr, p := range s.probes {
		p.timer.Stop()
		delete(s.probes, addr)
	}
}
