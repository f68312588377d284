package dhcp

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"pgregory.net/rapid"

	"drawbridge/internal/host"
)

// claim is what a client was told: it may use an address until then.
type claim struct {
	mac   byte
	id    string
	until time.Time
}

// TestNoAddressTwice plays random guests, honest and not, against a small pool
// with reservations that come and go, restarts and a failing disk. What counts is
// what the clients were told.
func TestNoAddressTwice(t *testing.T) {
	dir := t.TempDir()
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		path := filepath.Join(dir, fmt.Sprint(run))
		seed := rapid.SliceOfN(rapid.Uint64(), 20, 120).Draw(rt, "moves")
		var failure string
		synctest.Test(t, func(t *testing.T) {
			w := &world{t: t, path: path}
			w.start(thePool)
			p := &player{w: w, claims: map[string]claim{}, reserved: map[byte]netip.Addr{}}
			for _, n := range seed {
				if failure = p.move(n); failure != "" {
					break
				}
			}
			w.halt()
		})
		if failure != "" {
			rt.Fatal(failure)
		}
	})
}

type player struct {
	w        *world
	claims   map[string]claim
	reserved map[byte]netip.Addr
}

// move does what a number stands for and returns what is wrong afterwards.
func (p *player) move(n uint64) string {
	pick := func(below uint64) uint64 {
		r := n % below
		n /= below
		return r
	}
	what := pick(20)
	mac := byte(pick(16)) + 1
	id := []string{"", "\x00a", "\x00b"}[pick(3)]
	addr := toAddr(0xc0a87a00 + uint32(pick(24))).String() // .0 to .23: subnet, server, outside, range
	var edits []edit
	if id != "" {
		edits = append(edits, text(61, id))
	}
	switch what {
	case 0, 1, 2, 3, 4: // the whole way
		m := p.say(mac, id, message(mac, dhcpv4.MessageTypeDiscover, edits...))
		if m != nil && m.MessageType() == dhcpv4.MessageTypeOffer {
			got := m.YourIPAddr.String()
			return p.hear(mac, id, message(mac, dhcpv4.MessageTypeRequest, append(edits, requested(got), serverID("192.168.122.1"))...))
		}
	case 5, 6:
		return p.hear(mac, id, message(mac, dhcpv4.MessageTypeDiscover, append(edits, requested(addr))...))
	case 7:
		return p.hear(mac, id, message(mac, dhcpv4.MessageTypeDiscover, append(edits, option(80))...))
	case 8, 9:
		return p.hear(mac, id, message(mac, dhcpv4.MessageTypeRequest, append(edits, requested(addr), serverID("192.168.122.1"))...))
	case 10:
		return p.hear(mac, id, message(mac, dhcpv4.MessageTypeRequest, append(edits, requested(addr))...))
	case 11, 12:
		return p.hear(mac, id, message(mac, dhcpv4.MessageTypeRequest, append(edits, ciaddr(addr))...))
	case 13:
		if c, ok := p.claims[addr]; ok && c.mac == mac && c.id == id {
			delete(p.claims, addr)
		}
		return p.hear(mac, id, message(mac, dhcpv4.MessageTypeRelease, append(edits, ciaddr(addr))...))
	case 14:
		if c, ok := p.claims[addr]; ok && c.mac == mac && c.id == id {
			delete(p.claims, addr)
		}
		return p.hear(mac, id, message(mac, dhcpv4.MessageTypeDecline, append(edits, requested(addr))...))
	case 15:
		p.w.pass(time.Duration(pick(4000)) * time.Second)
	case 16:
		p.w.restart(thePool)
		for m, a := range p.reserved {
			p.w.apply(nil, host.Reservation{Bridge: "virbr0", MAC: macText(m), Addr: a})
		}
	case 17, 18:
		return p.reserve(mac, netip.MustParseAddr(addr))
	case 19:
		if p.w.leases.beforeCommit == nil {
			p.w.leases.beforeCommit = func() error { return fmt.Errorf("disk full") }
		} else {
			p.w.leases.beforeCommit = nil
		}
	}
	return ""
}

func (p *player) reserve(mac byte, addr netip.Addr) string {
	for m, a := range p.reserved {
		if a == addr && m != mac {
			return "" // the document allows no two reservations of one address
		}
	}
	if old, ok := p.reserved[mac]; ok && old == addr {
		delete(p.reserved, mac)
		p.w.apply(host.Reservation{Bridge: "virbr0", MAC: macText(mac), Addr: addr}, nil)
		return ""
	}
	p.reserved[mac] = addr
	p.w.apply(nil, host.Reservation{Bridge: "virbr0", MAC: macText(mac), Addr: addr})
	return ""
}

// say sends a message and returns the answer, if one came.
func (p *player) say(mac byte, id string, b []byte) *dhcpv4.DHCPv4 {
	for _, r := range p.w.exchange(b, probeWait) {
		if m, err := dhcpv4.FromBytes(r.Payload); err == nil {
			return m
		}
	}
	return nil
}

