package dns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// fakeUpstream is a DNS server that a test scripts.
type fakeUpstream struct {
	port uint16
	mu   sync.Mutex
	seen []*mdns.Msg
	over []string
}

// upstreamAt serves handler on an address, at a free port or the one given.
func upstreamAt(t testing.TB, a string, port uint16, handler func(network string, r *mdns.Msg) *mdns.Msg) *fakeUpstream {
	t.Helper()
	udp, err := net.ListenPacket("udp", net.JoinHostPort(a, strconv.Itoa(int(port))))
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	u := &fakeUpstream{port: udp.LocalAddr().(*net.UDPAddr).AddrPort().Port()}
	for _, server := range []*mdns.Server{{PacketConn: udp}, {Listener: tcp}} {
		network := "udp"
		if server.Listener != nil {
			network = "tcp"
		}
		server.Handler = mdns.HandlerFunc(func(w mdns.ResponseWriter, r *mdns.Msg) {
			u.mu.Lock()
			u.seen = append(u.seen, r.Copy())
			u.over = append(u.over, network)
			u.mu.Unlock()
			if m := handler(network, r); m != nil {
				_ = w.WriteMsg(m)
			}
		})
		up := make(chan struct{})
		server.NotifyStartedFunc = func() { close(up) }
		go server.ActivateAndServe() //nolint:errcheck // it ends by Shutdown
		<-up
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	return u
}

func (u *fakeUpstream) asked() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.seen)
}

func (u *fakeUpstream) last(t testing.TB) *mdns.Msg {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.seen) == 0 {
		t.Fatal("the upstream server was not asked")
	}
	return u.seen[len(u.seen)-1]
}

// records answers with records in zone-file form; those of type SOA go into the
// authority section.
func records(r *mdns.Msg, rcode int, texts ...string) *mdns.Msg {
	m := new(mdns.Msg).SetRcode(r, rcode)
	m.RecursionAvailable = true
	for _, text := range texts {
		rr, err := mdns.NewRR(text)
		if err != nil {
			panic(err)
		}
		if rr.Header().Rrtype == mdns.TypeSOA {
			m.Ns = append(m.Ns, rr)
		} else {
			m.Answer = append(m.Answer, rr)
		}
	}
	return m
}

// resolvConf writes a resolver configuration and returns its path.
func resolvConf(t testing.TB, servers ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	writeServers(t, path, servers...)
	return path
}

func writeServers(t testing.TB, path string, servers ...string) {
	t.Helper()
	text := "# written by a test\nsearch example.org\n"
	for _, s := range servers {
		text += "nameserver " + s + "\n"
	}
	// As others write it: whole, by renaming.
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

var guest60 = addr("192.168.122.60")

func TestForwardAndCache(t *testing.T) {
	up := upstreamAt(t, "127.0.0.1", 0, func(_ string, r *mdns.Msg) *mdns.Msg {
		switch strings.ToLower(r.Question[0].Name) {
		case "www.example.org.":
			m := records(r, mdns.RcodeSuccess, "www.example.org. 300 IN CNAME a.example.org.", "a.example.org. 60 IN A 198.18.0.1")
			m.Authoritative, m.AuthenticatedData = true, true
			return m
		case "none.example.org.":
			return records(r, mdns.RcodeNameError, "example.org. 900 IN SOA ns.example.org. h.example.org. 7 1 1 1 30")
		case "empty.example.org.":
			return records(r, mdns.RcodeSuccess, "example.org. 20 IN SOA ns.example.org. h.example.org. 7 1 1 1 300")
		case "bare.example.org.":
			return records(r, mdns.RcodeNameError)
		case "zero.example.org.":
			return records(r, mdns.RcodeSuccess, "zero.example.org. 0 IN A 198.18.0.1")
		}
		return records(r, mdns.RcodeServerFailure)
	})
	c := &clock{t: time.Unix(1_000_000, 0)}
	s := threeNetworks(t, Config{ResolvFiles: []string{resolvConf(t, "127.0.0.1")}, UpstreamPort: up.port, Now: c.now})
	tests := []struct {
		name string
		want string
		keep time.Duration // how long it is remembered
	}{
		{"www.example.org.", "NOERROR CNAME=a.example.org. A=198.18.0.1", 60 * time.Second},
		{"none.example.org.", "NXDOMAIN auth=example.org.SOA", 30 * time.Second},
		{"empty.example.org.", "NOERROR auth=example.org.SOA", 20 * time.Second},
		{"bare.example.org.", "NXDOMAIN", 0},
		{"zero.example.org.", "NOERROR A=198.18.0.1", 0},
		{"broken.example.org.", "SERVFAIL", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ask := func(name string, with ...func(*mdns.Msg)) *mdns.Msg {
				t.Helper()
				m := new(mdns.Msg)
				if err := m.Unpack(slowly(t, s, "virbr0", guest60, pack(t, name, mdns.TypeA, with...))); err != nil {
					t.Fatal(err)
				}
				if got := text(m); got != tt.want || m.AuthenticatedData || !m.RecursionAvailable {
					t.Errorf("%s, want %s (flags %+v)", got, tt.want, m.MsgHdr)
				}
				return m
			}
			before := up.asked()
			ask(tt.name)
			if got := up.asked() - before; got != 1 {
				t.Fatalf("asked %d times", got)
			}
			if opt := up.last(t).IsEdns0(); opt == nil || opt.UDPSize() != 1232 || opt.Do() {
				t.Errorf("asked with %v", opt)
			}
			if tt.keep == 0 {
				if ask(tt.name); up.asked() != before+2 {
					t.Error("remembered")
				}
				return
			}
			c.advance(tt.keep - time.Second)
			// Now both paths answer, in the client's case, with the time that is left.
			m := handle(t, s, "virbr0", guest60, pack(t, strings.ToUpper(tt.name), mdns.TypeA, edns(1232, false)))
			if up.asked() != before+1 {
				t.Error("forgotten too early")
			}
			if m.Question[0].Name != strings.ToUpper(tt.name) || m.IsEdns0() == nil {
				t.Errorf("came back as %v", m)
			}
			for _, rr := range append(m.Answer, m.Ns...) {
				if rr.Header().Name == "a.example.org." && rr.Header().Ttl != 1 {
					t.Errorf("%d s left, want 1", rr.Header().Ttl)
				}
			}
			c.advance(time.Second)
			if ask(tt.name); up.asked() != before+2 {
				t.Error("remembered too long")
			}
		})
	}
	st := s.Stats()["virbr0"]
	if st.Forwarded != 10 || st.Cached != 3 || st.Failed != 2 {
		t.Errorf("counted %+v, want 10 forwarded, 3 cached, 2 failed", st)
	}
}

