package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/txn"
)

// fakeReach is what can be seen of connections and peers.
type fakeReach struct {
	mu       sync.Mutex
	operator []host.Connection
	traffic  map[host.Connection]host.Traffic
	peers    []host.Peer
	silent   map[host.Peer]bool
	looks    chan struct{} // one for each look at traffic
}

func (f *fakeReach) orNil() engine.Reach {
	if f == nil {
		return nil
	}
	return f
}

func (f *fakeReach) set(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func (f *fakeReach) Operator(context.Context, int) ([]host.Connection, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.operator, nil
}

func (f *fakeReach) Traffic(_ context.Context, c host.Connection) (host.Traffic, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, open := f.traffic[c]
	select {
	case f.looks <- struct{}{}:
	default:
	}
	if !open {
		return t, fs.ErrNotExist
	}
	return t, nil
}

func (f *fakeReach) Peers(context.Context) ([]host.Peer, error) { return f.peers, nil }

func (f *fakeReach) Answers(_ context.Context, p host.Peer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.silent[p] {
		return errors.New("no answer")
	}
	return nil
}

var (
	session  = host.Connection{Local: netip.MustParseAddrPort("192.168.99.66:22"), Remote: netip.MustParseAddrPort("192.168.99.10:50000"), Cookie: 7}
	router   = host.Peer{Role: host.RoleGateway, Addr: netip.MustParseAddr("192.168.99.1")}
	resolver = host.Peer{Role: host.RoleResolver, Addr: netip.MustParseAddr("192.168.99.2")}
)

// reachable is a trial with a change that is to confirm itself.
func reachable(t *testing.T, edit func(*fakeReach)) (*trial, engine.Result) {
	f := &fakeReach{
		operator: []host.Connection{session}, traffic: map[host.Connection]host.Traffic{session: {Written: 1000, Acked: 900}},
		peers: []host.Peer{router, resolver}, silent: map[host.Peer]bool{}, looks: make(chan struct{}),
	}
	edit(f)
	x := &trial{machine: newMachine(t), reach: f}
	x.clock.Store(int64(time.Hour))
	t.Cleanup(func() { x.killGuard(); x.lock.Release() })
	x.startDaemon()
	ctx, stop := context.WithCancel(context.Background())
	gone := make(chan struct{})
	go func() { defer close(gone); x.engine.Follow(ctx, make(chan engine.Hint)) }()
	t.Cleanup(func() { stop(); <-gone })
	res, err := x.engine.Do(t.Context(), bridgedLAN(), engine.Options{Within: time.Minute, WhenReachable: true, PID: 42})
	if err != nil || res.Phase != txn.Waiting {
		t.Fatal(res.Phase, err)
	}
	return x, res
}

// looked waits until traffic was looked at and acted upon.
func (x *trial) looked() {
	x.t.Helper()
	for range 2 {
		select {
		case <-x.reach.looks:
		case <-time.After(20 * time.Second):
			x.t.Fatal("nobody looks")
		}
	}
}

// becomes waits until the conditions read so, or the change is over.
func (x *trial) becomes(id, want string) {
	x.t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for got := ""; ; {
		p, err := x.engine.Change(id)
		var over *engine.OverError
		if errors.As(err, &over) {
			got = string(over.Phase) + " " + over.Proof
		} else {
			var parts []string
			for _, c := range x.engine.Conditions(p) {
				parts = append(parts, fmt.Sprintf("%t %s", c.Met, c.Detail))
			}
			got = strings.Join(parts, "; ")
		}
		if got == want {
			return
		}
		select {
		case <-tick.C:
		case <-limit.C:
			x.t.Fatalf("it is %q and not %q", got, want)
		}
	}
}

const keptBy = "confirmed new data went to 192.168.99.10:50000 and was acknowledged, gateway 192.168.99.1 answers, resolver 192.168.99.2 answers"

func TestConfirmsItselfOnNewDataOnly(t *testing.T) {
	x, res := reachable(t, func(*fakeReach) {})
	x.becomes(res.ID, "false nothing yet; false not asked yet; false not asked yet")
	// What was under way at the cut-over is acknowledged: that is not new.
	x.reach.set(func() { x.reach.traffic[session] = host.Traffic{Written: 1000, Acked: 1000} })
	x.looked()
	x.reach.set(func() { x.reach.traffic[session] = host.Traffic{Written: 1010, Acked: 1000} })
	x.looked()
	x.becomes(res.ID, "false nothing yet; false not asked yet; false not asked yet")
	x.reach.set(func() { x.reach.traffic[session] = host.Traffic{Written: 1010, Acked: 1001} })
	x.becomes(res.ID, keptBy)
	if x.disk.Document().Networks["lan"].Bridge != "br0" {
		t.Error("the document does not have it")
	}
}

func TestDoesNotConfirmItselfWithoutGateway(t *testing.T) {
	x, res := reachable(t, func(*fakeReach) {})
	x.reach.set(func() {
		x.reach.silent[router] = true
		x.reach.traffic[session] = host.Traffic{Written: 1100, Acked: 1100}
	})
	x.becomes(res.ID, "true ; false no answer; true ")
	x.reach.set(func() { x.reach.silent[router] = false })
	x.becomes(res.ID, keptBy)
}

func TestPeersThatDidNotAnswerBeforeDoNotCount(t *testing.T) {
	x, res := reachable(t, func(f *fakeReach) { f.silent[resolver] = true })
	x.becomes(res.ID, "false nothing yet; false not asked yet")
	x.reach.set(func() { x.reach.traffic[session] = host.Traffic{Written: 1100, Acked: 1100} })
	x.becomes(res.ID, strings.TrimSuffix(keptBy, ", resolver 192.168.99.2 answers"))
}

func TestWithoutAConnectionAPersonIsAsked(t *testing.T) {
	x, res := reachable(t, func(f *fakeReach) { f.operator = nil })
	if len(res.Conditions) != 1 || res.Conditions[0].Met || !strings.Contains(res.Conditions[0].Detail, "confirm it by hand") {
		t.Errorf("conditions: %+v", res.Conditions)
	}
	if err := x.engine.Confirm(t.Context(), res.ID); err != nil {
		t.Error(err)
	}
}

func TestAConnectionThatClosesIsNoProof(t *testing.T) {
	x, res := reachable(t, func(*fakeReach) {})
	x.reach.set(func() { delete(x.reach.traffic, session) })
	x.becomes(res.ID, "false it is closed; confirm by hand, over another; false not asked yet; false not asked yet")
	before := x.disk.Document()
	x.late()
	x.becomes(res.ID, "rolled-back ")
	if !x.disk.Document().Equal(before) {
		t.Error("the document has it")
	}
}
