package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

// tableOfFlows is a kernel's table of connections.
type tableOfFlows struct {
	mu    sync.Mutex
	flows map[flowID]Flow
	last  uint32
	watch func(FlowEvent)
	// during runs while a listing is on its way, after everything was read.
	during func()
	fail   error
}

func (k *tableOfFlows) begin(port uint16, packets uint64) Flow {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last++
	f := Flow{
		Proto: 6, DNAT: true, ID: k.last, Packets: packets, Bytes: packets * 100,
		Src: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.7"), uint16(10000+k.last)), Dst: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port),
		ReplySrc: netip.MustParseAddrPort("192.168.122.10:80"),
	}
	k.flows[idOf(f)] = f
	return f
}

func (k *tableOfFlows) more(f Flow, packets uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f = k.flows[idOf(f)]
	f.Packets, f.Bytes = f.Packets+packets, f.Bytes+100*packets
	k.flows[idOf(f)] = f
}

// end takes a flow out of the table; told says whether anybody hears of it.
func (k *tableOfFlows) end(f Flow, told bool) {
	k.mu.Lock()
	f = k.flows[idOf(f)]
	delete(k.flows, idOf(f))
	watch := k.watch
	k.mu.Unlock()
	if told {
		watch(FlowEvent{FlowEnded, f})
	}
}

func (k *tableOfFlows) List(_ context.Context, q FlowQuery, yield func(Flow) bool) error {
	k.mu.Lock()
	flows := slices.Collect(maps.Values(k.flows))
	during := k.during
	k.mu.Unlock()
	if during != nil {
		during()
	}
	for _, f := range flows {
		if (f.DNAT || !q.DNAT) && !yield(f) {
			break
		}
	}
	return k.fail
}

func (k *tableOfFlows) Cut(_ context.Context, flows []Flow) error {
	for _, f := range flows {
		k.mu.Lock()
		_, there := k.flows[idOf(f)]
		k.mu.Unlock()
		if there {
			k.end(f, k.watch != nil)
		}
	}
	return nil
}

func (k *tableOfFlows) Watch(ctx context.Context, _ bool, each func(FlowEvent)) error {
	k.mu.Lock()
	k.watch = each
	k.mu.Unlock()
	each(FlowEvent{Kind: FlowsLost})
	<-ctx.Done()
	return nil
}

// tallyDisk is what survives.
type tallyDisk struct {
	mu      sync.Mutex
	entries map[string][]byte
	saves   int
	fail    error
	wrote   chan struct{}
}

func (d *tallyDisk) LoadTally() (map[string][]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.entries), nil
}

func (d *tallyDisk) SaveTally(entries map[string][]byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return d.fail
	}
	d.saves++
	for k, v := range entries {
		if d.entries[k] = slices.Clone(v); v == nil {
			delete(d.entries, k)
		}
	}
	if d.wrote != nil {
		select {
		case d.wrote <- struct{}{}:
		default:
		}
	}
	return nil
}

// scene is a host with a daemon that counts, and a clock that stands still.
type tallyScene struct {
	*testing.T
	kernel *tableOfFlows
	disk   *tallyDisk
	clock  time.Time
	// closed are ports that no forward has.
	closed map[uint16]bool
	*Tally
}

func newTallyScene(t *testing.T) *tallyScene {
	s := &tallyScene{
		T: t, kernel: &tableOfFlows{flows: map[flowID]Flow{}}, disk: &tallyDisk{entries: map[string][]byte{}},
		clock: time.Unix(1e9, 0), closed: map[uint16]bool{},
	}
	s.start()
	return s
}

func (s *tallyScene) lookup(f Flow) (string, bool) {
	return fmt.Sprintf("tcp/%d", f.Dst.Port()), !s.closed[f.Dst.Port()]
}

// start is a daemon's start, after whatever became of the one before.
func (s *tallyScene) start() {
	s.Helper()
	var err error
	s.Tally, err = NewTally(s.kernel, s.disk, s.lookup, slog.New(slog.DiscardHandler), func() time.Time { return s.clock })
	if err != nil {
		s.Fatal(err)
	}
	s.kernel.watch = s.hear
}

// die is the end of a daemon that could not save.
func (s *tallyScene) die() { s.Tally, s.kernel.watch = nil, func(FlowEvent) {} }

func (s *tallyScene) pass(d time.Duration) {
	s.Helper()
	s.clock = s.clock.Add(d)
	if err := s.Round(s.Context()); err != nil {
		s.Error(err)
	}
}

func (s *tallyScene) want(port uint16, connections, packets uint64) {
	s.Helper()
	key := fmt.Sprintf("tcp/%d", port)
	got, err := s.Totals(s.Context(), key)
	if err != nil {
		s.Error(err)
	}
	if want := (Counts{connections, packets, packets * 100}); got[key] != want {
		s.Errorf("%s has %+v, want %+v", key, got[key], want)
	}
}