// The bits for DNSSEC go through, each kind of answer is kept by itself, and the
// client's own options stay with us.
func TestBitsGoThrough(t *testing.T) {
	up := upstreamAt(t, "127.0.0.1", 0, func(_ string, r *mdns.Msg) *mdns.Msg {
		return records(r, 0, "x.example.org. 60 IN A 198.18.0.1")
	})
	s := threeNetworks(t, Config{ResolvFiles: []string{resolvConf(t, "127.0.0.1")}, UpstreamPort: up.port})
	for i, tt := range []struct{ do, cd bool }{{false, false}, {true, false}, {false, true}, {true, true}} {
		p := pack(t, "x.example.org.", mdns.TypeA, edns(4096, tt.do), func(m *mdns.Msg) {
			m.CheckingDisabled = tt.cd
			m.IsEdns0().Option = []mdns.EDNS0{&mdns.EDNS0_SUBNET{Code: mdns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(192, 168, 122, 0)}}
		})
		for range 2 {
			m := handle(t, s, "virbr0", guest60, p)
			if m.CheckingDisabled != tt.cd || m.IsEdns0().Do() != tt.do {
				t.Errorf("%+v came back as %v", tt, m)
			}
		}
		q := up.last(t)
		if up.asked() != i+1 || q.IsEdns0().Do() != tt.do || q.CheckingDisabled != tt.cd || len(q.IsEdns0().Option) != 0 || !q.RecursionDesired {
			t.Errorf("%+v: asked %d times, last %v", tt, up.asked(), q)
		}
	}
}

// A hundred guests that want the same at the same time cost one question.
func TestEqualQuestionsShareOne(t *testing.T) {
	release := make(chan struct{})
	up := upstreamAt(t, "127.0.0.1", 0, func(_ string, r *mdns.Msg) *mdns.Msg {
		<-release
		return records(r, 0, "x.example.org. 60 IN A 198.18.0.1")
	})
	s := threeNetworks(t, Config{ResolvFiles: []string{resolvConf(t, "127.0.0.1")}, UpstreamPort: up.port})
	tables := s.tables.Load()
	answers := make(chan []byte, 100)
	for i := range 100 {
		p := pack(t, "x.example.org.", mdns.TypeA, func(m *mdns.Msg) { m.Id = uint16(i) })
		s.slow(tables, tables.byBridge["virbr0"], netip.AddrFrom4([4]byte{192, 168, 122, byte(i)}), p, false, time.Now(), func(b []byte) { answers <- b })
	}
	close(release)
	ids := map[uint16]bool{}
	for range 100 {
		m := new(mdns.Msg)
		if err := m.Unpack(<-answers); err != nil || text(m) != "NOERROR A=198.18.0.1" {
			t.Fatalf("%s %v", text(m), err)
		}
		ids[m.Id] = true
	}
	if len(ids) != 100 || up.asked() != 1 {
		t.Errorf("%d answers for %d questions upstream, want 100 for 1", len(ids), up.asked())
	}
	if len(s.flights.clients)+len(s.flights.open) != 0 {
		t.Errorf("left in flight: %v %v", s.flights.open, s.flights.clients)
	}
}

