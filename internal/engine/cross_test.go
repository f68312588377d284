package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"drawbridge/internal/engine"
	"drawbridge/internal/guard"
	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
	"drawbridge/internal/store"
	"drawbridge/internal/txn"
)

// trial is a machine on which a change waits for a person, under the real guard
// and the real lock; guards are goroutines here.
type trial struct {
	*machine
	lock  *guard.Lock
	clock atomic.Int64
	// strike is called once in the middle of a phase, which is known by what is done
	// to the host.
	strike   func()
	at       txn.Phase
	finished atomic.Bool // the steps were taken once
	engine   *engine.Engine
	reach    *fakeReach

	mu    sync.Mutex
	guard context.CancelFunc
	ended chan struct{} // closed when the last guard has ended
}

func newTrial(t *testing.T) *trial {
	x := &trial{machine: newMachine(t)}
	x.clock.Store(int64(time.Hour))
	t.Cleanup(func() {
		x.killGuard()
		if x.lock != nil {
			x.lock.Release()
		}
	})
	x.startDaemon()
	return x
}

// Apply hits in the middle of a phase.
func (x *trial) Apply(ctx context.Context, steps []plan.Step) error {
	phase := txn.RollingBack
	first := plan.Early(steps) == len(steps)
	switch {
	case first:
		phase = early
	case len(steps) > 0 && steps[0].Key() == host.ProfileKey(host.Permanent, "br0"):
		phase = txn.Confirmed
	case !x.finished.Load():
		phase = txn.Applying
	}
	for i := range steps {
		if i == len(steps)/2 {
			x.hit(phase)
		}
		if err := x.fake.Apply(ctx, steps[i:i+1]); err != nil {
			return err
		}
	}
	if !first {
		x.finished.Store(true)
	}
	return nil
}

// early is while the change is applied and its guard may not stand yet.
const early txn.Phase = "early"

// Observe hits when the result is looked at.
func (x *trial) Observe(ctx context.Context, keys ...host.Key) (host.State, error) {
	if x.finished.Load() && len(keys) > 10 {
		x.hit(txn.Verifying)
	}
	return x.fake.Observe(ctx, keys...)
}

func (x *trial) hit(phase txn.Phase) {
	if x.strike != nil && x.at == phase {
		strike := x.strike
		x.strike = nil
		strike()
	}
}

// startDaemon starts one, as after the end of the one before.
func (x *trial) startDaemon() {
	x.t.Helper()
	var err error
	if x.lock, err = guard.Wait(x.t.Context(), x.dir, guard.Daemon); err != nil {
		x.t.Fatal(err)
	}
	s, err := store.Open(x.dir)
	if err != nil {
		x.t.Fatal(err)
	}
	ports, err := store.OpenPorts(x.dir)
	if err != nil {
		x.t.Fatal(err)
	}
	x.disk = &disk{Store: s, m: x.machine, cut: -1}
	x.t.Cleanup(func() { s.Close() })
	x.engine = engine.New(engine.Config{
		Host: x, Store: x.disk, Ports: ports, Taps: &fakeTaps{m: x.machine}, Services: noLeases{}, Log: slog.New(slog.DiscardHandler),
		Seed: "seed", BootID: x.boot, Boottime: x.clock.Load, Guard: guard.New(x.dir, x.spawn), Manager: fakeManager{}, Reach: x.reach.orNil(),
	})
	if err := x.engine.Start(x.t.Context()); err != nil {
		x.t.Fatal(err)
	}
}

// spawn starts a guard.
func (x *trial) spawn(_ context.Context, id string) error {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	x.mu.Lock()
	x.guard, x.ended = cancel, ended
	x.mu.Unlock()
	log := slog.New(slog.DiscardHandler)
	p := guard.Process{
		RunDir: x.dir, ID: id, Log: log,
		Runner: txn.Runner{Host: x.fake, Log: log, Boottime: x.clock.Load, BootID: x.boot},
		Journal: func() (txn.Journal, func() error, error) {
			s, err := store.Open(x.dir)
			return s, s.Close, err
		},
	}
	go func() {
		defer close(ended)
		_ = p.Run(ctx) // what it did is seen
	}()
	return nil
}

