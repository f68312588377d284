package engine_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
	"drawbridge/internal/store"
)

// newHost is an engine on a host whose kernel follows connections.
func newHost(t *testing.T) (e *engine.Engine, m *machine, a *around) {
	t.Helper()
	m = &machine{t: t, fake: nettest.NewFake(append(nic(), host.Sysctl{Path: "net/netfilter/nf_conntrack_acct", Value: "0"}, host.Sysctl{Path: "net/netfilter/nf_conntrack_events", Value: "1"})...), dir: t.TempDir(), boot: "boot-1"}
	s, err := store.Open(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	ports, err := store.OpenPorts(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	a = &around{fakeTaps: fakeTaps{m: m}}
	e = engine.New(engine.Config{
		Host: m.fake, Store: s, Ports: ports, Taps: a, Services: a, Log: slog.New(slog.DiscardHandler), Seed: "seed", BootID: m.boot, Guard: idleGuard{}, Flows: noFlows{},
		Boottime: func() int64 { return 1 }, Now: time.Now, Resolved: func(context.Context) bool { return false },
	})
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e, m, a
}

// TestAnotherSubnetStrandsGuests changes the subnet under guests. They are named before it
// happens, and afterwards nobody is told that an address of the old one leads anywhere.
func TestAnotherSubnetStrandsGuests(t *testing.T) {
	e, m, a := newHost(t)
	set := func(key, value string, o engine.Options) (engine.Result, error) {
		return e.Do(t.Context(), engine.SetNetwork{Name: "default", Settings: map[string]string{key: value}}, o)
	}
	lease := func(mac, addr string) {
		l := engine.Lease{Network: "default", MAC: mac, Address: addr, Expires: time.Now().Unix() + 3600}
		a.leases = append(slices.DeleteFunc(a.leases, func(l engine.Lease) bool { return l.MAC == mac }), l)
		e.LeaseChanged(t.Context(), l, true)
	}
	const web, static, away, idle = "52:54:00:00:00:09", "52:54:00:00:00:0a", "52:54:00:00:00:0b", "52:54:00:00:00:0c"
	done(t, e, network("default"))
	for guest, mac := range map[string]string{"web": web, "static": static} {
		if _, err := e.AttachPort(t.Context(), engine.PortRequest{Network: "default", Guest: guest, MAC: mac, Made: "attach", Owner: -1}); err != nil {
			t.Fatal(err)
		}
	}
	lease(web, "192.168.122.57")
	lease(away, "192.168.122.56") // is not plugged in
	done(t, e, engine.AddForward{Network: "default", Forwards: []spec.Forward{{Proto: spec.TCP, First: 8080, Last: 8080, Target: "web", TargetPort: 80}}})

	// A guest of libvirt's, which the switch has heard nothing of for long.
	if err := m.fake.Outside(plan.Step{After: host.Link{Name: "vnet9", Type: host.TypeTap, MAC: "fe:54:00:00:00:0c", MTU: 1500, Up: true, Master: "virbr0"}}); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"192.168.122.58", "192.168.122.59"} { // firmware and system have their own
		a.leases = append(a.leases, engine.Lease{Network: "default", MAC: idle, Address: addr, Hostname: "idle"})
	}
	e.LeaseChanged(t.Context(), a.leases[len(a.leases)-1], true)
	if v, err := e.View(t.Context()); err != nil || !slices.ContainsFunc(v.Ports, func(p engine.Port) bool {
		return p.Tap == "vnet9" && p.Guest == "idle" && p.MAC == idle && slices.Equal(p.Addresses, []string{"192.168.122.58", "192.168.122.59"})
	}) {
		t.Errorf("who is behind vnet9: %+v, %v", v.Ports, err)
	}

	if _, err := set("mtu", "1400", engine.Options{}); err != nil {
		t.Errorf("another MTU: %v", err)
	}
	res, err := e.Do(t.Context(), engine.Reserve{Name: "default", Reservation: spec.Reservation{MAC: web, Addr: netip.MustParseAddr("192.168.122.80")}}, engine.Options{DryRun: true})
	if want := web + " keeps 192.168.122.57 until it asks DHCP again: at once when it is started anew, else within 30m0s"; err != nil || !slices.Equal(res.Notes, []string{want}) {
		t.Errorf("another address for web: notes %q, %v", res.Notes, err)
	}
	for value, edits := range map[string]bool{"alice": true, "": false} {
		if res, err := set("allow-users", value, engine.Options{DryRun: true}); err != nil || res.Edits != edits || len(res.Steps) != 0 {
			t.Errorf("planned for users %q: %+v, %v", value, res, err)
		}
	}
	for _, subnet := range []string{"10.77.0.0/24", "192.168.122.254/24"} {
		_, err := set("subnet", subnet, engine.Options{})
		if cut, ok := errors.AsType[*engine.CutError](err); !ok || !slices.Equal(cut.Guests, []string{"idle", "web"}) {
			t.Errorf("subnet %s under web's lease: %v", subnet, err)
		}
	}
	a.neighbours = []engine.Neighbour{{Link: "virbr0", MAC: static, Addr: netip.MustParseAddr("192.168.122.200")}}
	dry, err := set("subnet", "10.77.0.0/24", engine.Options{DryRun: true})
	if err != nil || !slices.Equal(dry.Cuts, []string{"idle", "static", "web"}) || !slices.ContainsFunc(dry.Notes, func(n string) bool { return strings.Contains(n, "10.77.0.0/24 when they ask DHCP again") }) {
		t.Errorf("planned: %v, cuts %q, notes %q", err, dry.Cuts, dry.Notes)
	}

	if _, err := set("subnet", "10.77.0.0/24", engine.Options{CutGuests: true}); err != nil {
		t.Fatal(err)
	}
	leads := func() (netip.Addr, string) {
		t.Helper()
		list, err := e.Forwards(t.Context())
		if err != nil || len(list) != 1 {
			t.Fatalf("forwards: %+v, %v", list, err)
		}
		return list[0].Address, list[0].Waiting
	}
	if to, waiting := leads(); to.IsValid() || waiting == "" {
		t.Errorf("the forward leads to %s, waiting %q", to, waiting)
	}
	v, err := e.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if nv := v.Networks["default"]; nv.Leases != 0 || len(v.Leases) != 0 {
		t.Errorf("%d leases of a subnet that is no more: %+v", nv.Leases, v.Leases)
	}
	for _, p := range v.Ports {
		if len(p.Addresses) > 0 {
			t.Errorf("port of %s: %q", p.Guest, p.Addresses)
		}
	}
	// Both leases are in the file, and which one comes last there means nothing.
	now := engine.Lease{Network: "default", MAC: web, Address: "10.77.0.5", Expires: time.Now().Unix() + 60}
	before := engine.Lease{Network: "default", MAC: web, Address: "192.168.122.57", Expires: time.Now().Unix() + 3600}
	for _, list := range [][]engine.Lease{{now, before}, {before, now}} {
		a.leases = list
		if err := e.SyncLeases(t.Context()); err != nil {
			t.Fatal(err)
		}
		if to, waiting := leads(); to != netip.MustParseAddr("10.77.0.5") || waiting != "" {
			t.Errorf("after %+v the forward leads to %s, waiting %q", list, to, waiting)
		}
	}
	if to, waiting := leads(); to != netip.MustParseAddr("10.77.0.5") || waiting != "" {
		t.Errorf("the forward leads to %s, waiting %q", to, waiting)
	}
}