// hear sends a message and checks the answer against all that was promised.
func (p *player) hear(mac byte, id string, b []byte) string {
	m := p.say(mac, id, b)
	if m == nil {
		return ""
	}
	now := time.Now()
	addr := m.YourIPAddr.String()
	switch m.MessageType() {
	case dhcpv4.MessageTypeNak:
		// The client has to give up what it asked for.
		sent, _ := dhcpv4.FromBytes(b)
		for _, gone := range []string{sent.ClientIPAddr.String(), sent.RequestedIPAddress().String()} {
			if c, ok := p.claims[gone]; ok && c.mac == mac && c.id == id {
				delete(p.claims, gone)
			}
		}
		return ""
	case dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeAck:
	default:
		return fmt.Sprintf("got a %s", m.MessageType())
	}
	a, _ := netip.ParseAddr(addr)
	inRange := thePool.First.Compare(a) <= 0 && a.Compare(thePool.Last) <= 0
	if p.reserved[mac] != a && !inRange || a == thePool.Server.Addr() || addr == "192.168.122.0" {
		return fmt.Sprintf("%s of %s: outside range and reservation", m.MessageType(), addr)
	}
	for other, r := range p.reserved {
		if r == a && other != mac {
			return fmt.Sprintf("%s of %s to %d, but it is reserved for %d", m.MessageType(), addr, mac, other)
		}
	}
	c, taken := p.claims[addr]
	if taken && c.until.After(now) && (c.mac != mac || c.id != id && p.reserved[mac] != a) {
		return fmt.Sprintf("%s of %s to %d %q, but %d %q has it until %s", m.MessageType(), addr, mac, id, c.mac, c.id, c.until)
	}
	if m.MessageType() == dhcpv4.MessageTypeAck {
		for other, c := range p.claims { // a client has one address at a time
			if c.mac == mac && c.id == id {
				delete(p.claims, other)
			}
		}
		p.claims[addr] = claim{mac, id, now.Add(m.IPAddressLeaseTime(0))}
	}
	return ""
}

// FuzzHandle throws anything at a service that has leases: it must go on
// serving, and never answer with an address outside its pool.
func FuzzHandle(f *testing.F) {
	for _, kind := range []dhcpv4.MessageType{1, 3, 4, 7, 8} {
		f.Add(message(1, kind, requested("192.168.122.12"), text(12, "x"), text(61, "\x00id"), option(52, 3), text(81, "\x04\x00\x00\x01a")))
		f.Add(message(1, kind, ciaddr("192.168.122.12"), giaddr("192.168.122.5"), text(82, "abc")))
	}
	l, err := OpenLeases(filepath.Join(f.TempDir(), "leases"), quiet)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newService("virbr0", l, quiet, new(Room))
		s.apply(thePool, false)
		var b batch
		s.handleSafely(data, &b)
		s.handleSafely(data, &b)
		if s.counts.Dropped[dropPanic] != 0 {
			t.Fatal("the handler panicked")
		}
		for _, r := range append(b.now, b.then...) {
			m, err := dhcpv4.FromBytes(r.Payload)
			if err != nil {
				t.Fatalf("our own message: %v", err)
			}
			a, _ := netip.AddrFromSlice(m.YourIPAddr.To4())
			if !a.IsUnspecified() && (a.Less(thePool.First) || thePool.Last.Less(a)) {
				t.Fatalf("gave %s", a)
			}
			udpFrame([6]byte{}, r)
		}
	})
}

func FuzzARPReply(f *testing.F) {
	f.Add(arpProbe([6]byte{2}, netip.MustParseAddr("10.0.0.1")))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, ok := parseARPReply(data); ok && !r.Addr.Is4() {
			t.Fatalf("%+v", r)
		}
	})
}

func FuzzDecodeLease(f *testing.F) {
	b, err := encodeLease(leaseNo(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := decodeLease(data); err == nil && len(data) < 4 {
			t.Fatal("decoded nothing")
		}
	})
}

func TestBitset(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.Uint32Range(1, 20000).Draw(rt, "n")
		b, model := newBitset(n), map[uint32]bool{}
		for _, i := range rapid.SliceOfN(rapid.Uint32Range(0, n+10), 1, 60).Draw(rt, "toggle") {
			if model[i] {
				b.remove(i)
				delete(model, i)
			} else if i < n {
				b.add(i)
				model[i] = true
			}
		}
		at := rapid.Uint32Range(0, n-1).Draw(rt, "at")
		want, found := uint32(0), false
		for step := range n {
			if i := (at + step) % n; model[i] {
				want, found = i, true
				break
			}
		}
		if got, ok := b.from(at); ok != found || got != want || int(b.count) != len(model) {
			rt.Fatalf("from %d: %d %v, want %d %v; %d members, want %d", at, got, ok, want, found, b.count, len(model))
		}
	})
}
