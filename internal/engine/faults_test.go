package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
	"drawbridge/internal/store"
	"drawbridge/internal/txn"
)

// machine is a host that can lose power, with the disk of one daemon.
type machine struct {
	t    *testing.T
	fake *nettest.Fake
	dir  string
	disk *disk
	boot string
	// users are who holds which tap, as the fake taps tell.
	users map[string]engine.TapUser
	// services is noLeases unless a test sets another.
	services engine.Services
	// firewalls, observe and now are not set unless a test does.
	firewalls engine.Firewalls
	observe   bool
	now       func() time.Time
}

// nic is what every machine of these tests has from the beginning.
func nic() []host.Resource {
	return []host.Resource{
		host.Link{Name: "enp6s18", MAC: "02:00:00:00:00:66", MTU: 1500, Up: true},
		host.Address{Link: "enp6s18", Addr: netip.MustParsePrefix("192.168.99.66/24")},
		host.Address{Link: "enp6s18", Addr: netip.MustParsePrefix("2001:db8:99::66/64")},
	}
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	return &machine{t: t, fake: nettest.NewFake(nic()...), dir: t.TempDir(), boot: "boot-1"}
}

// disk is the store of a process that may die: once the power is cut, nothing
// is written any more. cut counts the writes until that happens by itself.
type disk struct {
	*store.Store
	m      *machine
	cut    int
	dead   bool
	writes int
}

func (d *disk) write(do func() error) error {
	if d.cut == 0 {
		d.dead = true
		d.m.fake.PowerCut(0)
	}
	if d.cut > 0 {
		d.cut--
	}
	if _, err := d.m.fake.Observe(context.Background()); d.dead || errors.Is(err, nettest.ErrPowerCut) {
		return nettest.ErrPowerCut
	}
	d.writes++
	return do()
}

func (d *disk) Save(t txn.Txn) error   { return d.write(func() error { return d.Store.Save(t) }) }
func (d *disk) Commit(t txn.Txn) error { return d.write(func() error { return d.Store.Commit(t) }) }
func (d *disk) End(t txn.Txn) error    { return d.write(func() error { return d.Store.End(t) }) }

// start begins a daemon on the machine, as after a crash of the one before.
func (m *machine) start(h txn.Host) *engine.Engine {
	m.t.Helper()
	if m.disk != nil {
		if err := m.disk.Close(); err != nil {
			m.t.Fatal(err)
		}
	}
	s, err := store.Open(m.dir)
	if err != nil {
		m.t.Fatal(err)
	}
	ports, err := store.OpenPorts(m.dir)
	if err != nil {
		m.t.Fatal(err)
	}
	m.disk = &disk{Store: s, m: m, cut: -1}
	if m.services == nil {
		m.services = noLeases{}
	}
	m.t.Cleanup(func() { s.Close() })
	e := engine.New(engine.Config{
		Host: h, Store: m.disk, Ports: ports, Taps: &fakeTaps{m: m}, Services: m.services, Log: slog.New(slog.DiscardHandler),
		Seed: "seed", BootID: m.boot, Boottime: func() int64 { return 1 }, Guard: idleGuard{},
		Firewalls: m.firewalls, Observe: m.observe, Now: m.now,
	})
	if err := e.Start(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	return e
}

// idleGuard stands by and never acts: guards have tests of their own.
type idleGuard struct{}

func (idleGuard) Arm(context.Context, txn.Txn) error { return nil }
func (idleGuard) Update(txn.Txn) error               { return nil }
func (idleGuard) Stands(string) bool                 { return true }
func (idleGuard) Disarm(string) error                { return nil }
func (idleGuard) List() ([]string, error)            { return nil, nil }

func (m *machine) state() host.State {
	m.t.Helper()
	s, err := m.fake.Observe(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	for _, path := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv6/conf/virbr0/disable_ipv6", "net/ipv6/conf/virbr0/accept_ra"} {
		more, err := m.fake.Observe(m.t.Context(), host.SysctlKey(path))
		if err != nil {
			m.t.Fatal(err)
		}
		for k, r := range more {
			s[k] = r
		}
	}
	return s
}

type noLeases struct{}

func (noLeases) Leases(context.Context) ([]engine.Lease, error) { return nil, nil }
func (noLeases) Heard(context.Context) ([]engine.Heard, error)  { return nil, nil }
func (noLeases) Problems() []string                             { return nil }
func (noLeases) KeepLeases(context.Context, []spec.NetworkName) error {
	return nil
}

// fakeTaps makes taps on the fake host.
type fakeTaps struct{ m *machine }

func (f *fakeTaps) OpenTap(name string, queues, _ int, _ bool) ([]*os.File, error) {
	there, err := f.m.fake.Observe(context.Background(), host.LinkKey(name))
	if err != nil {
		return nil, err
	}
	if len(there) > 0 {
		return nil, fs.ErrExist
	}
	tap := host.Link{Name: name, Type: host.TypeTap, MAC: "fe:00:00:00:00:01", MTU: 1500}
	if err := f.m.fake.Outside(plan.Step{After: tap}); err != nil {
		return nil, err
	}
	var files []*os.File
	for range queues {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return nil, err
		}
		files = append(files, null)
	}
	return files, nil
}

