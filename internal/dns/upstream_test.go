package dns

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

func TestWhichServersAreAsked(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := write("plain", "; old comment\nnameserver 192.168.99.1 # router\n\tnameserver\t2001:db8::53\nnameserver fe80::1%eth0\nnameserver 192.168.99.1\nnameserver nonsense\nnameserver\noptions edns0\n")
	stub := write("stub", "nameserver 127.0.0.53\noptions edns0 trust-ad\n")
	real := write("real", "nameserver 192.168.122.1\nnameserver 10.0.0.53\n")
	onlyUs := write("only-us", "nameserver 192.168.122.1\nnameserver fd00:a::1\nnameserver 0.0.0.0\n")
	local := write("local", "nameserver 127.0.0.1\n")
	public := write("public", "nameserver 198.18.0.1\n")
	tests := []struct {
		name    string
		files   []string
		want    string
		private bool
	}{
		{"plain", []string{plain}, "192.168.99.1:53 [2001:db8::53]:53 [fe80::1%eth0]:53", true},
		{"resolved's proxy in place of its stub, then what resolved asks", []string{stub, real}, "127.0.0.54:53 10.0.0.53:53", true},
		{"resolved that asks public servers", []string{stub, public}, "127.0.0.54:53 198.18.0.1:53", false},
		{"resolved without servers", []string{stub, filepath.Join(dir, "missing")}, "127.0.0.54:53", false},
		{"resolved runs, and the host asks others", []string{public, real}, "198.18.0.1:53", false},
		{"our own addresses", []string{onlyUs}, "", false},
		{"our own addresses, then others", []string{onlyUs, public}, "198.18.0.1:53", false},
		{"a local resolver of the host", []string{local, real}, "127.0.0.1:53", true},
		{"no file", []string{filepath.Join(dir, "missing")}, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := threeNetworks(t, Config{ResolvFiles: tt.files})
			list, why := s.Upstreams()
			var got []string
			for _, a := range list {
				got = append(got, a.String())
			}
			if strings.Join(got, " ") != tt.want || s.upstream.isPrivate() != tt.private {
				t.Errorf("asks %q (private %v), want %q (%v)", got, s.upstream.isPrivate(), tt.want, tt.private)
			}
			if wantWhy := "no name server in"; strings.HasPrefix(why, wantWhy) != (tt.want == "") {
				t.Errorf("says %q", why)
			}
		})
	}
}

// An address becomes our own when its zone does.
func TestOwnAddressesAreLearnt(t *testing.T) {
	s := newTestServer(t, Config{ResolvFiles: []string{resolvConf(t, "192.168.122.1")}})
	if list, _ := s.Upstreams(); len(list) != 1 {
		t.Fatalf("asks %v", list)
	}
	if err := s.Apply(context.Background(), []plan.Step{{After: zoneA}}); err != nil {
		t.Fatal(err)
	}
	if list, _ := s.Upstreams(); len(list) != 0 {
		t.Errorf("asks %v, which is itself", list)
	}
	if err := s.Apply(context.Background(), []plan.Step{{Before: zoneA}}); err != nil {
		t.Fatal(err)
	}
	if list, _ := s.Upstreams(); len(list) != 1 {
		t.Errorf("asks %v", list)
	}
}

