package dhcp

import (
	"container/heap"
	"container/list"
	"encoding/binary"
	"encoding/hex"
	"hash/fnv"
	"net/netip"

	"drawbridge/internal/host"
)

// Times and bounds of the choice of addresses, in seconds and in numbers.
const (
	// offerSeconds is how long an address is kept for a client that was offered it.
	offerSeconds = 60
	// offerGrace is how long an offer is safe when there are no addresses left.
	offerGrace = 5
	// asideSeconds is how long an address that somebody else uses is given to nobody.
	asideSeconds = 600
	// maxOffers bounds the offers of a bridge; beyond it the oldest lapses.
	maxOffers = 4096
	// maxRange bounds the addresses of a pool; a longer range is cut.
	maxRange = 1 << 24
)

// binding is what the table knows about one address that was ever given away.
type binding struct {
	addr     uint32
	who      client
	hostname string
	// state is "" as long as the address was only offered.
	state   State
	expires int64
	// offer is the element in table.offers, nil when there is no offer open
	// that ends at offeredUntil.
	offer        *list.Element
	offeredUntil int64
	// age is the index in table.aging, -1 when it is not in there.
	age int
	// edition numbers the last change, so that one that did not reach the disk
	// can be taken back unless something newer happened.
	edition uint64
}

// live says whether nobody but the owner may be given the address.
func (b *binding) live(now int64) bool {
	return b.offeredUntil > now || ((b.state == Bound || b.state == Declined) && b.expires > now)
}

// table holds the addresses of one pool: who has which, and which is next. It
// is not safe for use by several goroutines. Times are seconds since 1970.
// Finding an address takes O(log n).
type table struct {
	network     string
	subnet      netip.Prefix
	server      uint32
	first, last uint32 // first > last: no range

	byAddr   map[uint32]*binding
	byClient map[client]*binding
	// lastOfMAC and lastOfID say which address a MAC or client id had last,
	// whoever has it now.
	lastOfMAC map[[6]byte]uint32
	lastOfID  map[string]uint32
	// reserved and reservedFor are the reservations, both ways.
	reserved    map[[6]byte]uint32
	reservedFor map[uint32][6]byte
	// free are the addresses of the range, counted from first, that nobody
	// ever had and nobody reserved.
	free *bitset
	// aging are the bindings in the range that were once bound and are not
	// offered, the soonest to expire first; offers are all open offers, the
	// oldest first.
	aging  aging
	offers *list.List
	// editions counts the changes of all bindings.
	editions uint64
}

// sameAddresses says whether two pools can share a table.
func sameAddresses(a, b host.Pool) bool {
	return a.Network == b.Network && a.Server == b.Server && a.First == b.First && a.Last == b.Last
}

// inherit takes over the leases of a table that this one replaces.
func (t *table) inherit(old *table) {
	t.editions = old.editions
	for _, b := range old.byAddr {
		if b.state != "" {
			t.load(old.lease(b))
		}
	}
}

// newTable makes the table of a pool without leases.
func newTable(p host.Pool) *table {
	t := &table{
		network: p.Network, subnet: p.Server.Masked(), server: toInt(p.Server.Addr()), first: 1, last: 0,
		byAddr: map[uint32]*binding{}, byClient: map[client]*binding{},
		lastOfMAC: map[[6]byte]uint32{}, lastOfID: map[string]uint32{},
		reserved: map[[6]byte]uint32{}, reservedFor: map[uint32][6]byte{}, offers: list.New(),
	}
	if p.First.Is4() && p.Last.Is4() && !p.Last.Less(p.First) {
		t.first, t.last = toInt(p.First), toInt(p.Last)
		t.last = min(t.last, t.first+min(maxRange-1, ^t.first))
	}
	t.free = newBitset(t.last - t.first + 1)
	for i := range t.free.n {
		if t.dynamic(t.first + i) {
			t.free.add(i)
		}
	}
	return t
}

// load puts a stored lease into the table; leases that do not fit the pool, or
// whose client has a newer one, only count as memories.
func (t *table) load(l Lease) {
	addr := toInt(l.Addr)
	if !l.Addr.Is4() || !t.subnet.Contains(l.Addr) {
		return
	}
	who, ok := clientOf(l)
	if !ok && l.State != Declined {
		return
	}
	b := t.take(addr, who)
	b.state, b.expires, b.hostname = l.State, l.Expires, l.Hostname
	t.reindex(b)
	if l.State == Declined {
		return
	}
	if rival := t.byClient[who]; rival == nil || rival.expires <= b.expires {
		t.byClient[who] = b
		t.lastOfMAC[who.mac] = addr
		t.rememberID(who.id, addr)
	}
}

// dynamic says whether the address may be given to clients without reservation.
func (t *table) dynamic(addr uint32) bool {
	if addr < t.first || addr > t.last || !t.usable(addr) {
		return false
	}
	_, reserved := t.reservedFor[addr]
	return !reserved
}

// usable says whether a client can have the address at all: it is in the
// subnet, and not the server's, nor the subnet's own or broadcast address
// (unless the subnet has just two addresses, RFC 3021).
func (t *table) usable(addr uint32) bool {
	if addr == t.server || !t.subnet.Contains(toAddr(addr)) {
		return false
	}
	if t.subnet.Bits() >= 31 {
		return true
	}
	hostBits := uint32(1)<<(32-t.subnet.Bits()) - 1
	return addr&hostBits != 0 && addr&hostBits != hostBits
}