// One guest has its share of what is in flight and no more.
func TestFlightsAreBounded(t *testing.T) {
	release := make(chan struct{})
	up := upstreamAt(t, "127.0.0.1", 0, func(_ string, r *mdns.Msg) *mdns.Msg {
		<-release
		return records(r, mdns.RcodeNameError)
	})
	s := threeNetworks(t, Config{ResolvFiles: []string{resolvConf(t, "127.0.0.1")}, UpstreamPort: up.port})
	tables := s.tables.Load()
	answers := make(chan []byte, maxPerClient+10)
	ask := func(i int, client netip.Addr) {
		s.slow(tables, tables.byBridge["virbr0"], client, pack(t, fmt.Sprintf("n%d.example.org.", i), mdns.TypeA), false, time.Now(), func(b []byte) { answers <- b })
	}
	for i := range maxPerClient + 5 {
		ask(i, guest60)
	}
	for range 5 {
		m := new(mdns.Msg)
		if err := m.Unpack(<-answers); err != nil || m.Rcode != mdns.RcodeServerFailure {
			t.Errorf("%s %v, want SERVFAIL at once", text(m), err)
		}
	}
	ask(1000, addr("192.168.122.61"))
	close(release)
	for range maxPerClient + 1 {
		m := new(mdns.Msg)
		if err := m.Unpack(<-answers); err != nil || m.Rcode != mdns.RcodeNameError {
			t.Errorf("%s %v, want NXDOMAIN", text(m), err)
		}
	}
}

// The next server is asked when one fails, and a silent one is asked last
// afterwards.
func TestServersInTurn(t *testing.T) {
	good := upstreamAt(t, "127.0.0.3", 0, func(_ string, r *mdns.Msg) *mdns.Msg {
		return records(r, 0, r.Question[0].Name+" 0 IN A 198.18.0.1")
	})
	refusing := upstreamAt(t, "127.0.0.2", good.port, func(_ string, r *mdns.Msg) *mdns.Msg { return records(r, mdns.RcodeRefused) })
	silent := upstreamAt(t, "127.0.0.1", good.port, func(string, *mdns.Msg) *mdns.Msg { return nil })
	// Nobody listens at 127.0.0.4.
	file := resolvConf(t, "127.0.0.4", "127.0.0.2", "127.0.0.1", "127.0.0.3")
	s := threeNetworks(t, Config{ResolvFiles: []string{file}, UpstreamPort: good.port})
	for range 3 {
		m := handle(t, s, "virbr0", guest60, pack(t, "x.example.org.", mdns.TypeA))
		if got := text(m); got != "NOERROR A=198.18.0.1" {
			t.Error(got)
		}
	}
	if silent.asked() != 1 || refusing.asked() != 3 || good.asked() != 3 {
		t.Errorf("asked the silent one %d times, the refusing %d, the good %d; want 1, 3, 3", silent.asked(), refusing.asked(), good.asked())
	}
	order, _ := s.Upstreams()
	var got []string
	for _, a := range order {
		got = append(got, a.Addr().String())
	}
	if want := "127.0.0.2 127.0.0.3 127.0.0.4 127.0.0.1"; strings.Join(got, " ") != want {
		t.Errorf("asked in the order %s, want %s", got, want)
	}
}

// All servers fail: the client gets what they said, or why there is nothing.
func TestServersFail(t *testing.T) {
	up := upstreamAt(t, "127.0.0.1", 0, func(_ string, r *mdns.Msg) *mdns.Msg {
		m := new(mdns.Msg)
		m.Id, m.Response, m.Rcode = r.Id, true, mdns.RcodeFormatError
		return m // a bare header
	})
	s := threeNetworks(t, Config{ResolvFiles: []string{resolvConf(t, "127.0.0.1")}, UpstreamPort: up.port})
	m := handle(t, s, "virbr0", guest60, pack(t, "x.example.org.", mdns.TypeA))
	if m.Rcode != mdns.RcodeFormatError || len(m.Question) != 1 {
		t.Errorf("%v", m)
	}
	if up.last(t).IsEdns0() != nil {
		t.Error("not asked without EDNS")
	}
	s = threeNetworks(t, Config{ResolvFiles: []string{resolvConf(t, "127.0.0.9")}, UpstreamPort: up.port})
	m = handle(t, s, "virbr0", guest60, pack(t, "x.example.org.", mdns.TypeA, edns(1232, false)))
	if m.Rcode != mdns.RcodeServerFailure || !strings.HasPrefix(ede(m), "22 upstream server 127.0.0.9: ") {
		t.Errorf("%s: %q", text(m), ede(m))
	}
}

