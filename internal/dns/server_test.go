package dns

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
	"drawbridge/internal/nettest/dnsload"
	"drawbridge/internal/plan"
)

func TestMain(m *testing.M) {
	dnsload.Child()
	nettest.Main(m)
}

// clock is moved by hand.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// Three networks: two that reach out, one that is isolated.
var (
	zoneA = host.Zone{
		Bridge: "virbr0", Network: "default", Domain: "default.internal", Forward: true,
		Addr4: netip.MustParsePrefix("192.168.122.1/24"), Addr6: netip.MustParsePrefix("fd00:a::1/64"),
	}
	zoneB = host.Zone{
		Bridge: "virbr1", Network: "lab", Domain: "lab.internal", Forward: true,
		Addr4: netip.MustParsePrefix("10.20.0.1/22"),
	}
	zoneC = host.Zone{
		Bridge: "virbr2", Network: "lone", Domain: "lone.internal",
		Addr4: netip.MustParsePrefix("10.30.0.129/25"), Addr6: netip.MustParsePrefix("fd00:c::1/64"),
	}
)

func newTestServer(t testing.TB, c Config, zones ...host.Zone) *Server {
	t.Helper()
	if c.Hostname == "" {
		c.Hostname = "hosta"
	}
	if c.ResolvFiles == nil {
		c.ResolvFiles = []string{}
	}
	s := NewServer(c)
	for _, z := range zones {
		if err := s.Apply(context.Background(), []plan.Step{{After: z}}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func threeNetworks(t testing.TB, c Config) *Server {
	s := newTestServer(t, c, zoneA, zoneB, zoneC)
	s.Names.SetGuest("virbr0", m1, "web")
	s.Names.SetLease("virbr0", m1, addr("192.168.122.50"), "ubuntu")
	s.Names.SetNeighbour("virbr0", m1, addr("fd00:a::50"))
	s.Names.SetLease("virbr1", m2, addr("10.20.1.7"), "db")
	s.Names.SetLease("virbr2", m3, addr("10.30.0.200"), "secret")
	return s
}

// pack makes a question; edit may spoil it.
func pack(t testing.TB, name string, typ uint16, edit ...func(*mdns.Msg)) []byte {
	t.Helper()
	m := new(mdns.Msg).SetQuestion(name, typ)
	for _, e := range edit {
		e(m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func edns(size uint16, do bool) func(*mdns.Msg) {
	return func(m *mdns.Msg) { m.SetEdns0(size, do) }
}

// handle gives a packet to both paths. The slow path's answer is returned, and
// the fast one, if it has an answer, must have the same.
func handle(t testing.TB, s *Server, bridge string, client netip.Addr, p []byte) *mdns.Msg {
	t.Helper()
	b := slowly(t, s, bridge, client, p)
	if b == nil {
		return nil
	}
	m := new(mdns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("answer to %x: %v", p, err)
	}
	tables := s.tables.Load()
	var w worker
	out := make([]byte, packetSize)
	if n, src := s.fast(&w, tables, tables.byBridge[bridge], bytes.Clone(p), out, 0); src != fromNowhere {
		f := new(mdns.Msg)
		if err := f.Unpack(out[:n]); err != nil {
			t.Fatalf("fast answer to %x: %x: %v", p, out[:n], err)
		}
		if f.String() != m.String() {
			t.Fatalf("the two paths differ about %x\nfast %v\nslow %v", p, f, m)
		}
	}
	return m
}

// slowly waits for the slow path's answer; nil for none.
func slowly(t testing.TB, s *Server, bridge string, client netip.Addr, p []byte) []byte {
	t.Helper()
	tables := s.tables.Load()
	answers := make(chan []byte, 2)
	if !s.slow(tables, tables.byBridge[bridge], client, bytes.Clone(p), false, time.Now(), func(b []byte) { answers <- b }) {
		return nil
	}
	select {
	case b := <-answers:
		return b
	case <-time.After(20 * time.Second):
		t.Fatal("no answer")
		return nil
	}
}

// text writes an answer in one line: code, flags, answers, authority.
func text(m *mdns.Msg) string {
	if m == nil {
		return "dropped"
	}
	words := []string{mdns.RcodeToString[m.Rcode]}
	if m.Authoritative {
		words = append(words, "aa")
	}
	if m.Truncated {
		words = append(words, "tc")
	}
	for _, rr := range m.Answer {
		value := strings.TrimPrefix(rr.String(), rr.Header().String())
		words = append(words, mdns.TypeToString[rr.Header().Rrtype]+"="+strings.ReplaceAll(value, " ", "_"))
	}
	for _, rr := range m.Ns {
		words = append(words, "auth="+rr.Header().Name+mdns.TypeToString[rr.Header().Rrtype])
	}
	return strings.Join(words, " ")
}

func TestLocalAnswers(t *testing.T) {
	const a, b, c = "virbr0", "virbr1", "virbr2"
	tests := []struct {
		bridge, name string
		typ          uint16
		want         string
	}{
		// Names of the client's own network.
		{a, "web.default.internal.", mdns.TypeA, "NOERROR aa A=192.168.122.50"},
		{a, "WEB.Default.INTERNAL.", mdns.TypeAAAA, "NOERROR aa AAAA=fd00:a::50"},
		{a, "web.", mdns.TypeA, "NOERROR aa A=192.168.122.50"},
		{a, "web.", mdns.TypeMX, "NOERROR aa"},
		{a, "web.default.internal.", mdns.TypeMX, "NOERROR aa auth=default.internal.SOA"},
		{a, "web.default.internal.", mdns.TypeHTTPS, "NOERROR aa auth=default.internal.SOA"},
		{a, "web.default.internal.", mdns.TypeNS, "NOERROR aa auth=default.internal.SOA"},
		{a, "web.default.internal.", mdns.TypeANY, `NOERROR aa HINFO="RFC8482"_""`},
		{a, "ubuntu.default.internal.", mdns.TypeA, "NXDOMAIN aa auth=default.internal.SOA"},
		{a, "a.web.default.internal.", mdns.TypeA, "NXDOMAIN aa auth=default.internal.SOA"},
		{a, "nobody.default.internal.", mdns.TypeANY, "NXDOMAIN aa auth=default.internal.SOA"},
		{a, "nobody.", mdns.TypeA, "NXDOMAIN aa"},
		{a, "internal.", mdns.TypeA, "NOERROR aa"},
		// The host's own name has its addresses on the bridge, no loopback.
		{a, "hosta.default.internal.", mdns.TypeA, "NOERROR aa A=192.168.122.1"},
		{a, "hosta.", mdns.TypeAAAA, "NOERROR aa AAAA=fd00:a::1"},
		{b, "hosta.", mdns.TypeA, "NOERROR aa A=10.20.0.1"},
		{b, "hosta.", mdns.TypeAAAA, "NOERROR aa"},
		// The apex.
		{a, "default.internal.", mdns.TypeSOA, "NOERROR aa SOA=hosta.default.internal._hostmaster.default.internal._1_3600_600_86400_1"},
		{a, "default.internal.", mdns.TypeNS, "NOERROR aa NS=hosta.default.internal."},
		{a, "default.internal.", mdns.TypeA, "NOERROR aa auth=default.internal.SOA"},
		{a, "default.internal.", mdns.TypeDS, "NOERROR aa auth=default.internal.SOA"},
		{a, "default.internal.", mdns.TypeAXFR, "REFUSED"},
		// Reverse.
		{a, "50.122.168.192.in-addr.arpa.", mdns.TypePTR, "NOERROR aa PTR=web.default.internal."},
		{a, "1.122.168.192.in-addr.arpa.", mdns.TypePTR, "NOERROR aa PTR=hosta.default.internal."},
		{a, "51.122.168.192.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN aa auth=122.168.192.in-addr.arpa.SOA"},
		{a, "50.122.168.192.in-addr.arpa.", mdns.TypeA, "NOERROR aa auth=122.168.192.in-addr.arpa.SOA"},
		{a, "050.122.168.192.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN aa auth=122.168.192.in-addr.arpa.SOA"},
		{a, "9.50.122.168.192.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN aa auth=122.168.192.in-addr.arpa.SOA"},
		{a, "122.168.192.in-addr.arpa.", mdns.TypeSOA, "NOERROR aa SOA=hosta.default.internal._hostmaster.default.internal._1_3600_600_86400_1"},
		{a, "122.168.192.in-addr.arpa.", mdns.TypePTR, "NOERROR aa auth=122.168.192.in-addr.arpa.SOA"},
		{a, "0.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.a.0.0.0.0.0.d.f.ip6.arpa.", mdns.TypePTR, "NOERROR aa PTR=web.default.internal."},
		{a, "1.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.a.0.0.0.0.0.d.f.ip6.arpa.", mdns.TypePTR, "NXDOMAIN aa auth=0.0.0.0.0.0.0.0.a.0.0.0.0.0.d.f.ip6.arpa.SOA"},
		{a, "0.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.a.0.0.0.0.0.d.f.ip6.arpa.", mdns.TypeNS, "NOERROR aa auth=0.0.0.0.0.0.0.0.a.0.0.0.0.0.d.f.ip6.arpa.SOA"},
		{a, "0.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.A.0.0.0.0.0.D.F.ip6.arpa.", mdns.TypePTR, "NOERROR aa PTR=web.default.internal."},
		{b, "7.1.20.10.in-addr.arpa.", mdns.TypePTR, "NOERROR aa PTR=db.lab.internal."},
		{b, "8.3.20.10.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN aa auth=3.20.10.in-addr.arpa.SOA"},
		{b, "8.4.20.10.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN aa"}, // private, and the upstream is not
		{c, "200.0.30.10.in-addr.arpa.", mdns.TypePTR, "NOERROR aa PTR=secret.lone.internal."},
		{c, "201.0.30.10.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN aa auth=0.30.10.in-addr.arpa.SOA"},
		{a, "1.0.0.127.in-addr.arpa.", mdns.TypePTR, "NOERROR aa PTR=localhost."},
		{a, "2.0.0.127.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN aa"},
		{a, "4.3.254.169.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN aa"},
		// Other networks.
		{a, "db.lab.internal.", mdns.TypeA, "NOERROR aa A=10.20.1.7"},
		{a, "db.", mdns.TypeA, "NXDOMAIN aa"},
		{b, "50.122.168.192.in-addr.arpa.", mdns.TypePTR, "NOERROR aa PTR=web.default.internal."},
		{a, "secret.lone.internal.", mdns.TypeA, "NXDOMAIN aa auth=lone.internal.SOA"},
		{a, "200.0.30.10.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN aa auth=0.30.10.in-addr.arpa.SOA"},
		{c, "secret.lone.internal.", mdns.TypeA, "NOERROR aa A=10.30.0.200"},
		{c, "web.default.internal.", mdns.TypeA, "REFUSED"},
		{c, "50.122.168.192.in-addr.arpa.", mdns.TypePTR, "REFUSED"},
		{c, "example.com.", mdns.TypeA, "REFUSED"},
		{c, ".", mdns.TypeNS, "REFUSED"},
		// Special names.
		{a, "localhost.", mdns.TypeA, "NOERROR aa A=127.0.0.1"},
		{a, "foo.localhost.", mdns.TypeAAAA, "NOERROR aa AAAA=::1"},
		{c, "foo.invalid.", mdns.TypeA, "NXDOMAIN aa"},
		{a, "_dns.resolver.arpa.", mdns.TypeSVCB, "NOERROR aa"},
		{a, "wpad.default.internal.", mdns.TypeA, "NXDOMAIN aa auth=default.internal.SOA"},
		// Nobody to ask.
		{a, "example.com.", mdns.TypeA, "SERVFAIL"},
		{a, "com.", mdns.TypeNS, "SERVFAIL"},
	}
	s := threeNetworks(t, Config{})
	client := map[string]netip.Addr{a: addr("192.168.122.60"), b: addr("10.20.0.60"), c: addr("10.30.0.160")}
	for _, tt := range tests {
		for _, size := range []uint16{0, 1232} {
			var with []func(*mdns.Msg)
			if size > 0 {
				with = append(with, edns(size, true))
			}
			m := handle(t, s, tt.bridge, client[tt.bridge], pack(t, tt.name, tt.typ, with...))
			if got := text(m); got != tt.want {
				t.Errorf("%s asks %s %s: %s\nwant %s", tt.bridge, tt.name, mdns.TypeToString[tt.typ], got, tt.want)
			}
			if m == nil {
				continue
			}
			if m.Question[0].Name != tt.name {
				t.Errorf("%s came back as %s", tt.name, m.Question[0].Name)
			}
			if opt := m.IsEdns0(); (opt != nil) != (size > 0) || opt != nil && (!opt.Do() || opt.UDPSize() != 1232) {
				t.Errorf("%s: OPT %v for size %d", tt.name, opt, size)
			}
			if m.RecursionAvailable != (tt.bridge != c) {
				t.Errorf("%s: recursion available %v", tt.name, m.RecursionAvailable)
			}
		}
	}
}

// Who has nobody to ask is told why at once.
func TestNoUpstreamSaysSo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	s := threeNetworks(t, Config{ResolvFiles: []string{file}})
	m := handle(t, s, "virbr0", addr("192.168.122.60"), pack(t, "example.com.", mdns.TypeA, edns(1232, false)))
	if got := ede(m); got != fmt.Sprintf("22 no name server in %s", file) || m.Rcode != mdns.RcodeServerFailure {
		t.Errorf("%s: %q", text(m), got)
	}
	m = handle(t, s, "virbr2", addr("10.30.0.160"), pack(t, "example.com.", mdns.TypeA, edns(1232, false)))
	if got := ede(m); !strings.HasPrefix(got, "18 network lone is isolated") {
		t.Errorf("%s: %q", text(m), got)
	}
}

// ede is the extended error of an answer.
func ede(m *mdns.Msg) string {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*mdns.EDNS0_EDE); ok {
				return fmt.Sprintf("%d %s", e.InfoCode, e.ExtraText)
			}
		}
	}
	return ""
}

func TestOddPackets(t *testing.T) {
	good := pack(t, "web.default.internal.", mdns.TypeA)
	change := func(at int, v byte) []byte { b := bytes.Clone(good); b[at] = v; return b }
	tests := []struct {
		name string
		p    []byte
		want string
	}{
		{"empty", nil, "dropped"},
		{"short", good[:11], "dropped"},
		{"an answer", change(2, 0x81), "dropped"},
		{"header only", good[:12], "FORMERR"},
		{"cut off", good[:len(good)-1], "FORMERR"},
		{"no question", append(bytes.Clone(good[:4]), make([]byte, 8)...), "FORMERR"},
		{"pointer to itself", append(bytes.Clone(good[:12]), 0xc0, 12, 0, 1, 0, 1), "FORMERR"},
		{"label of a reserved kind", change(12, 0x80), "FORMERR"},
		{"status opcode", change(2, 0x11), "NOTIMP"},
		{"update opcode", change(2, 0x29), "NOTIMP"},
		{"class CHAOS", pack(t, "version.bind.", mdns.TypeTXT, func(m *mdns.Msg) { m.Question[0].Qclass = mdns.ClassCHAOS }), "REFUSED"},
		{"two questions", pack(t, "web.", mdns.TypeA, func(m *mdns.Msg) { m.Question = append(m.Question, m.Question[0]) }), "FORMERR"},
		{"two OPT", pack(t, "web.", mdns.TypeA, edns(512, false), func(m *mdns.Msg) { m.Extra = append(m.Extra, m.Extra[0]) }), "FORMERR"},
		{"EDNS version 1", pack(t, "web.", mdns.TypeA, edns(512, false), func(m *mdns.Msg) { m.IsEdns0().SetVersion(1) }), "BADVERS"},
		{"EDNS with a cookie", pack(t, "web.", mdns.TypeA, edns(512, false), func(m *mdns.Msg) {
			m.IsEdns0().Option = []mdns.EDNS0{&mdns.EDNS0_COOKIE{Code: mdns.EDNS0COOKIE, Cookie: "0123456789abcdef"}}
		}), "NOERROR aa A=192.168.122.50"},
	}
	s := threeNetworks(t, Config{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := handle(t, s, "virbr0", addr("192.168.122.60"), tt.p)
			got := text(m)
			if m != nil && m.Rcode == 16 {
				got = "BADVERS"
			}
			if got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			if m != nil && (m.Id != uint16(tt.p[0])<<8|uint16(tt.p[1]) || !m.Response) {
				t.Error("the answer has another id or is none")
			}
		})
	}
	if got := s.Stats()["virbr0"].Malformed; got != 10 {
		t.Errorf("%d malformed packets counted, want 10", got)
	}
}

// Forty addresses do not fit in 512 bytes: the answer is truncated, empty and
// short, and complete where the client takes more.
func TestTruncated(t *testing.T) {
	s := threeNetworks(t, Config{})
	for i := range 40 {
		mac := fmt.Sprintf("52:54:00:00:01:%02x", i)
		s.Names.SetGuest("virbr0", mac, "big")
		s.Names.SetLease("virbr0", mac, netip.AddrFrom4([4]byte{192, 168, 122, byte(100 + i)}), "")
	}
	client := addr("192.168.122.60")
	for _, tt := range []struct {
		with []func(*mdns.Msg)
		tc   bool
	}{{nil, true}, {[]func(*mdns.Msg){edns(100, false)}, true}, {[]func(*mdns.Msg){edns(1232, false)}, false}, {[]func(*mdns.Msg){edns(4096, false)}, false}} {
		m := handle(t, s, "virbr0", client, pack(t, "big.", mdns.TypeA, tt.with...))
		if want := map[bool]int{false: 40, true: 0}[tt.tc]; m.Truncated != tt.tc || len(m.Answer) != want {
			t.Errorf("truncated %v with %d answers, want %v with %d", m.Truncated, len(m.Answer), tt.tc, want)
		}
	}
	tables := s.tables.Load()
	out := make([]byte, 65535)
	var w worker
	n, _ := s.fast(&w, tables, tables.byBridge["virbr0"], pack(t, "big.", mdns.TypeA), out, len(out))
	m := new(mdns.Msg)
	if err := m.Unpack(out[:n]); err != nil || len(m.Answer) != 40 {
		t.Errorf("over TCP: %d answers (%v), want 40", len(m.Answer), err)
	}
}

func TestApplyAndObserve(t *testing.T) {
	ctx := context.Background()
	s := newTestServer(t, Config{})
	guest := host.Guest{Bridge: "virbr0", MAC: m1, Name: "web"}
	res := host.Reservation{Bridge: "virbr0", MAC: m1, Addr: addr("192.168.122.9"), Hostname: "mail"}
	steps := []plan.Step{{After: zoneA}, {After: guest}, {After: res}}
	for range 2 { // steps are idempotent
		if err := s.Apply(ctx, steps); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want ...host.Resource) {
		t.Helper()
		got, err := s.Observe(ctx)
		if err != nil {
			t.Fatal(err)
		}
		state := host.NewState(want...)
		if len(got) != len(state) {
			t.Errorf("observed %v, want %v", got, state)
		}
		for k, r := range state {
			if got[k] != r {
				t.Errorf("observed %v, want %v", got[k], r)
			}
		}
	}
	check(zoneA, guest, res)
	if got, _ := s.Observe(ctx, zoneA.Key(), zoneB.Key()); len(got) != 1 || got[zoneA.Key()] != zoneA {
		t.Errorf("observed by key: %v", got)
	}
	other := zoneA
	other.Domain = "other.internal"
	renamed := guest
	renamed.Name = "www"
	if err := s.Apply(ctx, []plan.Step{{Before: zoneA, After: other}, {Before: guest, After: renamed}, {Before: res}, {Before: zoneB}}); err != nil {
		t.Fatal(err)
	}
	check(other, renamed)
	if got := text(handle(t, s, "virbr0", addr("192.168.122.60"), pack(t, "www.other.internal.", mdns.TypeA))); got != "NOERROR aa auth=other.internal.SOA" {
		t.Error(got)
	}
	if err := s.Apply(ctx, []plan.Step{{Before: other}, {Before: renamed}}); err != nil {
		t.Fatal(err)
	}
	check()
	if err := s.Apply(ctx, []plan.Step{{After: host.Link{Name: "x"}}}); err == nil {
		t.Error("a link was taken for a matter of DNS")
	}
}

// TestSockets asks over real sockets on loopback, UDP and TCP, and counts.
func TestSockets(t *testing.T) {
	z := host.Zone{Bridge: "lo", Network: "n", Domain: "n.internal", Addr4: netip.MustParsePrefix("127.0.0.1/30"), Addr6: netip.MustParsePrefix("::1/128")}
	s := newTestServer(t, Config{}, z)
	s.Names.SetGuest("lo", m1, "web")
	s.Names.SetLease("lo", m1, addr("127.0.0.2"), "")
	for _, a := range []string{"127.0.0.1", "::1"} {
		at := serveOn(t, s, "lo", a)
		for _, network := range []string{"udp", "tcp"} {
			c := mdns.Client{Net: network, Timeout: 5 * time.Second}
			conn, err := c.Dial(at)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 { // over one connection
				m, _, err := c.ExchangeWithConn(new(mdns.Msg).SetQuestion("web.n.internal.", mdns.TypeA), conn)
				if err != nil || text(m) != "NOERROR aa A=127.0.0.2" {
					t.Errorf("%s %s: %s %v", network, at, text(m), err)
				}
				m, _, err = c.ExchangeWithConn(new(mdns.Msg).SetQuestion("web.n.internal.", mdns.TypeANY), conn)
				if err != nil || text(m) != `NOERROR aa HINFO="RFC8482"_""` {
					t.Errorf("%s %s: %s %v", network, at, text(m), err)
				}
			}
			conn.Close()
		}
	}
	// A query is counted once its answer is on its way: we may have it before.
	st := s.Stats()["lo"]
	looks := time.NewTicker(time.Millisecond)
	defer looks.Stop()
	for limit := time.Now().Add(5 * time.Second); st.Queries < 24 && time.Now().Before(limit); <-looks.C {
		st = s.Stats()["lo"]
	}
	if st.Queries != 24 || st.Local != 24 || st.Outside != 0 || st.Latency.Sum <= 0 || st.Latency.Count() != 24 {
		t.Errorf("counted %+v, want 24 queries answered from the table", st)
	}
}

// serveOn listens on an address and a free port for both protocols.
func serveOn(t testing.TB, s *Server, bridge, a string) string {
	t.Helper()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(a)})
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- s.ServeUDP(ctx, bridge, udp) }()
	go func() { done <- s.ServeTCP(ctx, bridge, tcp) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("serving ended with %v", err)
				}
			case <-time.After(5 * time.Second):
				t.Error("serving does not end with its context")
			}
		}
	})
	return udp.LocalAddr().String()
}

