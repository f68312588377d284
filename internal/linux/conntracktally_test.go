package linux

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/engine"
	"drawbridge/internal/store"
)

// asEngine lets the engine's tally see the kernel, as cmd/drawbridge does.
type asEngine struct{ Conntrack }

func (a asEngine) List(ctx context.Context, q engine.FlowQuery, yield func(engine.Flow) bool) error {
	return a.Conntrack.List(ctx, FlowQuery(q), func(f Flow) bool { return yield(engine.Flow(f)) })
}

func (a asEngine) Cut(ctx context.Context, flows []engine.Flow) error {
	var list []Flow
	for _, f := range flows {
		list = append(list, Flow(f))
	}
	return a.Conntrack.Cut(ctx, list)
}

func (a asEngine) Watch(ctx context.Context, began bool, each func(engine.FlowEvent)) error {
	return a.Conntrack.Watch(ctx, began, func(e FlowEvent) {
		each(engine.FlowEvent{Kind: engine.FlowEventKind(e.Kind), Flow: engine.Flow(e.Flow)})
	})
}

// counting is a daemon that counts, until its context ends.
type counting struct {
	*testing.T
	*engine.Tally
	stop func()
}

func startCounting(t *testing.T, ct Conntrack, dir string) counting {
	t.Helper()
	disk, err := store.OpenTally(dir)
	if err != nil {
		t.Fatal(err)
	}
	lookup := func(f engine.Flow) (string, bool) { return "port " + fmt.Sprint(f.Dst.Port()/100*100), true }
	tally, err := engine.NewTally(asEngine{ct}, disk, lookup, slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { tally.Run(ctx) })
	var once sync.Once
	c := counting{t, tally, func() {
		once.Do(func() {
			cancel()
			wg.Wait()
			if err := disk.Close(); err != nil {
				t.Error(err)
			}
		})
	}}
	t.Cleanup(c.stop)
	return c
}

// want waits until a key has the counts; a listing may be a second old.
func (c counting) want(key string, connections, packets, bytes uint64) {
	c.Helper()
	want := engine.Counts{Connections: connections, Packets: packets, Bytes: bytes}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var got engine.Counts
	for limit := time.After(5 * time.Second); ; {
		all, err := c.Totals(c.Context(), key)
		if err != nil {
			c.Fatal(err)
		}
		if got = all[key]; got == want {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			c.Fatalf("%s has %+v, want %+v", key, got, want)
		}
	}
}

// TestTallyOfTheKernel counts what the kernel tracks: live, ended, cut, over two
// restarts, with a flow that lives on and one that ends meanwhile.
func TestTallyOfTheKernel(t *testing.T) {
	ct := tracked(t)
	sink(t, "127.0.0.1:7000")
	dir := t.TempDir()
	c := startCounting(t, ct, dir)
	tell(t, "127.9.9.9:8000", "127.9.9.9:8001", "127.9.9.9:8100", "127.9.9.9:8100", "127.0.0.1:7000")
	c.want("port 8000", 2, 2, 72)
	c.want("port 8100", 1, 2, 72)
	cut := func(port uint16) {
		t.Helper()
		if err := ct.Cut(t.Context(), flowsOf(t, ct, FlowQuery{Proto: unix.IPPROTO_UDP, First: port, Last: port, DNAT: true})); err != nil {
			t.Fatal(err)
		}
	}
	cut(8000)
	c.want("port 8000", 2, 2, 72)
	c.stop()
	tell(t, "127.9.9.9:8002") // begins while nobody listens, and lives on
	c = startCounting(t, ct, dir)
	c.want("port 8000", 3, 3, 108)
	cut(8002)
	cut(8100)
	c.want("port 8000", 3, 3, 108)
	c.want("port 8100", 1, 2, 72)
	c.stop()
	cut(8001) // while nobody listens
	c = startCounting(t, ct, dir)
	c.want("port 8000", 3, 3, 108)
	c.want("port 8100", 1, 2, 72)
}

// TestTallyUnderLoad begins and ends many connections at once, and counts each.
func TestTallyUnderLoad(t *testing.T) {
	ct := tracked(t)
	sink(t, "127.0.0.1:7000")
	c := startCounting(t, ct, t.TempDir())
	c.want("port 8200", 0, 0, 0)
	var to []string
	for port := 8200; port < 8300; port++ {
		to = append(to, fmt.Sprintf("127.9.9.9:%d", port))
	}
	const rounds = 200
	for range rounds {
		tell(t, to...)
	}
	var before, after unix.Rusage
	flows := flowsOf(t, ct, FlowQuery{DNAT: true})
	if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := ct.Cut(t.Context(), flows); err != nil {
		t.Fatal(err)
	}
	// A port that was given out twice is one connection.
	n := uint64(rounds * len(to))
	c.want("port 8200", uint64(len(flows)), n, n*36)
	if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
		t.Fatal(err)
	}
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	t.Logf("%d connections ended in %v and were counted, with %v of processor for ending and counting", len(flows), time.Since(begin), cpu)
}
