package dhcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

func openT(t testing.TB, path string) *Leases {
	t.Helper()
	l, err := OpenLeases(path, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// putT stores leases and waits.
func putT(t testing.TB, l *Leases, leases ...Lease) {
	t.Helper()
	result := make(chan error, 1)
	l.commit(job{put: leases, done: func(err error) { result <- err }})
	if err := <-result; err != nil {
		t.Fatal(err)
	}
}

func leaseNo(i int) Lease {
	return Lease{
		Network: "default", Addr: toAddr(0x0a000000 + uint32(i)), MAC: formatMAC([6]byte{2, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}),
		Hostname: fmt.Sprintf("guest-%d", i), Expires: time.Now().Unix() + 3600, State: Bound,
	}
}

func TestLeasesSurviveARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases")
	l := openT(t, path)
	a, b, c := leaseNo(1), leaseNo(2), leaseNo(1)
	c.Network, c.ClientID, c.State = "other", "ff01", Released
	putT(t, l, a, b, c)
	if _, err := OpenLeases(path, quiet); !errors.Is(err, ErrLocked) {
		t.Errorf("second open: %v, want ErrLocked", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openT(t, path)
	if got := fmt.Sprint(l.List()); got != fmt.Sprint([]Lease{a, b, c}) {
		t.Errorf("after reopening: %s", got)
	}
	if err := l.Forget("default"); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Forget("other"); !errors.Is(err, ErrClosed) {
		t.Errorf("forget after close: %v", err)
	}
	if got := fmt.Sprint(openT(t, path).List()); got != fmt.Sprint([]Lease{c}) {
		t.Errorf("after forgetting: %s", got)
	}
}

// TestAckIsOnDiskBeforeItLeaves opens a copy of the file, as a crash would have
// left it, the moment each ACK leaves.
func TestAckIsOnDiskBeforeItLeaves(t *testing.T) {
	inWorld(t, func(w *world) {
		for mac := byte(1); mac <= 5; mac++ {
			addr := w.lease(mac) // returns when the ACK is out
			copyPath := filepath.Join(filepath.Dir(w.path), fmt.Sprintf("crash-%d", mac))
			data, err := os.ReadFile(w.path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(copyPath, data, 0o600); err != nil {
				t.Fatal(err)
			}
			crashed, err := OpenLeases(copyPath, quiet)
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, l := range crashed.List() {
				found = found || (l.Addr.String() == addr && l.MAC == macText(mac) && l.Live(time.Now()))
			}
			if !found {
				t.Errorf("ACK of %s left, but the lease is not on disk: %v", addr, crashed.List())
			}
			if err := crashed.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestNoAckBeforeOrWithoutTheDisk(t *testing.T) {
	inWorld(t, func(w *world) {
		gate, fail := make(chan error), errors.New("disk full")
		w.settle()
		w.leases.beforeCommit = func() error { return <-gate }
		offer, _ := w.want(dhcpv4.MessageTypeOffer, w.exchange(message(1, dhcpv4.MessageTypeDiscover), probeWait))
		ask := message(1, dhcpv4.MessageTypeRequest, requested(offer.YourIPAddr.String()), serverID("192.168.122.1"))
		w.silent(w.exchange(ask, time.Second)) // the disk is slow
		if got := w.leases.List(); len(got) != 0 {
			t.Errorf("listed before it is on disk: %v", got)
		}
		gate <- fail
		w.settle()
		if len(w.conn.out) != 0 || w.stats().CommitErrors != 1 || w.stats().Ack != 0 {
			t.Errorf("%d replies after the disk failed, stats %+v", len(w.conn.out), w.stats())
		}
		// The address is still the client's to ask for, and nobody else's.
		w.silent(w.exchange(ask, 0))
		gate <- nil
		w.settle()
		w.want(dhcpv4.MessageTypeAck, []Reply{<-w.conn.out})

		// A renewal that fails leaves the lease as it is on disk.
		before := w.leases.List()[0]
		w.pass(time.Minute)
		w.silent(w.exchange(message(1, dhcpv4.MessageTypeRequest, ciaddr(before.Addr.String())), 0))
		gate <- fail
		w.settle()
		if b := w.server.services["virbr0"].table.byAddr[toInt(before.Addr)]; b.expires != before.Expires || b.state != Bound {
			t.Errorf("in memory it expires at %d, on disk at %d", b.expires, before.Expires)
		}
		w.leases.beforeCommit = nil
	})
}

// TestGroupCommit: what comes while a write is under way shares the next one.
func TestGroupCommit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases")
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, path: path}
		big := bigPool()
		w.start(big)
		defer w.halt()
		gate := make(chan error, 1)
		w.leases.beforeCommit = func() error { return <-gate }
		const clients = 1000
		for i := range clients {
			m, _ := dhcpv4.FromBytes(message(0, dhcpv4.MessageTypeRequest, requested(toAddr(0x0a010100+uint32(i)).String()), serverID("10.1.0.1")))
			binary.BigEndian.PutUint32(m.ClientHWAddr[2:], uint32(i+1))
			w.conn.in <- m.ToBytes()
		}
		w.settle()
		if got := len(w.conn.out); got != 0 {
			t.Fatalf("%d replies before anything is on disk", got)
		}
		close(gate)
		w.settle()
		acks := 0
		for len(w.conn.out) > 0 {
			m, err := dhcpv4.FromBytes((<-w.conn.out).Payload)
			if err != nil || m.MessageType() != dhcpv4.MessageTypeAck {
				t.Fatalf("%v %v", m, err)
			}
			acks++
		}
		if commits := w.leases.Commits(); acks != clients || commits > 3 {
			t.Errorf("%d ACKs in %d writes, want %d in 3 at most", acks, commits, clients)
		}
	})
}

func bigPool() host.Pool {
	p := thePool
	p.Server = netip.MustParsePrefix("10.1.0.1/16")
	p.First, p.Last = netip.MustParseAddr("10.1.1.0"), netip.MustParseAddr("10.1.255.254")
	return p
}

// TestCrashBetweenCommitAndAck: the client asks again, and gets the same.
func TestCrashBetweenCommitAndAck(t *testing.T) {
	inWorld(t, func(w *world) {
		addr := w.lease(1) // take this ACK for lost
		w.restart(thePool)
		ask := message(1, dhcpv4.MessageTypeRequest, requested(addr), serverID("192.168.122.1"))
		m, _ := w.want(dhcpv4.MessageTypeAck, w.exchange(ask, 0))
		if m.YourIPAddr.String() != addr || len(w.leases.List()) != 1 {
			t.Errorf("asked again: %s, leases %v; had %s", m.YourIPAddr, w.leases.List(), addr)
		}
		if a := w.lease(2); a == addr {
			t.Errorf("another client was given %s as well", a)
		}
	})
}

func TestWatch(t *testing.T) {
	l := openT(t, filepath.Join(t.TempDir(), "leases"))
	quick, cancelQuick := l.Watch()
	slow, cancelSlow := l.Watch()
	putT(t, l, leaseNo(1))
	if c := <-quick; c.Lost || c.Lease != leaseNo(1) && c.Lease.Addr != leaseNo(1).Addr {
		t.Errorf("change %+v", c)
	}
	cancelQuick()
	cancelQuick()
	if _, open := <-quick; open {
		t.Error("the channel is open after cancel")
	}
	for i := range 2 * watchBuffer {
		putT(t, l, leaseNo(i))
	}
	told, lost := 0, 0
	for len(slow) > 0 {
		if c := <-slow; c.Lost {
			lost++
			if len(slow) != 0 {
				t.Error("something comes after the mark that changes were lost")
			}
		} else {
			told++
		}
	}
	if told != watchBuffer || lost != 1 {
		t.Errorf("%d changes and %d marks, want %d and 1", told, lost, watchBuffer)
	}
	putT(t, l, leaseNo(7))
	if c := <-slow; c.Lost || c.Lease.Addr != leaseNo(7).Addr {
		t.Errorf("after catching up: %+v", c)
	}
	cancelSlow()
}

func TestWatchTellsTheEnd(t *testing.T) {
	inWorld(t, func(w *world) {
		w.lease(1)
		w.pass(30 * time.Minute)
		addr := w.lease(2)
		changes, cancel := w.leases.Watch()
		defer cancel()
		w.pass(20 * time.Minute)
		w.want(dhcpv4.MessageTypeAck, w.exchange(message(2, dhcpv4.MessageTypeRequest, ciaddr(addr)), 0))
		if c := <-changes; !c.Lease.Live(time.Now()) || c.Lease.MAC != macText(2) {
			t.Fatalf("renewal is told as %+v", c)
		}
		w.pass(10*time.Minute + expiryGap)
		if len(changes) != 1 {
			t.Fatalf("%d changes after one lease is over", len(changes))
		}
		if c := <-changes; c.Lease.MAC != macText(1) || c.Lease.Live(time.Now()) {
			t.Errorf("the end is told as %+v", c)
		}
		w.pass(50*time.Minute + expiryGap)
		if len(changes) != 1 || (<-changes).Lease.MAC != macText(2) {
			t.Error("the renewed lease's end is not told once")
		}
		w.pass(24 * time.Hour)
		if len(changes) != 0 {
			t.Errorf("%d more changes", len(changes))
		}
	})
}

// TestDamagedFileIsKeptAside flips and cuts the file in many places: it opens
// whole, or is kept aside as it was, and never harms the process.
func TestDamagedFileIsKeptAside(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "leases")
	l := openT(t, path)
	const leases = 300
	for i := range leases {
		putT(t, l, leaseNo(i))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damages := map[string][]byte{
		"text": []byte(strings.Repeat("this is not a lease file\n", 1000)), "a byte": {1},
		"zeros": make([]byte, len(good)), "cut in half": good[:len(good)/2], "cut to two pages": good[:8192],
		"cut by a byte": good[:len(good)-1],
	}
	for at := 0; at < len(good); at += 509 { // a prime, so that all parts of pages are met
		bad := append([]byte(nil), good...)
		for i := range 4 {
			bad[min(at+i, len(bad)-1)] ^= 0xa5
		}
		damages[fmt.Sprintf("flip at %d", at)] = bad
	}
	for from := 0; from+8192 <= len(good); from += 4096 {
		bad := append([]byte(nil), good...)
		copy(bad[from:from+4096], good[from+4096:])
		damages[fmt.Sprintf("page %d doubled", from/4096)] = bad
	}
	aside := 0
	for name, bad := range damages {
		sub := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if err := os.Mkdir(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(sub, "leases")
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := OpenLeases(path, quiet)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, lease := range l.List() {
			if i := int(toInt(lease.Addr) - 0x0a000000); i < 0 || i >= leases || lease.Hostname != fmt.Sprintf("guest-%d", i) {
				t.Errorf("%s: invented lease %+v", name, lease)
			}
		}
		fresh := leaseNo(leases + 1)
		putT(t, l, fresh) // it works, whatever happened; damage may show only now
		if c := l.Corrupt(); c != nil {
			aside++
			kept, err := os.ReadFile(c.Aside)
			if err != nil || len(kept) < len(bad) || (strings.HasPrefix(name, "flip") && string(kept[:8]) != string(bad[:8])) {
				t.Errorf("%s: kept aside %d bytes of %d, %v", name, len(kept), len(bad), err)
			}
		} else if got := len(l.List()); got < leases {
			// All, or all but the last write: with one of the two meta pages gone
			// bbolt takes the write before, as after a crash in the midst of one.
			t.Errorf("%s: opened without complaint, with %d leases of %d", name, got, leases+1)
		}
		if err := l.Close(); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
		again, err := OpenLeases(path, quiet)
		if err != nil {
			t.Errorf("%s: open again: %v", name, err)
			continue
		}
		if list := again.List(); len(list) == 0 || list[len(list)-1] != fresh {
			t.Errorf("%s: the lease stored after the damage is gone", name)
		}
		again.Close()
	}
	if aside < len(damages)/8 { // most of the file is free pages
		t.Errorf("only %d of %d damages were noticed", aside, len(damages))
	}
}

func TestOpenFailsWithoutTouchingAnything(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenLeases(filepath.Join(dir, "no", "such", "leases"), quiet); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory missing: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "leases"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLeases(filepath.Join(dir, "leases"), quiet); err == nil {
		t.Error("a directory was opened as lease file")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("directory holds %v", entries)
	}
}

// TestTenThousandLeases fills a network and takes its measure.
func TestTenThousandLeases(t *testing.T) {
	l := openT(t, filepath.Join(t.TempDir(), "leases"))
	var all []Lease
	for i := range 10000 {
		lease := leaseNo(i)
		lease.Addr = toAddr(0x0a010100 + uint32(i))
		all = append(all, lease)
	}
	putT(t, l, all...)
	s := New(Config{Leases: l, Log: quiet})
	if err := s.Apply(plan.Step{After: bigPool()}); err != nil {
		t.Fatal(err)
	}
	table := s.services["virbr0"].table
	start, now := time.Now(), time.Now().Unix()
	const newcomers = 20000
	seen := map[uint32]bool{}
	for i := range newcomers {
		c := client{mac: [6]byte{6, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}}
		addr, known, ok := table.choose(c, 0, now)
		if !ok || known || seen[addr] || table.judge(c, addr, now) == refuse {
			t.Fatalf("client %d: %s known %v ok %v", i, toAddr(addr), known, ok)
		}
		seen[addr] = true
		table.bind(c, addr, "", now+3600, now)
	}
	if each := time.Since(start) / newcomers; each > 50*time.Microsecond {
		t.Errorf("%s to find and bind an address, want 50 µs at most", each)
	}
	if used, _ := table.used(now); used != 10000+newcomers {
		t.Errorf("%d in use, want %d", used, 10000+newcomers)
	}
}

func TestServeIsTakenOver(t *testing.T) {
	l := openT(t, filepath.Join(t.TempDir(), "leases"))
	s := New(Config{Leases: l, Log: quiet})
	first, second := newChanConn(), newChanConn()
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() {
		if err := s.Serve(ctx, "virbr0", first); err != nil {
			t.Errorf("first: %v", err)
		}
	})
	first.in <- nil // taken by the loop: it serves
	for len(first.in) > 0 {
		select {
		case <-t.Context().Done():
			t.Fatal("not served")
		default:
		}
	}
	wg.Go(func() {
		if err := s.Serve(ctx, "virbr0", second); err != nil {
			t.Errorf("second: %v", err)
		}
	})
	<-first.done
	if !s.Serving("virbr0") {
		t.Error("nobody serves after the change of sockets")
	}
	cancel()
	wg.Wait()
	if s.Serving("virbr0") {
		t.Error("still serving")
	}
}
