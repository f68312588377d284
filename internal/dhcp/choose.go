package dhcp

// mine says whether the binding is the client's own. A reserved address belongs
// to the hardware address alone, so that firmware and system of one guest, which
// send different client ids, get the same one.
func (t *table) mine(b *binding, c client) bool {
	if b == nil || b.state == Declined {
		return false
	}
	return b.who == c || (b.who.mac == c.mac && t.isReserved(c.mac, b.addr))
}

func (t *table) isReserved(mac [6]byte, addr uint32) bool {
	r, ok := t.reserved[mac]
	return ok && r == addr
}

// taken says whether the address is in use by somebody other than the client,
// or set aside.
func (t *table) taken(addr uint32, c client, now int64) bool {
	b := t.byAddr[addr]
	return b != nil && b.live(now) && !t.mine(b, c)
}

// choose finds an address for a client that asks for any (RFC 2131, section
// 4.3.1), want being the one that it would like, or 0. known says that the
// client has had the address before.
func (t *table) choose(c client, want uint32, now int64) (addr uint32, known, ok bool) {
	t.sweep(now)
	if r, reserved := t.reserved[c.mac]; reserved && !t.taken(r, c, now) {
		b := t.byAddr[r]
		return r, t.mine(b, c), true
	}
	if b := t.byClient[c]; b != nil && t.mine(b, c) && t.dynamic(b.addr) {
		return b.addr, true, true
	}
	if addr, ok := t.remembered(c, now); ok {
		return addr, true, true
	}
	if want != 0 && t.dynamic(want) && !t.taken(want, c, now) {
		return want, false, true
	}
	if t.free.count > 0 {
		i, _ := t.free.from(spread(c.mac, t.free.n))
		return t.first + i, false, true
	}
	addr, ok = t.reclaim(now)
	return addr, false, ok
}

// remembered looks for the address that the MAC or the client id had last, if
// nobody uses it now.
func (t *table) remembered(c client, now int64) (uint32, bool) {
	if addr, ok := t.lastOfMAC[c.mac]; ok {
		b := t.byAddr[addr]
		if b != nil && b.who.mac == c.mac && !b.live(now) && t.dynamic(addr) {
			return addr, true
		}
	}
	if addr, ok := t.lastOfID[c.id]; ok && c.id != "" {
		b := t.byAddr[addr]
		if b != nil && b.who.id == c.id && !b.live(now) && t.dynamic(addr) {
			return addr, true
		}
	}
	return 0, false
}

// reclaim finds an address that somebody once had: the lease that is over for
// the longest time, else the oldest offer that was not taken up.
func (t *table) reclaim(now int64) (uint32, bool) {
	if len(t.aging) > 0 && !t.aging[0].live(now) {
		return t.aging[0].addr, true
	}
	for e := t.offers.Front(); e != nil; e = e.Next() {
		b := e.Value.(*binding)
		if now < b.offeredUntil-offerSeconds+offerGrace {
			break
		}
		if b.state == "" && t.dynamic(b.addr) {
			return b.addr, true
		}
	}
	return 0, false
}

// verdict is the answer to a client that asks for a certain address.
type verdict int

const (
	// refuse: the client must not use the address.
	refuse verdict = iota
	// grantKnown: it may, and has had it before.
	grantKnown
	// grantNew: it may, and has never had it.
	grantNew
)

// judge answers a client that asks for a certain address (RFC 2131, section
// 4.3.2). This server is the only one on its networks, so that it answers for
// addresses which it does not remember, too: free ones are granted, since the
// lease file may have been lost, all others refused.
func (t *table) judge(c client, addr uint32, now int64) verdict {
	t.sweep(now)
	if !t.usable(addr) {
		return refuse
	}
	if r, ok := t.reserved[c.mac]; ok && r != addr && !t.taken(r, c, now) {
		return refuse // the reservation came or changed while the client had another address
	}
	if !t.isReserved(c.mac, addr) && !t.dynamic(addr) {
		return refuse
	}
	b := t.byAddr[addr]
	if b != nil && t.mine(b, c) {
		return grantKnown
	}
	if t.taken(addr, c, now) {
		return refuse
	}
	if own := t.byClient[c]; own != nil && own.live(now) && t.mine(own, c) && !t.isReserved(c.mac, addr) {
		return refuse // it has, or was offered, another address
	}
	return grantNew
}

