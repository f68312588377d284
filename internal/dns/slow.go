package dns

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	mdns "github.com/miekg/dns"
)

// asked is one question on its way through the slow path.
type asked struct {
	q question
	// packet holds header and question as the client sent them, so that the
	// question can be given back in the client's own case.
	packet []byte
	zone   *zone
	client netip.Addr
	// limit is how long the answer may be.
	limit int
	began time.Time
	// send hands the answer over. It is called once, or never if the question is
	// to be dropped; perhaps from another goroutine.
	send func([]byte)
}

// slow answers any packet by the full library, at once or later. It is false if
// there will be no answer.
func (s *Server) slow(t *tables, z *zone, client netip.Addr, p []byte, overTCP bool, began time.Time, send func([]byte)) bool {
	if len(p) < headerSize || p[2]&0x80 != 0 {
		z.stats.malformed.Add(1) // an answer is never answered: it could go on forever
		return false
	}
	m, err := unpack(p)
	if err != nil {
		z.stats.malformed.Add(1)
		send(bareReply(p, mdns.RcodeFormatError))
		return true
	}
	a := &asked{zone: z, client: client, began: began, send: send, limit: mdns.MaxMsgSize}
	r := new(mdns.Msg)
	r.SetReply(m)
	r.RecursionAvailable, r.CheckingDisabled = z.Forward, m.CheckingDisabled
	opts := 0
	for _, rr := range m.Extra {
		if rr.Header().Rrtype == mdns.TypeOPT {
			opts++
		}
	}
	opt := m.IsEdns0()
	if opt != nil {
		a.q.edns, a.q.do, a.q.size = true, opt.Do(), opt.UDPSize()
		r.SetEdns0(ednsSize, opt.Do())
	}
	if !overTCP {
		a.limit = a.q.limit()
	}
	switch {
	case m.Opcode != mdns.OpcodeQuery:
		r.Rcode = mdns.RcodeNotImplemented
	case len(m.Question) != 1 || opts > 1: // RFC 9619, RFC 6891 section 6.1.1
		z.stats.malformed.Add(1)
		send(bareReply(p, mdns.RcodeFormatError))
		return true
	case opt != nil && opt.Version() != 0:
		r.Rcode = mdns.RcodeBadVers
	case m.Question[0].Qclass != mdns.ClassINET:
		r.Rcode = mdns.RcodeRefused
	case !a.take(m):
		r.Rcode = mdns.RcodeFormatError
	default:
		return s.decide(a, t, r)
	}
	a.reply(r)
	return true
}

// unpack reads a message. Should the library trip over a packet, that must not
// let one guest take the service from all.
func unpack(p []byte) (m *mdns.Msg, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("read message: %v", r)
		}
	}()
	m = new(mdns.Msg)
	return m, m.Unpack(p)
}

// take fills in the question.
func (a *asked) take(m *mdns.Msg) bool {
	name := make([]byte, maxName+1)
	n, err := mdns.PackDomainName(m.Question[0].Name, name, 0, nil, false)
	if err != nil || !a.q.setName(name[:n]) {
		return false
	}
	a.q.id, a.q.typ, a.q.class = m.Id, m.Question[0].Qtype, classIN
	if m.RecursionDesired {
		a.q.flags |= flagRD
	}
	if m.CheckingDisabled {
		a.q.flags |= flagCD
	}
	a.packet = append(make([]byte, headerSize, headerSize+n+4), name[:n]...)
	a.packet = binary.BigEndian.AppendUint16(a.packet, a.q.typ)
	a.packet = binary.BigEndian.AppendUint16(a.packet, classIN)
	return true
}

// decide answers from the tables or the cache, or asks elsewhere.
func (s *Server) decide(a *asked, t *tables, r *mdns.Msg) bool {
	switch a.q.typ {
	case mdns.TypeAXFR, mdns.TypeIXFR, mdns.TypeMAILA, mdns.TypeMAILB, mdns.TypeOPT, mdns.TypeTSIG, mdns.TypeTKEY:
		r.Rcode = mdns.RcodeRefused
		a.zone.stats.failed.Add(1)
		a.reply(r)
		return true
	}
	f := s.local(&a.q, t, a.zone)
	switch f.what {
	case exists, nowhere:
		a.zone.stats.local.Add(1)
		r.Authoritative = true
		s.fill(r, &f)
		a.reply(r)
		return true
	case forbidden:
		a.zone.stats.failed.Add(1)
		r.Rcode = mdns.RcodeRefused
		explain(r, mdns.ExtendedErrorCodeProhibited, "network "+a.zone.Network+" is isolated: names elsewhere are not looked up")
		a.reply(r)
		return true
	}
	if a.zone.Forward {
		if c, age := s.cache.get(a.q.key(nil)); c != nil {
			a.zone.stats.cached.Add(1)
			a.answer(c, age)
			return true
		}
	}
	return s.forward(a, t)
}