func TestTallyCounts(t *testing.T) {
	cases := map[string]func(*tallyScene){
		"nothing": func(s *tallyScene) { s.want(80, 0, 0) },
		"live and ended": func(s *tallyScene) {
			a := s.kernel.begin(80, 3)
			s.kernel.begin(81, 5)
			s.pass(time.Second)
			s.want(80, 1, 3)
			s.kernel.more(a, 4)
			s.pass(2 * time.Second)
			s.want(80, 1, 7)
			s.kernel.more(a, 1)
			s.kernel.end(a, true)
			s.want(80, 1, 8)
			s.pass(time.Minute)
			s.want(80, 1, 8)
			s.want(81, 1, 5)
		},
		"ended between two listings": func(s *tallyScene) {
			s.kernel.end(s.kernel.begin(80, 3), true)
			s.want(80, 1, 3)
		},
		"ended while it is listed": func(s *tallyScene) {
			a := s.kernel.begin(80, 3)
			s.kernel.during = func() { s.kernel.during = nil; s.kernel.end(a, true) }
			s.pass(time.Second)
			s.want(80, 1, 3)
			s.pass(time.Minute)
			s.pass(time.Minute)
			s.want(80, 1, 3)
		},
		"restart": func(s *tallyScene) {
			a, b := s.kernel.begin(80, 3), s.kernel.begin(80, 10)
			s.kernel.end(b, true)
			s.pass(time.Second)
			s.start()
			s.want(80, 2, 13)
			s.kernel.more(a, 1)
			s.pass(2 * time.Second)
			s.want(80, 2, 14)
			s.kernel.end(a, true)
			s.want(80, 2, 14)
			s.pass(time.Minute)
			s.start()
			s.want(80, 2, 14)
		},
		"ended while the daemon was away": func(s *tallyScene) {
			a := s.kernel.begin(80, 3)
			s.pass(time.Second)
			s.die()
			s.kernel.more(a, 7)
			s.kernel.end(a, false)
			s.start()
			s.want(80, 1, 3) // what was known; the rest is lost
			s.pass(time.Minute)
			s.want(80, 1, 3)
			s.pass(time.Minute)
			s.want(80, 1, 3)
			if len(s.count.live) != 0 {
				s.Errorf("remembered: %v", s.count.live)
			}
		},
		"crash after the last saving": func(s *tallyScene) {
			a, b := s.kernel.begin(80, 3), s.kernel.begin(80, 5)
			s.pass(time.Second)
			s.kernel.end(a, true)
			s.die()
			s.start()
			s.want(80, 2, 8)
			s.kernel.end(b, true)
			s.pass(time.Minute)
			s.pass(time.Minute)
			s.want(80, 2, 8)
		},
		"news lost": func(s *tallyScene) {
			a := s.kernel.begin(80, 3)
			s.pass(time.Second)
			s.kernel.end(a, false)
			s.kernel.watch(FlowEvent{Kind: FlowsLost})
			if len(s.again) != 1 {
				s.Error("nobody looks again")
			}
			for range 3 {
				s.pass(10 * time.Second)
				s.want(80, 1, 3)
			}
		},
		"news late": func(s *tallyScene) {
			a := s.kernel.begin(80, 3)
			s.pass(time.Second)
			delete(s.kernel.flows, idOf(a))
			for range 3 {
				s.pass(4 * time.Second)
			}
			s.want(80, 1, 3)
			a.Packets, a.Bytes = 4, 400
			s.kernel.watch(FlowEvent{FlowEnded, a})
			s.want(80, 1, 4)
			s.pass(time.Minute)
			s.pass(time.Minute)
			s.want(80, 1, 4)
		},
		"counts set to zero by somebody": func(s *tallyScene) {
			a := s.kernel.begin(80, 3)
			s.pass(time.Second)
			a.Packets, a.Bytes = 1, 100
			s.kernel.flows[idOf(a)] = a
			s.kernel.end(a, true)
			s.want(80, 1, 3)
		},
		"same ends again": func(s *tallyScene) {
			a := s.kernel.begin(80, 3)
			s.kernel.end(a, true)
			a.ID++
			s.kernel.flows[idOf(a)] = a
			s.pass(time.Second)
			s.want(80, 2, 6)
		},
		"forward removed": func(s *tallyScene) {
			a, b := s.kernel.begin(80, 3), s.kernel.begin(80, 4)
			s.kernel.end(a, true)
			s.pass(time.Second)
			s.closed[80] = true
			if n, err := CutFlows(s.Context(), s.kernel, FlowQuery{DNAT: true}, nil); n != 1 || err != nil {
				s.Errorf("cut %d: %v", n, err)
			}
			s.Forget("tcp/80")
			s.kernel.watch(FlowEvent{FlowEnded, b})
			s.want(80, 0, 0)
			s.pass(time.Minute)
			s.start()
			s.closed[80] = false
			s.want(80, 0, 0)
			s.kernel.begin(80, 1)
			s.pass(time.Minute)
			s.want(80, 1, 1)
		},
		"forwards removed while away": func(s *tallyScene) {
			s.kernel.begin(80, 3)
			s.kernel.end(s.kernel.begin(81, 4), true)
			s.kernel.end(s.kernel.begin(82, 5), true)
			s.pass(time.Second)
			s.start()
			s.closed[80] = true
			s.Retain(func(f string) bool { return f == "tcp/82" })
			s.pass(time.Minute)
			s.start()
			s.want(80, 0, 0)
			s.want(81, 0, 0)
			s.want(82, 1, 5)
		},
		"flows of nobody": func(s *tallyScene) {
			s.closed[80] = true
			a := s.kernel.begin(80, 3)
			s.pass(time.Second)
			s.kernel.end(a, true)
			s.want(80, 0, 0)
		},
		"a listing that fails": func(s *tallyScene) {
			s.kernel.begin(80, 3)
			s.pass(time.Second)
			s.kernel.fail = errors.New("no")
			s.clock = s.clock.Add(time.Minute)
			if s.Round(s.Context()) == nil {
				s.Error("nothing said")
			}
			if got, err := s.Totals(s.Context(), "tcp/80"); err == nil || got["tcp/80"].Packets != 3 {
				s.Errorf("got %v, %v", got, err)
			}
			s.kernel.fail = nil
			s.want(80, 1, 3)
		},
		"a saving that fails": func(s *tallyScene) {
			s.kernel.end(s.kernel.begin(80, 3), true)
			s.disk.fail = errors.New("full")
			if s.Round(s.Context()) == nil {
				s.Error("nothing said")
			}
			s.disk.fail = nil
			s.pass(time.Minute)
			s.start()
			s.want(80, 1, 3)
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) { c(newTallyScene(t)) })
	}
}

