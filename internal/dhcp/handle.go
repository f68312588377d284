package dhcp

import (
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// handle answers one message. The error is a dropError. s.mu is held, here and
// in all that follows.
func (s *service) handle(data []byte, b *batch) error {
	r, err := parse(data)
	if err != nil {
		return err
	}
	r.came = b.began
	if s.table == nil {
		return dropError{dropNoPool}
	}
	// A relay agent outside would have its answer routed away from the bridge;
	// one that claims an address of ours would have us talk to ourselves.
	if r.giaddr != 0 && !s.table.usable(r.giaddr) {
		return dropError{dropRelay}
	}
	switch r.kind {
	case dhcpv4.MessageTypeDiscover:
		s.counts.Discover++
		return s.discover(r, b, 0)
	case dhcpv4.MessageTypeRequest:
		s.counts.Request++
		return s.request(r, b)
	case dhcpv4.MessageTypeDecline:
		s.counts.Decline++
		return s.decline(r, b)
	case dhcpv4.MessageTypeRelease:
		s.counts.Release++
		return s.release(r, b)
	case dhcpv4.MessageTypeInform:
		s.counts.Inform++
		return s.inform(r, b)
	case dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak:
		return dropError{dropNotRequest}
	}
	return dropError{"unknown-type"}
}

// discover offers an address (RFC 2131, section 4.3.1), or gives it at once to a
// client that asks for that (RFC 4039). conflicts counts the addresses that
// somebody was found to use since the client asked.
func (s *service) discover(r *request, b *batch, conflicts int) error {
	addr, known, ok := s.table.choose(r.who, r.requested, s.now())
	if !ok {
		s.sayFull()
		return dropError{dropFull}
	}
	return s.give(&probe{r: r, addr: addr, ack: r.rapid, conflicts: conflicts}, known, b)
}

// request answers DHCPREQUEST (RFC 2131, section 4.3.2). The client's state
// shows in which fields it fills in.
func (s *service) request(r *request, b *batch) error {
	ours := toInt(s.pool.Server.Addr())
	if r.serverID != 0 && r.serverID != ours {
		s.table.withdraw(r.who)
		return dropError{dropOther}
	}
	addr := r.requested // SELECTING with, INIT-REBOOT without our identifier
	if r.ciaddr != 0 && (r.serverID == 0 || r.requested == 0) {
		addr = r.ciaddr // RENEWING, REBINDING
	}
	if addr == 0 {
		return dropError{dropState}
	}
	switch s.table.judge(r.who, addr, s.now()) {
	case grantKnown:
		return s.give(&probe{r: r, addr: addr, ack: true}, true, b)
	case grantNew:
		// With our identifier, the offer came from us before a restart, and was
		// probed then.
		return s.give(&probe{r: r, addr: addr, ack: true}, r.serverID == ours, b)
	}
	s.refuse(r, addr, b)
	return nil
}

// refuse tells a client that it must not use an address. If it had a lease of
// it, that is over: the address was reserved for somebody else meanwhile.
func (s *service) refuse(r *request, addr uint32, b *batch) {
	leases, undos := s.table.release(r.who, addr, s.now())
	b.put, b.undo = append(b.put, leases...), append(b.undo, undos...)
	s.counts.Nak++
	b.reply(r, build(s.pool, r, answer{
		kind: dhcpv4.MessageTypeNak, message: "address " + toAddr(addr).String() + " is not for this client on this network",
	}))
}

// decline sets an address aside that the client found to be in use.
func (s *service) decline(r *request, b *batch) error {
	if r.serverID != 0 && r.serverID != toInt(s.pool.Server.Addr()) {
		return dropError{dropOther}
	}
	held := s.table.byAddr[r.requested]
	if held == nil || !s.table.mine(held, r.who) || !held.live(s.now()) {
		return dropError{dropState}
	}
	s.conflict(r.requested, "the client it was given to declined it", r.who.mac, b)
	return nil
}

// conflict gives an address to nobody for a while.
func (s *service) conflict(addr uint32, why string, mac [6]byte, b *batch) {
	s.counts.Conflicts++
	leases, undos := s.table.setAside(addr, s.now())
	b.put, b.undo = append(b.put, leases...), append(b.undo, undos...)
	s.log.Warn("an address of the pool is used by somebody without a lease: it is given to nobody for a while",
		"network", s.pool.Network, "address", toAddr(addr), "found", why, "mac", formatMAC(mac), "seconds", asideSeconds)
}

// release ends a lease; the client may have the address again later.
func (s *service) release(r *request, b *batch) error {
	if r.serverID != 0 && r.serverID != toInt(s.pool.Server.Addr()) {
		return dropError{dropOther}
	}
	if !s.table.mine(s.table.byAddr[r.ciaddr], r.who) {
		return dropError{dropState}
	}
	leases, undos := s.table.release(r.who, r.ciaddr, s.now())
	b.put, b.undo = append(b.put, leases...), append(b.undo, undos...)
	return nil
}

// inform tells a client that has an address what else there is to know (RFC
// 2131, section 4.3.5): no lease, no times.
func (s *service) inform(r *request, b *batch) error {
	if !s.table.usable(r.ciaddr) {
		return dropError{dropState}
	}
	s.counts.Ack++
	b.reply(r, build(s.pool, r, answer{kind: dhcpv4.MessageTypeAck, name: s.name(r.who.mac)}))
	return nil
}

// deliver sends the offer, or stores the lease and then sends its confirmation.
func (s *service) deliver(p *probe, b *batch) {
	a := answer{
		kind: dhcpv4.MessageTypeOffer, addr: p.addr, seconds: leaseSeconds(s.pool, p.r), name: s.name(p.r.who.mac),
	}
	if !p.ack {
		s.table.offer(p.r.who, p.addr, s.now())
		s.counts.Offer++
		b.reply(p.r, build(s.pool, p.r, a))
		return
	}
	a.kind, a.rapid = dhcpv4.MessageTypeAck, p.r.kind == dhcpv4.MessageTypeDiscover
	leases, undos := s.table.bind(p.r.who, p.addr, p.r.hostname, s.now()+int64(a.seconds), s.now())
	b.put, b.undo = append(b.put, leases...), append(b.undo, undos...)
	b.then, b.thenCame = append(b.then, build(s.pool, p.r, a)), append(b.thenCame, p.r.came)
}

// sayFull tells the operator, once a minute at most.
func (s *service) sayFull() {
	if time.Since(s.fullSaid) < time.Minute {
		return
	}
	s.fullSaid = time.Now()
	used, size := s.table.used(s.now())
	s.log.Warn("no address is left for a new client: widen the DHCP range of the network or shorten its lease time",
		"network", s.pool.Network, "used", used, "size", size)
}