// killGuard ends the last guard where it stands, if there is one.
func (x *trial) killGuard() {
	x.mu.Lock()
	cancel, ended := x.guard, x.ended
	x.mu.Unlock()
	if cancel != nil {
		cancel()
		<-ended
	}
}

// guardEnds waits until the guard has done its work.
func (x *trial) guardEnds() {
	x.t.Helper()
	select {
	case <-x.ended:
	case <-time.After(30 * time.Second):
		x.t.Fatal("the guard does not end")
	}
}

// killDaemon ends it right now: nothing of it reaches the host or the disk any more.
func (x *trial) killDaemon() { x.fake.PowerCut(0) }

// buried is after the death of a daemon: the kernel frees its lock and its files.
func (x *trial) buried() {
	x.t.Helper()
	x.disk.dead = true
	x.fake.Restart()
	if err := x.disk.Close(); err != nil {
		x.t.Fatal(err)
	}
	x.lock.Release()
	x.lock = nil
}

// reboot is a power cut: both processes are gone, /run and the kernel are new. The
// boot check comes first, then the host's own manager makes what its files say.
func (x *trial) reboot() {
	x.t.Helper()
	x.killGuard()
	x.buried()
	files, err := x.fake.Observe(x.t.Context())
	if err != nil {
		x.t.Fatal(err)
	}
	maps.DeleteFunc(files, func(k host.Key, r host.Resource) bool {
		p, ok := r.(host.Profile)
		return !ok || p.Stage != host.Permanent
	})
	x.fake.Reboot(append(nic(), values(files)...)...)
	x.boot = "boot-2"
	s, err := store.Open(x.dir)
	if err != nil {
		x.t.Fatal(err)
	}
	check := txn.Runner{Host: x.fake, Journal: s, Log: slog.New(slog.DiscardHandler), Boottime: x.clock.Load, BootID: x.boot}
	if err := errors.Join(check.RecoverBoot(x.t.Context()), s.Close()); err != nil {
		x.t.Fatal(err)
	}
	if seen, err := x.fake.Observe(x.t.Context(), host.ProfileKey(host.Permanent, "br0")); err == nil && len(seen) > 0 {
		x.fake.Reboot(append(bridgeAtBoot(), values(seen)...)...)
	}
	x.startDaemon()
}

func values(s host.State) []host.Resource {
	var list []host.Resource
	for _, r := range s {
		list = append(list, r)
	}
	return list
}

// bridgeAtBoot is what the host's own manager makes of the permanent profile.
func bridgeAtBoot() []host.Resource {
	var has []host.Resource
	for _, r := range nic() {
		switch r := r.(type) {
		case host.Link:
			has = append(has, host.Link{Name: "br0", Type: host.TypeBridge, MAC: r.MAC, MTU: r.MTU, Up: true})
			r.Master = "br0"
			has = append(has, r)
		case host.Address:
			r.Link = "br0"
			has = append(has, r)
		}
	}
	return has
}

// fakeManager manages enp6s18, and has no clients.
type fakeManager struct{}

func (fakeManager) Of(context.Context, string) (engine.Managed, error) {
	return engine.Managed{Name: "networkd", Words: "systemd-networkd"}, nil
}
func (fakeManager) Verify(context.Context, string) error         { return nil }
func (fakeManager) Files(context.Context, host.Profile) []string { return nil }
func (fakeManager) Edited(string) []string                       { return nil }

func bridgedLAN() engine.Command {
	return network("lan", func(n *spec.Network) { n.Mode, n.Uplinks = "bridged", []string{"enp6s18"} })
}

// ask makes the change that waits for a minute.
func (x *trial) ask(ctx context.Context) (engine.Result, error) {
	x.finished.Store(false)
	return x.engine.Do(ctx, bridgedLAN(), engine.Options{Within: time.Minute})
}

// pending is the change under way.
func (x *trial) pending() (txn.Txn, bool) {
	all := x.engine.Changes()
	if len(all) == 0 {
		return txn.Txn{}, false
	}
	return all[0], true
}

// late lets the deadline pass, and the daemon notice; by less than after what a guard
// kills a daemon that hangs, which would be this process.
func (x *trial) late() {
	x.clock.Add(int64(65 * time.Second))
	x.engine.Attend(x.t.Context())
}