func (f *fakeTaps) OpenVhost(int) []*os.File { return nil }

func (f *fakeTaps) OpenDirect(name, nic, mac string, _ int) ([]*os.File, error) {
	if err := f.m.fake.Outside(plan.Step{After: host.Link{Name: name, Type: host.TypeMacvtap, Lower: nic, MAC: mac, MTU: 1500}}); err != nil {
		return nil, err
	}
	file, err := os.Open(os.DevNull)
	return []*os.File{file}, err
}

func (f *fakeTaps) Released(context.Context, []string) ([]string, error) { return nil, nil }

func (f *fakeTaps) TapUsers(context.Context) (map[string]engine.TapUser, error) {
	return f.m.users, nil
}
func (f *fakeTaps) Descends(pid, from int) bool                                  { return pid == 10*from }
func (f *fakeTaps) Learned(context.Context) (map[string][]string, error)         { return nil, nil }
func (f *fakeTaps) Neighbours(context.Context) ([]engine.Neighbour, error)       { return nil, nil }
func (f *fakeTaps) Counters(context.Context) (map[string]engine.Counters, error) { return nil, nil }

// scenario is a change to be made on a host that has others behind it.
type scenario struct {
	name   string
	before []engine.Command
	change engine.Command
}

func network(name string, edit ...func(*spec.Network)) engine.CreateNetwork {
	n := spec.Network{Name: spec.NetworkName(name), Started: true, Autostart: true}
	for _, e := range edit {
		e(&n)
	}
	return engine.CreateNetwork{Network: n}
}

func isolated(n *spec.Network) { n.Mode = "isolated" }

var scenarios = []scenario{
	{"create the first", nil, network("default")},
	{"create a second", []engine.Command{network("default")}, network("lab", isolated)},
	{"stop the last", []engine.Command{network("default")}, engine.StopNetwork{Name: "default"}},
	{"stop one of two", []engine.Command{network("default"), network("lab", isolated)}, engine.StopNetwork{Name: "default"}},
	{"start", []engine.Command{network("default", func(n *spec.Network) { n.Started = false })}, engine.StartNetwork{Name: "default"}},
	{"remove", []engine.Command{network("default"), network("lab")}, engine.RemoveNetwork{Name: "lab"}},
	{"another subnet", []engine.Command{network("default")}, engine.SetNetwork{Name: "default", Settings: map[string]string{"subnet": "10.77.0.0/16", "mtu": "1400"}}},
	{"another gateway", []engine.Command{network("default")}, engine.SetNetwork{Name: "default", Settings: map[string]string{"subnet": "192.168.122.254/24"}}},
	{"another mode", []engine.Command{network("default")}, engine.SetNetwork{Name: "default", Settings: map[string]string{"mode": "isolated", "ipv6": "off"}}},
	{"reserve", []engine.Command{network("default")}, engine.Reserve{Name: "default", Reservation: spec.Reservation{MAC: "52:54:00:00:00:01", Addr: netip.MustParseAddr("192.168.122.9"), Hostname: "db"}}},
	{"VLANs", []engine.Command{bridgedLAN()}, engine.SetNetwork{Name: "lan", Settings: map[string]string{"vlan": "30", "vlan-trunk": "40-49"}}},
	{"another VLAN", []engine.Command{bridgedLAN(), engine.SetNetwork{Name: "lan", Settings: map[string]string{"vlan": "30"}}}, engine.SetNetwork{Name: "lan", Settings: map[string]string{"vlan": "31"}}},
	{"no VLANs", []engine.Command{bridgedLAN(), engine.SetNetwork{Name: "lan", Settings: map[string]string{"vlan": "30"}}}, engine.SetNetwork{Name: "lan", Settings: map[string]string{"vlan": "none"}}},
	{"apply", []engine.Command{network("default"), network("lab")}, engine.ApplyDocument{Document: spec.Document{Networks: map[spec.NetworkName]spec.Network{
		"lab": {Name: "lab", Mode: "isolated", Started: true}, "web": {Name: "web", Mode: "nat", Started: true},
	}}}},
}