// reserve ties an address to a MAC, until unreserve.
func (t *table) reserve(mac [6]byte, addr uint32) {
	if old, ok := t.reserved[mac]; ok {
		if old == addr {
			return
		}
		t.unreserve(mac, old)
	}
	if !t.usable(addr) {
		return
	}
	t.reserved[mac] = addr
	t.reservedFor[addr] = mac
	t.reindexAddr(addr)
}

func (t *table) unreserve(mac [6]byte, addr uint32) {
	if t.reserved[mac] == addr {
		delete(t.reserved, mac)
	}
	if t.reservedFor[addr] == mac {
		delete(t.reservedFor, addr)
	}
	t.reindexAddr(addr)
}

// reindexAddr puts an address into the one of free and aging that it belongs in.
func (t *table) reindexAddr(addr uint32) {
	if b, ok := t.byAddr[addr]; ok {
		t.reindex(b)
		return
	}
	if addr < t.first || addr > t.last {
		return
	}
	if t.dynamic(addr) {
		t.free.add(addr - t.first)
	} else {
		t.free.remove(addr - t.first)
	}
}

// reindex puts a binding where it belongs in aging after it changed.
func (t *table) reindex(b *binding) {
	wanted := b.state != "" && b.offer == nil && t.dynamic(b.addr)
	switch {
	case wanted && b.age >= 0:
		heap.Fix(&t.aging, b.age)
	case wanted:
		heap.Push(&t.aging, b)
	case b.age >= 0:
		heap.Remove(&t.aging, b.age)
	}
}

// take makes the binding of an address, or hands it over, to a client. Whatever
// the former owner had is forgotten.
func (t *table) take(addr uint32, who client) *binding {
	b, ok := t.byAddr[addr]
	if !ok {
		b = &binding{addr: addr, age: -1}
		t.byAddr[addr] = b
		if addr >= t.first && addr <= t.last {
			t.free.remove(addr - t.first)
		}
	}
	if b.who != who {
		t.closeOffer(b)
		t.forgetOwner(b)
		b.who, b.hostname, b.state, b.expires = who, "", "", 0
		t.reindex(b)
	}
	return b
}

// forgetOwner removes what leads from a client to the binding.
func (t *table) forgetOwner(b *binding) {
	if t.byClient[b.who] == b {
		delete(t.byClient, b.who)
	}
	if t.lastOfMAC[b.who.mac] == b.addr {
		delete(t.lastOfMAC, b.who.mac)
	}
	if t.lastOfID[b.who.id] == b.addr {
		delete(t.lastOfID, b.who.id)
	}
}

// forget makes an address one that nobody ever had.
func (t *table) forget(b *binding) {
	t.closeOffer(b)
	t.forgetOwner(b)
	if b.age >= 0 {
		heap.Remove(&t.aging, b.age)
	}
	delete(t.byAddr, b.addr)
	t.reindexAddr(b.addr)
}

// openOffer keeps the address for its owner for a while from now.
func (t *table) openOffer(b *binding, now int64) {
	t.closeOffer(b)
	b.offeredUntil = now + offerSeconds
	b.offer = t.offers.PushBack(b)
	t.reindex(b)
}

func (t *table) closeOffer(b *binding) {
	if b.offer != nil {
		t.offers.Remove(b.offer)
		b.offer, b.offeredUntil = nil, 0
		t.reindex(b)
	}
}

// lapse ends an offer that was not taken.
func (t *table) lapse(b *binding) {
	if b.state == "" {
		t.forget(b)
		return
	}
	t.closeOffer(b)
}

// sweep ends the offers whose time is over.
func (t *table) sweep(now int64) {
	for e := t.offers.Front(); e != nil; e = t.offers.Front() {
		b := e.Value.(*binding)
		if b.offeredUntil > now {
			return
		}
		t.lapse(b)
	}
}

func (t *table) rememberID(id string, addr uint32) {
	if id != "" {
		t.lastOfID[id] = addr
	}
}

// lease is the binding as it is stored.
func (t *table) lease(b *binding) Lease {
	l := Lease{Network: t.network, Addr: toAddr(b.addr), Hostname: b.hostname, Expires: b.expires, State: b.state}
	if b.who.mac != [6]byte{} {
		l.MAC, l.ClientID = formatMAC(b.who.mac), hex.EncodeToString([]byte(b.who.id))
	}
	return l
}

// spread is the same number below n for the same MAC, always, and different
// ones for different MACs mostly.
func spread(mac [6]byte, n uint32) uint32 {
	h := fnv.New32a()
	h.Write(mac[:])
	return h.Sum32() % n
}

func toInt(a netip.Addr) uint32 {
	if !a.Is4() {
		return 0
	}
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func toAddr(i uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], i)
	return netip.AddrFrom4(b)
}

// aging is a heap of bindings, the soonest to expire on top.
type aging []*binding

func (a aging) Len() int           { return len(a) }
func (a aging) Less(i, j int) bool { return a[i].expires < a[j].expires }
func (a aging) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].age, a[j].age = i, j
}

func (a *aging) Push(x any) {
	b := x.(*binding)
	b.age = len(*a)
	*a = append(*a, b)
}

func (a *aging) Pop() any {
	old := *a
	b := old[len(old)-1]
	old[len(old)-1] = nil
	*a = old[:len(old)-1]
	b.age = -1
	return b
}