// ends compares with how the host, its document and its ledger were or should be.
func (x *trial) ends(what string, want end) {
	x.t.Helper()
	if diff := x.end().is(want); diff != "" {
		x.t.Errorf("%s: %s", what, diff)
	}
	x.noJournal()
	if t, open := x.pending(); open {
		x.t.Errorf("%s: change %s is still %s", what, t.ID, t.Phase)
	}
}

// through are how it is before the change, and after it was kept, undisturbed.
func through(t *testing.T) (before, after, booted end) {
	x := newTrial(t)
	before = x.end()
	res, err := x.ask(t.Context())
	if err != nil || res.Phase != txn.Waiting {
		t.Fatal(res.Phase, err)
	}
	if err := x.engine.Confirm(t.Context(), res.ID); err != nil {
		t.Fatal(err)
	}
	after = x.end()
	if after.is(before) == "" || len(after.doc.Networks) != 1 {
		t.Fatal("the change changes nothing: the test shows nothing")
	}
	x.killDaemon()
	x.reboot()
	return before, after, x.end()
}

// TestCrossOfFaults is the table of docs/bridged.md: what is killed or cut, times
// the phase in which that happens.
func TestCrossOfFaults(t *testing.T) {
	before, after, booted := through(t)
	for _, phase := range []txn.Phase{early, txn.Applying, txn.Verifying, txn.Waiting, txn.Confirmed, txn.RollingBack} {
		kept := phase == txn.Confirmed
		want := before
		if kept {
			want = after
		}
		run := func(fault string, f func(x *trial, strike func(func()))) {
			t.Run(fmt.Sprintf("%s/%s", fault, phase), func(t *testing.T) {
				x := newTrial(t)
				f(x, func(do func()) { x.bring(phase, do) })
			})
		}
		run("connection cut", func(x *trial, strike func(func())) {
			// Whoever asks hangs up: the context of the call ends.
			ctx, hangUp := context.WithCancel(t.Context())
			defer hangUp()
			x.bringBy(ctx, phase, hangUp)
			if !kept && phase != txn.RollingBack {
				if p, open := x.pending(); !open || p.Phase != txn.Waiting {
					t.Errorf("it does not wait: %v", p.Phase)
				}
				x.late()
			}
			x.ends("nobody confirms", want)
		})
		run("daemon killed", func(x *trial, strike func(func())) {
			strike(x.killDaemon)
			x.buried()
			switch {
			case phase == txn.Waiting:
				x.startDaemon()
				if p, open := x.pending(); !open || p.Phase != txn.Waiting {
					t.Errorf("the next daemon does not go on waiting: %v", p.Phase)
				}
				x.late()
			case kept:
				x.startDaemon()
			default:
				x.guardEnds()
				x.startDaemon()
			}
			x.ends("afterwards", want)
		})
		run("guard killed", func(x *trial, strike func(func())) {
			strike(x.killGuard)
			if p, open := x.pending(); open {
				if p.Phase != txn.Waiting {
					t.Errorf("it is %s", p.Phase)
				}
				x.engine.Attend(t.Context())
				if !guard.New(x.dir, nil).Stands(p.ID) {
					t.Error("no other guard stands")
				}
				if err := x.engine.Confirm(t.Context(), p.ID); err != nil {
					t.Error(err)
				}
				x.ends("confirmed", after)
				return
			}
			x.ends("afterwards", want)
		})
		run("both killed", func(x *trial, strike func(func())) {
			strike(x.killDaemon)
			x.killGuard()
			x.buried()
			x.startDaemon()
			x.ends("the next daemon", want)
		})
		run("power cut", func(x *trial, strike func(func())) {
			strike(x.killDaemon)
			x.reboot()
			if kept {
				want = booted
			}
			got := x.end()
			// What was left on (forwarding) is off after a boot, and our rules come with
			// the first network.
			for _, e := range []*end{&got, &want} {
				e.state = maps.Clone(e.state)
				maps.DeleteFunc(e.state, func(k host.Key, _ host.Resource) bool { return k.Kind == host.KindSysctl })
			}
			if diff := got.is(want); diff != "" {
				t.Error(diff)
			}
			x.noJournal()
		})
	}
}

// bring lets something happen in a phase of a change.
func (x *trial) bring(phase txn.Phase, do func()) { x.bringBy(x.t.Context(), phase, do) }

