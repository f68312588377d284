package dns

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
)

// Bounds of the cache and of what it keeps.
const (
	maxCached      = 10_000
	maxCachedBytes = 8 << 20
	maxCachedSize  = 8 << 10
	// Longer lifetimes are cut (RFC 8767 section 4 for positive answers, RFC 2308
	// section 5 for negative ones).
	maxTTL         = 24 * 3600
	maxNegativeTTL = 3 * 3600
	maxKey         = maxName + 3
)

// cache keeps answers of upstream servers as packets.
type cache struct {
	now func() time.Time

	mu    sync.RWMutex
	byKey map[string]*cached
	bytes int
	epoch uint64
}

// cached is an answer in wire form without an OPT record. It is never changed.
type cached struct {
	wire []byte
	// ttls are the offsets of the lifetimes in wire.
	ttls    []uint16
	stored  time.Time
	expires time.Time
}

func newCache(now func() time.Time) *cache { return &cache{now: now, byKey: map[string]*cached{}} }

// key appends what an answer depends on: the question, and whether the client
// wants signatures and unchecked data.
func (q *question) key(b []byte) []byte {
	b = append(b, q.name[:q.n]...)
	b = binary.BigEndian.AppendUint16(b, q.typ)
	var bits byte
	if q.do {
		bits |= 1
	}
	if q.flags&flagCD != 0 {
		bits |= 2
	}
	return append(b, bits)
}

// get returns what is cached under key and its age in seconds, or nil.
func (c *cache) get(key []byte) (*cached, uint32) {
	c.mu.RLock()
	e := c.byKey[string(key)]
	c.mu.RUnlock()
	if e == nil {
		return nil, 0
	}
	now := c.now()
	if !now.Before(e.expires) {
		return nil, 0
	}
	return e, uint32(now.Sub(e.stored) / time.Second)
}

// generation is to be taken before an answer is asked for and given to put, so
// that an answer from before a flush is not remembered after it.
func (c *cache) generation() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.epoch
}

// put remembers e for ttl. A full cache gives up whatever of a random sample
// would expire first.
func (c *cache) put(key string, e *cached, ttl time.Duration, generation uint64) {
	if ttl <= 0 || len(e.wire) > maxCachedSize {
		return
	}
	e.expires = e.stored.Add(ttl)
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation != c.epoch {
		return
	}
	c.drop(key)
	for len(c.byKey) >= maxCached || c.bytes+len(e.wire) > maxCachedBytes {
		var victim string
		var soonest time.Time
		n := 0
		for k, o := range c.byKey {
			if n == 0 || o.expires.Before(soonest) {
				victim, soonest = k, o.expires
			}
			if n++; n == 8 {
				break
			}
		}
		c.drop(victim)
	}
	c.byKey[key] = e
	c.bytes += len(e.wire)
}

func (c *cache) drop(key string) {
	if e := c.byKey[key]; e != nil {
		c.bytes -= len(e.wire)
		delete(c.byKey, key)
	}
}

func (c *cache) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.byKey)
	c.bytes = 0
	c.epoch++
}

// newCached makes the canonical form of an upstream's answer: our own packing,
// without OPT and signatures of the transaction, with our flags. The lifetime is
// how long it may be kept, zero for not at all.
func newCached(m *mdns.Msg, now time.Time) (*cached, time.Duration, error) {
	ttl := lifetime(m)
	m.Compress = true
	m.Authoritative, m.AuthenticatedData, m.Zero, m.Truncated = false, false, false, false
	m.Response, m.RecursionAvailable = true, true
	extra := m.Extra[:0:0]
	for _, rr := range m.Extra {
		if t := rr.Header().Rrtype; t != mdns.TypeOPT && t != mdns.TypeTSIG && t != mdns.TypeSIG {
			extra = append(extra, rr)
		}
	}
	m.Extra = extra
	wire, err := m.Pack()
	if err != nil {
		return nil, 0, fmt.Errorf("pack answer: %w", err)
	}
	// The library reads records without data, and packs them into what nobody can
	// read (found by fuzzing): guests must not be sent that.
	if _, err := unpack(wire); err != nil {
		return nil, 0, fmt.Errorf("answer cannot be passed on: %w", err)
	}
	e := &cached{wire: wire, stored: now}
	at := headerSize
	if _, at, err = mdns.UnpackDomainName(wire, at); err != nil {
		return nil, 0, err
	}
	at += 4
	for range len(m.Answer) + len(m.Ns) + len(m.Extra) {
		if _, at, err = mdns.UnpackDomainName(wire, at); err != nil {
			return nil, 0, err
		}
		e.ttls = append(e.ttls, uint16(at+4))
		at += 10 + int(binary.BigEndian.Uint16(wire[at+8:]))
	}
	return e, ttl, nil
}

// lifetime is the least lifetime of the records; of a negative answer it is what
// the start of authority says (RFC 2308 section 5), and without one the answer is
// not to be kept.
func lifetime(m *mdns.Msg) time.Duration {
	least := uint32(maxTTL)
	for _, section := range [][]mdns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != mdns.TypeOPT {
				least = min(least, h.Ttl)
			}
		}
	}
	positive := false
	for _, rr := range m.Answer {
		t := rr.Header().Rrtype
		positive = positive || t == m.Question[0].Qtype || m.Question[0].Qtype == mdns.TypeANY
	}
	switch {
	case m.Rcode == mdns.RcodeSuccess && positive:
		return time.Duration(least) * time.Second
	case m.Rcode == mdns.RcodeSuccess || m.Rcode == mdns.RcodeNameError:
		for _, rr := range m.Ns {
			if soa, ok := rr.(*mdns.SOA); ok {
				return time.Duration(min(least, soa.Minttl, maxNegativeTTL)) * time.Second
			}
		}
	}
	return 0
}

// write copies the answer into out for a client that asked q in packet p, with
// lifetimes shortened by age. It returns the length; an answer that does not fit
// is replaced by a truncated one.
func (c *cached) write(q *question, p, out []byte, age uint32) int {
	end := q.end()
	size, extra := len(c.wire), binary.BigEndian.Uint16(c.wire[10:])
	if q.edns {
		size += optSize
	}
	short := size > len(out)
	n := 0
	if short {
		n = copy(out, c.wire[:end])
		clear(out[6:headerSize])
		extra = 0
	} else {
		n = copy(out, c.wire)
		for _, at := range c.ttls {
			ttl := binary.BigEndian.Uint32(out[at:])
			binary.BigEndian.PutUint32(out[at:], ttl-min(age, ttl))
		}
	}
	binary.BigEndian.PutUint16(out, q.id)
	flags := binary.BigEndian.Uint16(c.wire[2:])&^(flagRD|flagCD) | q.flags&(flagRD|flagCD)
	if short {
		flags |= flagTC
	}
	binary.BigEndian.PutUint16(out[2:], flags)
	copy(out[headerSize:end], p[headerSize:end])
	if q.edns {
		n += putOPT(out[n:], q.do)
		extra++
	}
	binary.BigEndian.PutUint16(out[10:], extra)
	return n
}