// fill enters what was found, by the question's type.
func (s *Server) fill(r *mdns.Msg, f *found) {
	q := r.Question[0]
	head := func(name string, typ uint16, ttl uint32) mdns.RR_Header {
		return mdns.RR_Header{Name: name, Rrtype: typ, Class: mdns.ClassINET, Ttl: ttl}
	}
	if f.what == nowhere {
		r.Rcode = mdns.RcodeNameError
	} else {
		if q.Qtype == mdns.TypeANY {
			// RFC 8482 section 4.2: an answer that ends the search for more.
			r.Answer = append(r.Answer, &mdns.HINFO{Hdr: head(q.Name, mdns.TypeHINFO, localTTL), Cpu: "RFC8482"})
		}
		for _, a := range f.addrs(q.Qtype) {
			if a.Is4() {
				r.Answer = append(r.Answer, &mdns.A{Hdr: head(q.Name, mdns.TypeA, localTTL), A: a.AsSlice()})
			} else {
				r.Answer = append(r.Answer, &mdns.AAAA{Hdr: head(q.Name, mdns.TypeAAAA, localTTL), AAAA: a.AsSlice()})
			}
		}
		if q.Qtype == mdns.TypePTR && f.ptr != "" {
			r.Answer = append(r.Answer, &mdns.PTR{Hdr: head(q.Name, mdns.TypePTR, localTTL), Ptr: textName(wireLabel(f.ptr) + f.ptrOrigin)})
		}
		if f.apex && q.Qtype == mdns.TypeNS {
			r.Answer = append(r.Answer, &mdns.NS{Hdr: head(q.Name, mdns.TypeNS, localTTL), Ns: textName(f.zone.nameServer())})
		}
	}
	if f.zone == nil || len(r.Answer) > 0 {
		return
	}
	labels := mdns.Split(q.Name)
	owner := "."
	if f.cut < len(labels) {
		owner = q.Name[labels[f.cut]:]
	}
	// The serial does not count changes: nobody transfers the zone.
	soa := &mdns.SOA{
		Hdr: head(owner, mdns.TypeSOA, negativeTTL), Ns: textName(f.zone.nameServer()),
		Mbox: textName(wireLabel("hostmaster") + f.zone.origin), Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: negativeTTL,
	}
	if f.apex && q.Qtype == mdns.TypeSOA {
		r.Answer = append(r.Answer, soa)
		return
	}
	r.Ns = append(r.Ns, soa)
}

// textName turns a wire name of letters, digits and hyphens into text with a
// trailing dot.
func textName(wire string) string {
	name, _, err := mdns.UnpackDomainName([]byte(wire), 0)
	if err != nil {
		return "."
	}
	return name
}

// explain adds an extended error (RFC 8914) if the client can take one.
func explain(r *mdns.Msg, code uint16, text string) {
	if opt := r.IsEdns0(); opt != nil {
		opt.Option = append(opt.Option, &mdns.EDNS0_EDE{InfoCode: code, ExtraText: text})
	}
}

// reply packs and sends r, truncated if it is too long.
func (a *asked) reply(r *mdns.Msg) {
	r.Compress = true
	b, err := r.Pack()
	if err == nil && len(b) > a.limit {
		r.Truncated = true
		r.Answer, r.Ns = nil, nil
		b, err = r.Pack()
	}
	if err != nil {
		a.zone.stats.failed.Add(1)
		b = bareReply([]byte{byte(r.Id >> 8), byte(r.Id), 0, 0}, mdns.RcodeServerFailure)
	}
	a.finish(b)
}

// answer sends a cached answer.
func (a *asked) answer(c *cached, age uint32) {
	out := make([]byte, min(a.limit, len(c.wire)+optSize))
	a.finish(out[:c.write(&a.q, a.packet, out, age)])
}

// fail sends SERVFAIL or another code with the reason.
func (a *asked) fail(rcode int, code uint16, text string) {
	a.zone.stats.failed.Add(1)
	var m mdns.Msg
	m.Id, m.RecursionDesired, m.CheckingDisabled = a.q.id, a.q.flags&flagRD != 0, a.q.flags&flagCD != 0
	name, _, err := mdns.UnpackDomainName(a.packet, headerSize)
	if err == nil {
		m.Question = []mdns.Question{{Name: name, Qtype: a.q.typ, Qclass: classIN}}
	}
	r := new(mdns.Msg)
	r.SetRcode(&m, rcode)
	r.RecursionAvailable, r.CheckingDisabled = a.zone.Forward, m.CheckingDisabled
	if a.q.edns {
		r.SetEdns0(ednsSize, a.q.do)
	}
	explain(r, code, text)
	a.reply(r)
}

func (a *asked) finish(b []byte) {
	a.zone.stats.latency.Observe(time.Since(a.began), 1)
	a.send(b)
}

// bareReply is an answer of a header alone, for questions that could not be read.
func bareReply(p []byte, rcode int) []byte {
	b := make([]byte, headerSize)
	copy(b, p[:2])
	b[2] = 0x80 | p[2]&0x79 // the opcode and RD come back
	b[3] = byte(rcode)
	return b
}