func (x *trial) bringBy(ctx context.Context, phase txn.Phase, do func()) {
	x.t.Helper()
	x.at = phase
	if phase == early || phase == txn.Applying || phase == txn.Verifying {
		x.strike = do
	}
	res, err := x.ask(ctx)
	switch phase {
	case txn.Waiting:
		do()
	case txn.Confirmed:
		x.strike = do
		err = x.engine.Confirm(ctx, res.ID)
	case txn.RollingBack:
		x.strike = do
		err = x.engine.Cancel(ctx, res.ID)
	}
	if x.strike != nil {
		x.t.Fatalf("nothing happened in phase %s: %v", phase, err)
	}
}

// TestNobodyComesBack: the daemon died while a change waits, and none follows: its
// guard takes it back at the deadline, not before.
func TestNobodyComesBack(t *testing.T) {
	before, _, _ := through(t)
	x := newTrial(t)
	if _, err := x.ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.killDaemon()
	x.buried()
	x.clock.Add(int64(59 * time.Second))
	select {
	case <-x.ended:
		t.Error("it is taken back before its time is over")
	case <-time.After(300 * time.Millisecond): // three looks of the guard
	}
	x.clock.Add(int64(2 * time.Second))
	x.guardEnds()
	x.startDaemon()
	x.ends("afterwards", before)
	_, err := x.engine.Change("nothing")
	if !errors.Is(err, spec.ErrNotFound) {
		t.Error(err)
	}
}

// TestKilledAroundTheCommitPoint: the guard was told that it is confirmed, and the
// daemon died before the journal was, or right after.
func TestKilledAroundTheCommitPoint(t *testing.T) {
	before, after, _ := through(t)
	for _, written := range []bool{false, true} {
		for _, next := range []string{"daemon", "guard"} {
			t.Run(fmt.Sprintf("written=%t, then the %s", written, next), func(t *testing.T) {
				x := newTrial(t)
				res, err := x.ask(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				want := before
				x.disk.cut = 0
				if written {
					x.disk.cut, want = 1, after
				}
				_ = x.engine.Confirm(t.Context(), res.ID)
				x.buried()
				x.clock.Add(int64(2 * time.Minute))
				if next == "guard" {
					x.guardEnds()
				} else {
					x.killGuard()
				}
				x.startDaemon()
				x.ends("afterwards", want)
			})
		}
	}
}

// TestOneDecisionOnly: another one, a late one, and one on another change are
// refused and change nothing.
func TestOneDecisionOnly(t *testing.T) {
	before, after, _ := through(t)
	x := newTrial(t)
	res, err := x.ask(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	var pending *engine.PendingError
	if _, err := x.engine.Do(ctx, network("other"), engine.Options{}); !errors.As(err, &pending) || pending.ID != res.ID {
		t.Errorf("another change: %v", err)
	}
	if err := x.engine.Confirm(ctx, "01234567"); !errors.Is(err, spec.ErrNotFound) {
		t.Errorf("the wrong id: %v", err)
	}
	if err := x.engine.Confirm(ctx, res.ID); err != nil {
		t.Fatal(err)
	}
	var over *engine.OverError
	for what, decide := range map[string]func() error{
		"confirm": func() error { return x.engine.Confirm(ctx, res.ID) },
		"cancel":  func() error { return x.engine.Cancel(ctx, res.ID) },
		"extend":  func() error { return x.engine.Extend(ctx, res.ID, time.Minute) },
	} {
		if err := decide(); !errors.As(err, &over) || over.Phase != txn.Confirmed {
			t.Errorf("%s after it was confirmed: %v", what, err)
		}
	}
	x.ends("confirmed", after)

	x = newTrial(t)
	if res, err = x.ask(ctx); err != nil {
		t.Fatal(err)
	}
	x.clock.Add(int64(time.Minute))
	var late *txn.TakenBackError
	if err := x.engine.Confirm(ctx, res.ID); !errors.As(err, &late) {
		t.Errorf("too late: %v", err)
	}
	x.ends("too late", before)
	if err := x.engine.Confirm(ctx, res.ID); !errors.As(err, &over) || over.Phase != txn.RolledBack {
		t.Errorf("later still: %v", err)
	}
}