// The host moves to another network: other servers are asked from the next tick
// on, and what the former ones said is forgotten.
func TestUpstreamIsFollowed(t *testing.T) {
	answer := func(a string) func(string, *mdns.Msg) *mdns.Msg {
		return func(_ string, r *mdns.Msg) *mdns.Msg {
			return records(r, 0, "x.example.org. 3600 IN A "+a)
		}
	}
	one := upstreamAt(t, "127.0.0.1", 0, answer("198.18.0.1"))
	upstreamAt(t, "127.0.0.2", one.port, answer("198.18.0.2"))
	file := filepath.Join(t.TempDir(), "resolv.conf")
	s := threeNetworks(t, Config{ResolvFiles: []string{file}, UpstreamPort: one.port})
	ctx, cancel := context.WithCancel(context.Background())
	ticks, done := make(chan time.Time), make(chan struct{})
	go func() { s.FollowUpstream(ctx, ticks); close(done) }()
	tick := func() { ticks <- time.Time{}; ticks <- time.Time{} } // the second is taken once the first is done with
	check := func(want string) {
		t.Helper()
		if got := text(handle(t, s, "virbr0", guest60, pack(t, "x.example.org.", mdns.TypeA))); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	check("SERVFAIL")
	writeServers(t, file, "127.0.0.1")
	tick()
	check("NOERROR A=198.18.0.1")
	writeServers(t, file, "127.0.0.2")
	tick()
	check("NOERROR A=198.18.0.2")
	// The same content written anew forgets nothing: caches survive DHCP renewals.
	writeServers(t, file, "127.0.0.2")
	before := one.asked()
	tick()
	if e, _ := s.cache.get((&question{}).key(nil)); e != nil || len(s.cache.byKey) != 1 {
		t.Errorf("%d answers remembered, want 1", len(s.cache.byKey))
	}
	check("NOERROR A=198.18.0.2")
	if one.asked() != before {
		t.Error("the former server is still asked")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	tick()
	check("SERVFAIL")
	cancel()
	<-done
}

// Where the host asks systemd-resolved, that decides who is asked: a name that it
// does not resolve is not asked of anybody else. Only while it does not listen are
// its servers.
func TestResolvedHasTheLastWord(t *testing.T) {
	var rcode atomic.Int32
	var record atomic.Value
	record.Store("A 198.18.0.54")
	resolved := upstreamAt(t, "127.0.0.54", 0, func(_ string, r *mdns.Msg) *mdns.Msg {
		return records(r, int(rcode.Load()), "x.corp.example. 0 IN "+record.Load().(string))
	})
	other := upstreamAt(t, "127.0.0.2", resolved.port, func(_ string, r *mdns.Msg) *mdns.Msg {
		return records(r, 0, "x.corp.example. 0 IN A 198.18.0.2")
	})
	dir := t.TempDir()
	stub, real := filepath.Join(dir, "stub"), filepath.Join(dir, "real")
	writeServers(t, stub, "127.0.0.53")
	writeServers(t, real, "127.0.0.2")
	s := threeNetworks(t, Config{ResolvFiles: []string{stub, real}, UpstreamPort: resolved.port})
	ask := func() string { return text(handle(t, s, "virbr0", guest60, pack(t, "x.corp.example.", mdns.TypeA))) }
	if got := ask(); got != "NOERROR A=198.18.0.54" {
		t.Error(got)
	}
	for _, code := range []int{mdns.RcodeServerFailure, mdns.RcodeRefused, mdns.RcodeNameError} {
		rcode.Store(int32(code))
		if got := ask(); !strings.HasPrefix(got, mdns.RcodeToString[code]) {
			t.Errorf("%s, want %s", got, mdns.RcodeToString[code])
		}
	}
	if other.asked() > 0 {
		t.Errorf("another server was asked %d times", other.asked())
	}
	// What the host's own file says of the host itself is not for guests.
	rcode.Store(mdns.RcodeSuccess)
	for _, own := range []string{"A 127.0.1.1", "AAAA ::1"} {
		record.Store(own)
		if got := ask(); got != "NOERROR A=198.18.0.2" {
			t.Errorf("resolved says %s: %s", own, got)
		}
	}
	if err := os.Remove(real); err != nil {
		t.Fatal(err)
	}
	s = threeNetworks(t, Config{ResolvFiles: []string{stub, real}, UpstreamPort: resolved.port})
	if got := ask(); got != "NXDOMAIN" {
		t.Errorf("resolved says %s, and there is nobody else: %s", record.Load(), got)
	}
	writeServers(t, real, "127.0.0.2")
	// An unused port there and a server at the other.
	lonely := upstreamAt(t, "127.0.0.2", 0, func(_ string, r *mdns.Msg) *mdns.Msg {
		return records(r, 0, "x.corp.example. 0 IN A 198.18.0.2")
	})
	s = threeNetworks(t, Config{ResolvFiles: []string{stub, real}, UpstreamPort: lonely.port})
	for range 2 {
		if got := ask(); got != "NOERROR A=198.18.0.2" {
			t.Error(got)
		}
	}
}

// A local resolver of the host that asks us for everything would go round in a
// circle with us. The circle is cut where it closes, and the client hears of it
// at once.
func TestLoopIsCut(t *testing.T) {
	z := host.Zone{Bridge: "lo", Network: "n", Domain: "n.internal", Forward: true, Addr4: zoneB.Addr4}
	var server atomic.Pointer[Server]
	var rounds atomic.Int32
	up := upstreamAt(t, "127.0.0.1", 0, func(_ string, r *mdns.Msg) *mdns.Msg {
		rounds.Add(1)
		s := server.Load()
		p, err := r.Pack() // as it came, in the same letters
		if err != nil {
			t.Error(err)
		}
		answer := make(chan []byte, 1)
		tables := s.tables.Load()
		s.slow(tables, tables.byBridge["lo"], z.Addr4.Addr(), p, false, time.Now(), func(b []byte) { answer <- b })
		m := new(mdns.Msg)
		if err := m.Unpack(<-answer); err != nil {
			t.Error(err)
		}
		return m
	})
	s := newTestServer(t, Config{ResolvFiles: []string{resolvConf(t, "127.0.0.1")}, UpstreamPort: up.port}, z)
	server.Store(s)
	began := time.Now()
	m := handle(t, s, "lo", addr("10.20.0.60"), pack(t, "a-long-name-with-many-letters.example.org.", mdns.TypeA, edns(1232, false)))
	if m.Rcode != mdns.RcodeRefused || rounds.Load() != 1 {
		t.Errorf("%s after %d rounds, want REFUSED after 1", text(m), rounds.Load())
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
}

// Reverse names of private addresses are asked of the site's own servers only.
func TestPrivateReverse(t *testing.T) {
	for _, tt := range []struct{ listen, want string }{{"127.0.0.1", "NOERROR PTR=nas.example.org."}, {"198.18.0.1", "NXDOMAIN aa"}} {
		port := uint16(1)
		if tt.listen == "127.0.0.1" {
			port = upstreamAt(t, tt.listen, 0, func(_ string, r *mdns.Msg) *mdns.Msg {
				return records(r, 0, r.Question[0].Name+" 60 IN PTR nas.example.org.")
			}).port
		}
		s := threeNetworks(t, Config{ResolvFiles: []string{resolvConf(t, tt.listen)}, UpstreamPort: port})
		if got := text(handle(t, s, "virbr0", guest60, pack(t, "7.99.168.192.in-addr.arpa.", mdns.TypePTR))); got != tt.want {
			t.Errorf("upstream %s: %s, want %s", tt.listen, got, tt.want)
		}
	}
}

// The cache holds to its bounds and gives up what ends soonest.
func TestCacheIsBounded(t *testing.T) {
	c := newCache(func() time.Time { return time.Unix(1000, 0) })
	e := func() *cached { return &cached{wire: make([]byte, 1200), stored: time.Unix(1000, 0)} }
	for i := range 2 * maxCached {
		c.put(fmt.Sprint(i), e(), time.Duration(1+i%100)*time.Second, 0)
	}
	if len(c.byKey) > maxCached || c.bytes > maxCachedBytes || c.bytes != 1200*len(c.byKey) {
		t.Errorf("%d answers of %d bytes", len(c.byKey), c.bytes)
	}
	if len(c.byKey) < maxCachedBytes/1200-1 {
		t.Errorf("only %d answers kept", len(c.byKey))
	}
	c.put("big", &cached{wire: make([]byte, maxCachedSize+1)}, time.Hour, 0)
	if c.byKey["big"] != nil {
		t.Error("a huge answer is kept")
	}
	c.flush()
	c.put("late", e(), time.Hour, 0)
	if len(c.byKey) != 0 || c.bytes != 0 {
		t.Error("an answer from before the flush is kept after it")
	}
}