// Strangers get no answer: not over UDP, and over TCP the connection is closed.
func TestStrangersAreDropped(t *testing.T) {
	z := host.Zone{Bridge: "lo", Network: "n", Domain: "n.internal", Addr4: netip.MustParsePrefix("127.0.0.1/30")}
	s := newTestServer(t, Config{}, z)
	at := serveOn(t, s, "lo", "127.0.0.1")
	from := func(network string) *mdns.Conn {
		d := net.Dialer{Timeout: time.Second, LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9)}}
		if network == "tcp" {
			d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}
		}
		conn, err := d.Dial(network, at)
		if err != nil {
			t.Fatal(err)
		}
		return &mdns.Conn{Conn: conn}
	}
	stranger := from("udp")
	defer stranger.Close()
	if err := stranger.WriteMsg(new(mdns.Msg).SetQuestion("localhost.", mdns.TypeA)); err != nil {
		t.Fatal(err)
	}
	// A friend who asks afterwards is answered: the stranger's turn is over.
	c := mdns.Client{Timeout: 5 * time.Second}
	if _, _, err := c.Exchange(new(mdns.Msg).SetQuestion("localhost.", mdns.TypeA), at); err != nil {
		t.Fatal(err)
	}
	_ = stranger.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if m, err := stranger.ReadMsg(); err == nil {
		t.Errorf("a stranger was answered: %v", m)
	}
	tcp := from("tcp")
	defer tcp.Close()
	_ = tcp.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := tcp.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("a stranger's connection stays open: %d %v", n, err)
	}
	if st := s.Stats()["lo"]; st.Outside != 2 {
		t.Errorf("%d from outside counted, want 2", st.Outside)
	}
}

// One client holds at most its share of the connections.
func TestConnectionsAreBounded(t *testing.T) {
	z := host.Zone{Bridge: "lo", Network: "n", Addr4: netip.MustParsePrefix("127.0.0.1/30")}
	s := newTestServer(t, Config{}, z)
	at := serveOn(t, s, "lo", "127.0.0.1")
	c := mdns.Client{Net: "tcp", Timeout: 5 * time.Second}
	ask := func(conn *mdns.Conn) error {
		_, _, err := c.ExchangeWithConn(new(mdns.Msg).SetQuestion("localhost.", mdns.TypeA), conn)
		return err
	}
	var open []*mdns.Conn
	for i := range maxConnsPerClient {
		conn, err := c.Dial(at)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := ask(conn); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		open = append(open, conn)
	}
	conn, err := c.Dial(at)
	if err == nil {
		defer conn.Close()
		if ask(conn) == nil {
			t.Error("one connection too many is served")
		}
	}
	if err := ask(open[0]); err != nil {
		t.Errorf("the first connection is lost: %v", err)
	}
}