// TestTallyWritesWhatChanged saves nothing when nothing happened.
func TestTallyWritesWhatChanged(t *testing.T) {
	s := newTallyScene(t)
	for port := range uint16(100) {
		s.kernel.end(s.kernel.begin(port, 1), true)
	}
	s.kernel.begin(80, 1)
	s.pass(time.Minute)
	before := s.disk.saves
	for range 3 {
		s.pass(time.Minute)
	}
	if s.disk.saves != before {
		t.Error("saved though nothing changed")
	}
	s.kernel.end(s.kernel.begin(7, 1), true)
	entries, err := s.count.unsaved()
	if err != nil || len(entries) != 1 {
		t.Errorf("one forward changed, %d entries are written: %v", len(entries), err)
	}
}

// TestTallySavesTheHeaviest keeps the saved part small, whatever is live.
func TestTallySavesTheHeaviest(t *testing.T) {
	s := newTallyScene(t)
	for i := range uint64(3 * savedFlows) {
		s.kernel.begin(80, i)
	}
	s.pass(time.Minute)
	s.start()
	if len(s.count.live) != savedFlows {
		t.Fatalf("%d flows are restored", len(s.count.live))
	}
	for _, f := range s.count.live {
		if f.counts.Packets < 2*savedFlows {
			t.Errorf("a flow of %d packets is restored", f.counts.Packets)
			break
		}
	}
	n := uint64(3 * savedFlows)
	s.want(80, n, n*(n-1)/2)
}

func TestTallyBeginsAnew(t *testing.T) {
	for _, broken := range []map[string][]byte{{"live": []byte("x")}, {"forward tcp/80": []byte("{")}, {"live": append(make([]byte, 57), 255)}} {
		s := newTallyScene(t)
		s.disk.entries = broken
		tally, err := NewTally(s.kernel, s.disk, s.lookup, slog.New(slog.DiscardHandler), time.Now)
		if err == nil || tally == nil {
			t.Errorf("%v is taken: %v", broken, err)
		}
	}
}

// TestTallyRuns follows and saves, and saves once more at the end.
func TestTallyRuns(t *testing.T) {
	s := newTallyScene(t)
	s.disk.wrote = make(chan struct{}, 1)
	a := s.kernel.begin(80, 3)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Tally.Run(ctx) })
	select {
	case <-s.disk.wrote: // by the loss that each subscription begins with
	case <-time.After(5 * time.Second):
		t.Error("nothing saved within 5 s")
	}
	s.kernel.end(a, true)
	cancel()
	wg.Wait()
	s.start()
	s.want(80, 1, 3)
	if len(s.count.live) != 0 {
		t.Error("the last saving was not")
	}
}

func BenchmarkTallyEnd(b *testing.B) {
	flows := make([]Flow, 1000)
	for i := range flows {
		flows[i] = Flow{Proto: 6, DNAT: true, Src: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.7"), uint16(i)), Dst: netip.MustParseAddrPort("192.0.2.1:80"), Packets: 1}
	}
	c := newCount(func(Flow) (string, bool) { return "tcp/80", true })
	for i := 0; b.Loop(); i++ {
		f := flows[i%len(flows)]
		f.ID = uint32(i)
		c.end(f)
	}
}