// prepared is the scenario's machine right before its change.
func (s scenario) prepared(t *testing.T) (*machine, *engine.Engine) {
	m := newMachine(t)
	e := m.start(m.fake)
	for _, c := range s.before {
		done(t, e, c)
	}
	return m, e
}

// done carries a command out, and confirms it if it waits for that.
func done(t *testing.T, e *engine.Engine, c engine.Command) {
	t.Helper()
	res, err := e.Do(t.Context(), c, engine.Options{})
	if err == nil && res.Phase == txn.Waiting {
		err = e.Confirm(t.Context(), res.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// outcome carries the change out undisturbed: how the machine is before and
// after, and how many effects and writes that takes.
func (s scenario) outcome(t *testing.T) (before, after end, effects, writes int) {
	m, e := s.prepared(t)
	before = m.end()
	effects, writes = m.fake.Effects(), m.disk.writes
	if _, err := e.Do(t.Context(), s.change, engine.Options{}); err != nil {
		t.Fatal(err)
	}
	after = m.end()
	if reflect.DeepEqual(before.state, after.state) {
		t.Fatal("the change changes nothing: the test shows nothing")
	}
	return before, after, m.fake.Effects() - effects, m.disk.writes - writes
}

// end is how a machine stands: the host, and what the disk says about it.
type end struct {
	state  host.State
	doc    spec.Document
	ledger host.Ledger
}

func (m *machine) end() end {
	return end{m.state(), m.disk.Document(), m.disk.Ledger()}
}

// is says whether two ends are the same host with the same papers.
func (a end) is(b end) string {
	if !a.doc.Equal(b.doc) {
		return "the document differs"
	}
	if !reflect.DeepEqual(a.ledger, b.ledger) {
		return "the ledger differs"
	}
	if steps := plan.Diff(b.state, a.state); len(steps) > 0 {
		return fmt.Sprintf("the host differs in %d things, first %s %s", len(steps), steps[0].Verb(), steps[0].Key())
	}
	return ""
}

// allOrNothing fails unless the machine stands as before or as after.
func allOrNothing(t *testing.T, what string, got, before, after end) {
	t.Helper()
	asBefore, asAfter := got.is(before), got.is(after)
	if asBefore != "" && asAfter != "" {
		t.Errorf("%s: neither nothing (%s) nor all (%s)", what, asBefore, asAfter)
	}
}

func TestPowerCutAfterEveryEffect(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			before, after, effects, _ := s.outcome(t)
			for cut := range effects + 1 {
				m, e := s.prepared(t)
				m.fake.PowerCut(cut)
				_, _ = e.Do(t.Context(), s.change, engine.Options{})
				m.fake.Restart()
				m.start(m.fake)
				allOrNothing(t, fmt.Sprintf("daemon killed after effect %d of %d", cut, effects), m.end(), before, after)
				m.noJournal()
			}
		})
	}
}

func TestRebootAfterEveryEffect(t *testing.T) {
	for _, s := range scenarios {
		if strings.Contains(s.name, "VLAN") {
			continue // its bridge is made at boot by the host's own manager, which this host has none of
		}
		t.Run(s.name, func(t *testing.T) {
			before, after, effects, _ := s.outcome(t)
			for cut := range effects + 1 {
				m, e := s.prepared(t)
				m.fake.PowerCut(cut)
				_, _ = e.Do(t.Context(), s.change, engine.Options{})
				m.fake.Reboot(nic()...)
				m.boot = "boot-2"
				m.start(m.fake)
				got := m.end()
				// What was left on (forwarding) is off after a boot unless somebody needs it.
				for _, e := range []*end{&got, &before, &after} {
					e.ledger = nil
					for k := range e.state {
						if k.Kind == host.KindSysctl {
							delete(e.state, k)
						}
					}
				}
				allOrNothing(t, fmt.Sprintf("power cut after effect %d of %d", cut, effects), got, before, after)
				m.noJournal()
			}
		})
	}
}

