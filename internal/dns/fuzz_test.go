package dns

import (
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// fuzzServer has names, and answers of an upstream server in its cache.
func fuzzServer(t testing.TB) *Server {
	s := threeNetworks(t, Config{})
	for _, text := range []string{"x.example.org. 60 IN A 198.18.0.1", "x.example.org. 60 IN AAAA 2001:db8::1", "x.example.org. 60 IN TXT \"v\""} {
		rr, err := mdns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		m := new(mdns.Msg).SetQuestion("X.example.org.", rr.Header().Rrtype)
		m.Answer = append(m.Answer, rr)
		e, ttl, err := newCached(m, s.now())
		if err != nil {
			t.Fatal(err)
		}
		var q question
		if !q.parse(pack(t, "x.example.org.", rr.Header().Rrtype)) {
			t.Fatal("not a question")
		}
		s.cache.put(string(q.key(nil)), e, ttl+time.Hour, s.cache.generation())
	}
	return s
}

// FuzzPaths gives any packet to both paths: neither may panic, and where the fast
// one answers, the full library must say the same.
func FuzzPaths(f *testing.F) {
	for _, name := range []string{
		"web.", "web.default.internal.", "none.default.internal.", "default.internal.", "internal.", ".", "x.example.org.", "y.example.org.",
		"50.122.168.192.in-addr.arpa.", "122.168.192.in-addr.arpa.", "9.20.10.in-addr.arpa.", "a.b.localhost.", "_x.resolver.arpa.",
		"0.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.a.0.0.0.0.0.d.f.ip6.arpa.", "secret.lone.internal.", "db.lab.internal.",
	} {
		for _, typ := range []uint16{mdns.TypeA, mdns.TypeAAAA, mdns.TypePTR, mdns.TypeANY, mdns.TypeSOA, mdns.TypeTXT} {
			f.Add(pack(f, name, typ))
			f.Add(pack(f, name, typ, edns(1232, true)))
		}
	}
	s := fuzzServer(f)
	f.Fuzz(func(t *testing.T, p []byte) {
		for bridge, client := range map[string]string{"virbr0": "192.168.122.60", "virbr2": "10.30.0.160"} {
			handle(t, s, bridge, addr(client), p)
		}
	})
}

// FuzzUpstream reads any packet as an upstream server's answer: what is kept of
// it can be read again, and can be written for a client at any age.
func FuzzUpstream(f *testing.F) {
	fl := &flight{}
	if !fl.q.parse(pack(f, "x.example.org.", mdns.TypeA)) {
		f.Fatal("not a question")
	}
	fl.mixed = fl.q.name[:fl.q.n]
	query := fl.query(true)
	query[0], query[1] = 0, 0
	r := new(mdns.Msg)
	if err := r.Unpack(query); err != nil {
		f.Fatal(err)
	}
	for _, m := range []*mdns.Msg{
		records(r, 0, "x.example.org. 60 IN CNAME y.example.org.", "y.example.org. 5 IN A 198.18.0.1"),
		records(r, mdns.RcodeNameError, "example.org. 900 IN SOA ns.example.org. h.example.org. 7 1 1 1 30"),
		records(r, 0, "x.example.org. 60 IN TXT hello", "x.example.org. 60 IN MX 5 m.example.org."),
	} {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		m, err := check(p, query, query[headerSize:headerSize+len(fl.mixed)+4])
		if err != nil || m.Truncated {
			return
		}
		m.Question = []mdns.Question{{Name: "x.example.org.", Qtype: mdns.TypeA, Qclass: classIN}}
		e, _, err := newCached(m, time.Unix(1000, 0))
		if err != nil {
			return
		}
		for _, size := range []int{minSize, ednsSize, 65535} {
			out := make([]byte, size)
			n := e.write(&fl.q, query, out, 30)
			if err := new(mdns.Msg).Unpack(out[:n]); err != nil {
				t.Fatalf("%x is kept as %x, written as %x: %v", p, e.wire, out[:n], err)
			}
		}
	})
}