// What does not fit in a packet is asked for over TCP, and truncated for the
// client if it does not fit there either.
func TestLongAnswers(t *testing.T) {
	up := upstreamAt(t, "127.0.0.1", 0, func(network string, r *mdns.Msg) *mdns.Msg {
		if network == "udp" {
			m := records(r, 0)
			m.Truncated = true
			return m
		}
		var texts []string
		for i := range 60 {
			texts = append(texts, fmt.Sprintf("%s 60 IN A 198.18.1.%d", r.Question[0].Name, i))
		}
		return records(r, 0, texts...)
	})
	s := threeNetworks(t, Config{ResolvFiles: []string{resolvConf(t, "127.0.0.1")}, UpstreamPort: up.port})
	for _, tt := range []struct {
		with []func(*mdns.Msg)
		tc   bool
	}{{nil, true}, {[]func(*mdns.Msg){edns(1232, false)}, false}} {
		m := handle(t, s, "virbr0", guest60, pack(t, "x.example.org.", mdns.TypeA, tt.with...))
		if want := map[bool]int{false: 60, true: 0}[tt.tc]; m.Truncated != tt.tc || len(m.Answer) != want {
			t.Errorf("truncated %v, %d answers; want %v, %d", m.Truncated, len(m.Answer), tt.tc, want)
		}
	}
	if up.asked() != 2 || strings.Join(up.over, " ") != "udp tcp" {
		t.Errorf("asked %v", up.over)
	}
}

// Answers that are not to our question are passed over; one in other letters is
// asked for again where it cannot be forged.
func TestForgedAnswers(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(m *mdns.Msg)
		over  string
	}{
		{"wrong id", func(m *mdns.Msg) { m.Id++ }, "udp"},
		{"wrong name", func(m *mdns.Msg) { m.Question[0].Name = "y" + m.Question[0].Name[1:] }, "udp"},
		{"wrong type", func(m *mdns.Msg) { m.Question[0].Qtype++ }, "udp"},
		{"no answer", func(m *mdns.Msg) { m.Response = false }, "udp"},
		{"other letters", func(m *mdns.Msg) { m.Question[0].Name = swapCase(m.Question[0].Name) }, "udp tcp"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			up := &fakeUpstream{}
			port := forger(t, up, tt.spoil)
			s := threeNetworks(t, Config{ResolvFiles: []string{resolvConf(t, "127.0.0.1")}, UpstreamPort: port})
			m := handle(t, s, "virbr0", guest60, pack(t, "xabcdefghijklmnop.example.org.", mdns.TypeA))
			if got := text(m); got != "NOERROR A=198.18.0.1" {
				t.Error(got)
			}
			up.mu.Lock()
			defer up.mu.Unlock()
			if got := strings.Join(up.over, " "); got != tt.over {
				t.Errorf("asked over %s, want %s", got, tt.over)
			}
		})
	}
}

func swapCase(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z':
			return r - 'A' + 'a'
		}
		return r
	}, s)
}

// forger answers over UDP with a forgery first and the truth after it.
func forger(t *testing.T, up *fakeUpstream, spoil func(*mdns.Msg)) uint16 {
	t.Helper()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	handle := func(network string) mdns.HandlerFunc {
		return func(w mdns.ResponseWriter, r *mdns.Msg) {
			up.mu.Lock()
			up.over = append(up.over, network)
			up.mu.Unlock()
			truth := records(r, 0, r.Question[0].Name+" 60 IN A 198.18.0.1")
			if network == "udp" {
				lie := records(r, 0, r.Question[0].Name+" 60 IN A 198.18.66.66")
				spoil(lie)
				_ = w.WriteMsg(lie)
			}
			_ = w.WriteMsg(truth)
		}
	}
	for _, server := range []*mdns.Server{{PacketConn: udp, Handler: handle("udp")}, {Listener: tcp, Handler: handle("tcp")}} {
		up := make(chan struct{})
		server.NotifyStartedFunc = func() { close(up) }
		go server.ActivateAndServe() //nolint:errcheck // it ends by Shutdown
		<-up
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	return udp.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}