// offer keeps an address, which choose or judge allowed, for a client.
func (t *table) offer(c client, addr uint32, now int64) {
	if own := t.byClient[c]; own != nil && own.addr != addr && own.offer != nil {
		t.lapse(own)
	}
	if t.offers.Len() >= maxOffers {
		t.lapse(t.offers.Front().Value.(*binding))
	}
	b := t.take(addr, c)
	t.openOffer(b, now)
	if own := t.byClient[c]; own == nil || !own.live(now) {
		t.byClient[c] = b
	}
}

// withdraw ends the offer to a client that took another server's.
func (t *table) withdraw(c client) {
	if b := t.byClient[c]; b != nil && b.offer != nil {
		t.lapse(b)
	}
}

// undo is what a binding was before a change that must reach the disk.
type undo struct {
	addr    uint32
	edition uint64
	before  binding
}

// bind gives an address, which judge allowed, to a client, and returns what has
// to be stored before the client is told.
func (t *table) bind(c client, addr uint32, hostname string, expires, now int64) ([]Lease, []undo) {
	var leases []Lease
	var undos []undo
	if own := t.byClient[c]; own != nil && own.addr != addr {
		if own.state == Bound {
			undos = append(undos, t.change(own, func() { own.state, own.expires = Released, min(own.expires, now) }))
			leases = append(leases, t.lease(own))
		}
		if own.offer != nil {
			t.lapse(own)
		}
	}
	b := t.byAddr[addr]
	if b == nil || !t.mine(b, c) || b.who != c {
		b = t.take(addr, c)
	}
	undos = append(undos, t.change(b, func() {
		b.state, b.expires, b.hostname = Bound, expires, hostname
	}))
	t.closeOffer(b)
	t.byClient[c] = b
	t.lastOfMAC[c.mac] = addr
	t.rememberID(c.id, addr)
	return append(leases, t.lease(b)), undos
}

// release ends a client's lease of an address; nothing happens if it has none.
func (t *table) release(c client, addr uint32, now int64) ([]Lease, []undo) {
	b := t.byAddr[addr]
	if !t.mine(b, c) {
		return nil, nil
	}
	return t.end(b, now)
}

// end takes a binding away from its owner, who is remembered.
func (t *table) end(b *binding, now int64) ([]Lease, []undo) {
	if b.state != Bound {
		t.lapse(b)
		return nil, nil
	}
	t.closeOffer(b)
	u := t.change(b, func() { b.state, b.expires = Released, min(b.expires, now) })
	return []Lease{t.lease(b)}, []undo{u}
}

// setAside gives an address to nobody for a while: somebody who has no lease
// uses it.
func (t *table) setAside(addr uint32, now int64) ([]Lease, []undo) {
	b := t.take(addr, client{})
	t.closeOffer(b)
	u := t.change(b, func() { b.state, b.expires = Declined, now+asideSeconds })
	return []Lease{t.lease(b)}, []undo{u}
}

func (t *table) change(b *binding, edit func()) undo {
	u := undo{addr: b.addr, before: *b}
	edit()
	t.editions++
	b.edition, u.edition = t.editions, t.editions
	t.reindex(b)
	return u
}

// takeBack restores a binding whose change did not reach the disk. One that was
// only offered stays an offer, so that the client can ask again.
func (t *table) takeBack(u undo, now int64) {
	b := t.byAddr[u.addr]
	if b == nil || b.edition != u.edition || b.who != u.before.who {
		return
	}
	b.state, b.expires, b.hostname = u.before.state, u.before.expires, u.before.hostname
	t.reindex(b)
	if b.state == "" {
		t.openOffer(b, now)
	}
}

// used counts the live addresses of the range, and size those that can be given
// to clients without a reservation.
func (t *table) used(now int64) (used, size int) {
	for _, b := range t.byAddr {
		if b.live(now) && b.addr >= t.first && b.addr <= t.last {
			used++
		}
	}
	return used, int(t.free.n)
}
