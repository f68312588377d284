package engine_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
	"drawbridge/internal/store"
)

// around is all that an engine looks at beside the host, to be changed by a test.
type around struct {
	fakeTaps
	users      map[string]engine.TapUser
	learned    map[string][]string
	neighbours []engine.Neighbour
	counters   map[string]engine.Counters
	leases     []engine.Lease
	leaseErr   error
	heard      []engine.Heard
	problems   []string
}

func (a *around) TapUsers(context.Context) (map[string]engine.TapUser, error) { return a.users, nil }
func (a *around) Learned(context.Context) (map[string][]string, error)        { return a.learned, nil }
func (a *around) Neighbours(context.Context) ([]engine.Neighbour, error)      { return a.neighbours, nil }
func (a *around) Counters(context.Context) (map[string]engine.Counters, error) {
	return a.counters, nil
}
func (a *around) Leases(context.Context) ([]engine.Lease, error) {
	return slices.Clone(a.leases), a.leaseErr
}
func (a *around) Heard(context.Context) ([]engine.Heard, error)        { return a.heard, nil }
func (a *around) Problems() []string                                   { return a.problems }
func (a *around) KeepLeases(context.Context, []spec.NetworkName) error { return nil }

// TestKeptViewsAreTrue changes one thing after the other that a view depends on. After
// each the view is that of an engine which keeps none.
func TestKeptViewsAreTrue(t *testing.T) {
	m := &machine{t: t, fake: nettest.NewFake(append(nic(), host.Sysctl{Path: "net/netfilter/nf_conntrack_acct", Value: "0"}, host.Sysctl{Path: "net/netfilter/nf_conntrack_events", Value: "1"})...), dir: t.TempDir(), boot: "boot-1"}
	s, err := store.Open(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ports, err := store.OpenPorts(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	now, resolved := time.Unix(1_800_000_000, 0), false
	a := &around{fakeTaps: fakeTaps{m: m}, counters: map[string]engine.Counters{"vnet0": {}, "vnet9": {}, "enp6s18": {}}}
	e := engine.New(engine.Config{
		Host: m.fake, Store: s, Ports: ports, Taps: a, Services: a, Log: slog.New(slog.DiscardHandler), Seed: "seed", BootID: m.boot, Guard: idleGuard{}, Flows: noFlows{},
		Boottime: func() int64 { return 1 }, Now: func() time.Time { return now }, Resolved: func(context.Context) bool { return resolved },
	})
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	view := func() engine.View {
		t.Helper()
		v, err := e.View(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	outside := func(before, after host.Resource) {
		t.Helper()
		if err := m.fake.Outside(plan.Step{Before: before, After: after}); err != nil {
			t.Fatal(err)
		}
	}
	link := func(name string) host.Link {
		l, _ := m.state()[host.LinkKey(name)].(host.Link)
		return l
	}
	var port engine.Port
	do := func(c engine.Command) func() { return func() { done(t, e, c) } }
	const mac, other = "52:54:00:00:00:09", "52:54:00:00:00:0a"
	door := spec.Forward{Proto: spec.TCP, First: 8080, Last: 8080, Target: "web", TargetPort: 80, Until: now.Unix() + 3}
	for _, c := range []struct {
		what   string
		change func()
		// counted: the change is one of those that two views may differ in and be the same.
		counted bool
	}{
		{what: "a network", change: do(network("default"))},
		{what: "a port", change: func() {
			p, err := e.AttachPort(t.Context(), engine.PortRequest{Network: "default", Guest: "web", MAC: mac, Made: "attach", Owner: -1})
			if err != nil {
				t.Fatal(err)
			}
			port = p
		}},
		{what: "a port of another program's", change: func() {
			outside(nil, host.Link{Name: "vnet9", Type: host.TypeTap, MAC: "fe:00:00:00:00:09", MTU: 1500, Up: true, Master: "virbr0"})
		}},
		{what: "bytes", counted: true, change: func() {
			a.counters = map[string]engine.Counters{port.Tap: {RxBytes: 1, TxBytes: 2, RxPackets: 3, TxPackets: 4}, "vnet9": {RxBytes: 5}, "enp6s18": {TxBytes: 6}}
		}},
		{what: "a carrier", change: func() {
			a.counters = map[string]engine.Counters{port.Tap: {RxBytes: 7, NoCarrier: true}, "vnet9": {RxBytes: 5}, "enp6s18": {TxBytes: 6}}
		}},
		{what: "who has a tap open", change: func() { a.users = map[string]engine.TapUser{port.Tap: {PID: 700, Process: "qemu-system-x86"}} }},
		{what: "another process", change: func() { a.users = map[string]engine.TapUser{port.Tap: {PID: 701, Process: "qemu-system-x86"}} }},
		{what: "who is behind a port", change: func() { a.learned = map[string][]string{"vnet9": {other}} }},
		{what: "an address that was seen", change: func() {
			a.neighbours = []engine.Neighbour{{Link: "virbr0", MAC: mac, Addr: netip.MustParseAddr("2001:db8::9")}}
		}},
		{what: "an address that was heard", change: func() {
			a.heard = []engine.Heard{{Tap: "vnet9", MAC: other, Addr: netip.MustParseAddr("192.168.122.40")}}
		}},
		{what: "a lease", change: func() {
			a.leases = []engine.Lease{{Network: "default", MAC: mac, Address: "192.168.122.9", Hostname: "web"}, {Network: "default", MAC: other, Address: "192.168.122.41", Hostname: "mail"}}
		}},
		{what: "a lease's name", change: func() { a.leases[1].Hostname = "post" }},
		{what: "a problem of services", change: func() { a.problems = []string{"port 53 is taken"} }},
		{what: "services that do not answer", change: func() { a.leaseErr = errors.New("gone") }},
		{what: "services that answer", change: func() { a.leaseErr = nil }},
		{what: "a lease that forwards follow", change: func() { e.LeaseChanged(t.Context(), a.leases[0], true) }},
		{what: "a forward", change: do(engine.AddForward{Network: "default", Forwards: []spec.Forward{door}})},
		{what: "a parameter", change: func() {
			outside(host.Sysctl{Path: "net/ipv4/ip_forward", Value: "1"}, host.Sysctl{Path: "net/ipv4/ip_forward", Value: "0"})
		}},
		{what: "a parameter that is back", change: func() {
			outside(host.Sysctl{Path: "net/ipv4/ip_forward", Value: "0"}, host.Sysctl{Path: "net/ipv4/ip_forward", Value: "1"})
		}},
		{what: "a tap that was pulled", change: func() { l := link(port.Tap); was := l; l.Master = ""; outside(was, l) }},
		{what: "drift that is repaired", change: func() { engine.RepairNow(t.Context(), e) }},
		{what: "the host's resolver", change: func() { resolved = true }},
		{what: "the end of a forward", change: func() { now = now.Add(4 * time.Second) }},
		{what: "a name of a port", change: func() { l := link("vnet9"); was := l; l.Alias = "other"; outside(was, l) }},
		{what: "a network that stops", change: func() {
			if _, err := e.Do(t.Context(), engine.StopNetwork{Name: "default"}, engine.Options{CutGuests: true}); err != nil {
				t.Fatal(err)
			}
		}},
		{what: "a network that is gone", change: do(engine.RemoveNetwork{Name: "default"})},
	} {
		before := view()
		if again := view(); again.Same != before.Same || again.Same == 0 {
			t.Errorf("before %s: nothing changed, and two views are %d and %d", c.what, before.Same, again.Same)
		}
		c.change()
		kept := view()
		if (kept.Same == before.Same) != c.counted {
			t.Errorf("%s: views are %d before and %d after", c.what, before.Same, kept.Same)
		}
		engine.Forget(e)
		anew := view()
		anew.Same = kept.Same
		if !reflect.DeepEqual(kept, anew) {
			t.Errorf("%s: a view shows\n%+v, and thought through anew\n%+v", c.what, kept, anew)
		}
	}
}