func TestPowerCutAroundEveryWrite(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			before, after, _, writes := s.outcome(t)
			if writes < 2 {
				t.Fatalf("only %d writes: intent and commit are two", writes)
			}
			for cut := range writes + 1 {
				m, e := s.prepared(t)
				m.disk.cut = cut
				_, err := e.Do(t.Context(), s.change, engine.Options{})
				if cut < writes && err == nil {
					t.Errorf("reported as done although write %d of %d was lost", cut+1, writes)
				}
				m.fake.Restart()
				m.start(m.fake)
				got := m.end()
				allOrNothing(t, fmt.Sprintf("cut after write %d of %d", cut, writes), got, before, after)
				if cut == writes && got.is(after) != "" {
					t.Errorf("acknowledged and lost: %s", got.is(after))
				}
				m.noJournal()
			}
		})
	}
}

func TestFailureAtEveryEffectTakesAllBack(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			before, _, effects, _ := s.outcome(t)
			for n := 1; n <= effects; n++ {
				m, e := s.prepared(t)
				m.fake.FailAt(n)
				_, err := e.Do(t.Context(), s.change, engine.Options{})
				if !errors.Is(err, nettest.ErrInjected) {
					t.Fatalf("failure at effect %d of %d: got %v", n, effects, err)
				}
				if diff := m.end().is(before); diff != "" {
					t.Errorf("failure at effect %d of %d: %s", n, effects, diff)
				}
				m.noJournal()
			}
		})
	}
}

func TestLieAtEveryEffectIsFoundOut(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			before, after, effects, _ := s.outcome(t)
			for n := 1; n <= effects; n++ {
				m, e := s.prepared(t)
				m.fake.LieAt(n)
				_, err := e.Do(t.Context(), s.change, engine.Options{})
				got := m.end()
				switch {
				case err == nil && got.is(after) != "":
					t.Errorf("lie at effect %d of %d was believed: %s", n, effects, got.is(after))
				case err != nil && got.is(before) != "":
					t.Errorf("lie at effect %d of %d: %s (%v)", n, effects, got.is(before), err)
				}
			}
		})
	}
}

// twice does every step two times over.
type twice struct{ *nettest.Fake }

func (h twice) Apply(ctx context.Context, steps []plan.Step) error {
	for i := range steps {
		for range 2 {
			if err := h.Fake.Apply(ctx, steps[i:i+1]); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestEveryStepTwiceIsTheSameAsOnce(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			_, after, _, _ := s.outcome(t)
			m := newMachine(t)
			e := m.start(twice{m.fake})
			for _, c := range append(s.before, s.change) {
				done(t, e, c)
			}
			if diff := m.end().is(after); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEveryCommandAgainIsNothingToDo(t *testing.T) {
	for _, s := range scenarios {
		if _, creates := s.change.(engine.CreateNetwork); creates {
			continue // the name is taken by then
		}
		if _, removes := s.change.(engine.RemoveNetwork); removes {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			m, e := s.prepared(t)
			if _, err := e.Do(t.Context(), s.change, engine.Options{}); err != nil {
				t.Fatal(err)
			}
			effects := m.fake.Effects()
			res, err := e.Do(t.Context(), s.change, engine.Options{})
			if err != nil || len(res.Steps) > 0 || m.fake.Effects() != effects {
				t.Errorf("again: %d steps, %d effects, %v", len(res.Steps), m.fake.Effects()-effects, err)
			}
		})
	}
}

func TestDryRunTouchesNothingAndTellsTheTruth(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			m, e := s.prepared(t)
			before := m.end()
			dry, err := e.Do(t.Context(), s.change, engine.Options{DryRun: true})
			if err != nil {
				t.Fatal(err)
			}
			if diff := m.end().is(before); diff != "" {
				t.Errorf("the dry run changed something: %s", diff)
			}
			real, err := e.Do(t.Context(), s.change, engine.Options{})
			if err != nil || !reflect.DeepEqual(dry.Steps, real.Steps) {
				t.Errorf("the dry run showed %d steps, then %d were taken: %v", len(dry.Steps), len(real.Steps), err)
			}
		})
	}
}

// noJournal fails if a change is still under way.
func (m *machine) noJournal() {
	m.t.Helper()
	left, err := m.disk.Load()
	if err != nil || len(left) > 0 {
		m.t.Errorf("%d changes are left in the journal: %v", len(left), err)
	}
}
