package dns

import (
	"encoding/binary"
	"net/netip"
)

// worker is what one receiver needs to answer without allocating.
type worker struct{ q question }

// source says where an answer came from.
type source uint8

const (
	fromNowhere source = iota // the fast path has no answer
	fromTable
	fromCache
)

// fast answers a packet from the tables or the cache into out, which is at most
// limit bytes long if limit is not 0, else as long as a UDP client can take. It
// returns the length of the answer, or fromNowhere when the slow path has to
// look. It must give the answer that the slow path would: a fuzz test compares.
func (s *Server) fast(w *worker, t *tables, z *zone, p, out []byte, limit int) (int, source) {
	q := &w.q
	if !q.parse(p) {
		return 0, fromNowhere
	}
	if limit == 0 {
		limit = q.limit()
	}
	out = out[:min(limit, len(out))]
	switch q.typ {
	case typeA, typeAAAA, typePTR, typeMX, typeTXT, typeSRV, typeSVCB, typeHTTPS:
	default:
		if n := s.fromCache(q, z, p, out); n > 0 {
			return n, fromCache
		}
		return 0, fromNowhere
	}
	f := s.local(q, t, z)
	switch f.what {
	case exists, nowhere:
		e := encoder{out: out, q: q, z: z}
		e.begin(p, flagAA)
		e.local(&f, byte(f.what))
		return e.finish(), fromTable
	case elsewhere:
		if n := s.fromCache(q, z, p, out); n > 0 {
			return n, fromCache
		}
	}
	return 0, fromNowhere
}

func (s *Server) fromCache(q *question, z *zone, p, out []byte) int {
	if !z.Forward {
		return 0
	}
	var key [maxKey]byte
	c, age := s.cache.get(q.key(key[:0]))
	if c == nil {
		return 0
	}
	return c.write(q, p, out, age)
}

// encoder writes an answer straight into a packet. Once something does not fit,
// nothing more is written and finish marks the answer truncated.
type encoder struct {
	out     []byte
	n       int
	q       *question
	z       *zone
	full    bool
	answers uint16
	authors uint16
}

// begin writes the header and copies the question with the client's own case.
func (e *encoder) begin(p []byte, flags uint16) {
	binary.BigEndian.PutUint16(e.out, e.q.id)
	flags |= flagQR | e.q.flags&(flagRD|flagCD)
	if e.z.Forward {
		flags |= flagRA
	}
	binary.BigEndian.PutUint16(e.out[2:], flags)
	e.n = copy(e.out[headerSize:], p[headerSize:e.q.end()]) + headerSize
}

// local writes what was found, by the question's type.
func (e *encoder) local(f *found, w byte) {
	const nxdomain = 3
	if what(w) == nowhere {
		e.out[3] |= nxdomain
		e.soa(f)
		return
	}
	switch {
	case f.ptr != "" && e.q.typ == typePTR:
		if r := e.record(headerSize, typePTR, localTTL, 1+len(f.ptr)+len(f.ptrOrigin)); r != nil {
			r[0] = byte(len(f.ptr))
			copy(r[1:], f.ptr)
			copy(r[1+len(f.ptr):], f.ptrOrigin)
			e.answers++
		}
	case len(f.addrs(e.q.typ)) > 0:
		for _, a := range f.addrs(e.q.typ) {
			e.address(a)
		}
	default:
		e.soa(f)
	}
}

func (e *encoder) address(a netip.Addr) {
	if a.Is4() {
		if r := e.record(headerSize, typeA, localTTL, 4); r != nil {
			b := a.As4()
			copy(r, b[:])
			e.answers++
		}
		return
	}
	if r := e.record(headerSize, typeAAAA, localTTL, 16); r != nil {
		b := a.As16()
		copy(r, b[:])
		e.answers++
	}
}

// soa writes the start of authority that bounds how long the client may remember
// that there is nothing (RFC 2308 section 3); special names have none.
func (e *encoder) soa(f *found) {
	if f.zone == nil {
		return
	}
	name := e.q.n - 1 // the root label, if the zone has no domain
	if f.cut < e.q.labels {
		name = int(e.q.starts[f.cut])
	}
	if r := e.record(headerSize+name, typeSOA, negativeTTL, len(f.zone.soa)); r != nil {
		copy(r, f.zone.soa)
		e.authors++
	}
}

// record begins a record whose name stands at offset at, and returns the room
// for its data, or nil if there is none.
func (e *encoder) record(at, typ int, ttl uint32, size int) []byte {
	end := e.n + 12 + size
	if e.full || end+e.reserve() > len(e.out) {
		e.full = true
		return nil
	}
	r := e.out[e.n:end]
	binary.BigEndian.PutUint16(r, 0xc000|uint16(at))
	binary.BigEndian.PutUint16(r[2:], uint16(typ))
	binary.BigEndian.PutUint16(r[4:], classIN)
	binary.BigEndian.PutUint32(r[6:], ttl)
	binary.BigEndian.PutUint16(r[10:], uint16(size))
	e.n = end
	return r[12:]
}

func (e *encoder) reserve() int {
	if e.q.edns {
		return optSize
	}
	return 0
}

// finish writes the counts and the OPT record and returns the length.
func (e *encoder) finish() int {
	if e.full {
		// Part of an answer is of no use: the client asks again over TCP.
		e.n, e.answers, e.authors = e.q.end(), 0, 0
		e.out[2] |= flagTC >> 8
	}
	binary.BigEndian.PutUint16(e.out[4:], 1)
	binary.BigEndian.PutUint16(e.out[6:], e.answers)
	binary.BigEndian.PutUint16(e.out[8:], e.authors)
	extra := uint16(0)
	if e.q.edns {
		e.n += putOPT(e.out[e.n:], e.q.do)
		extra = 1
	}
	binary.BigEndian.PutUint16(e.out[10:], extra)
	return e.n
}

// putOPT writes an OPT record without options (RFC 6891 section 6.1.2).
func putOPT(b []byte, do bool) int {
	copy(b, "\x00\x00\x29\x00\x00\x00\x00\x00\x00\x00\x00")
	binary.BigEndian.PutUint16(b[3:], ednsSize)
	if do {
		b[7] = 0x80
	}
	return optSize
}
