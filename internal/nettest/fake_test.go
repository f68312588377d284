package nettest

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/txn"
)

func TestFakeContract(t *testing.T) {
	Contract(t, func(*testing.T) txn.Host { return NewFake() }, nil)
	t.Run("zones", func(t *testing.T) { ContractZones(t, func(*testing.T) txn.Host { return NewFake() }, nil) })
}

// theSteps have seven effects: a bridge and a tap are two each.
func theSteps() []plan.Step {
	return makes(theBridge, aTap("ctap0"), address4, table, set)
}

const theEffects = 7

func TestFakePowerCutAfterEveryEffect(t *testing.T) {
	ctx := context.Background()
	for n := range theEffects + 1 {
		f := NewFake()
		f.PowerCut(n)
		if err := f.Apply(ctx, theSteps()); !errors.Is(err, ErrPowerCut) {
			t.Errorf("after %d effects: %v", n, err)
		}
		if f.Effects() != n {
			t.Errorf("power was cut after %d effects, not %d", f.Effects(), n)
		}
		if _, err := f.Observe(ctx); !errors.Is(err, ErrPowerCut) {
			t.Errorf("the dead answer: %v", err)
		}
		if err := f.Apply(ctx, nil); !errors.Is(err, ErrPowerCut) {
			t.Errorf("the dead work: %v", err)
		}
		f.Restart()
		if err := f.Apply(ctx, theSteps()); err != nil {
			t.Errorf("after the restart: %v", err)
		}
		if f.Effects() != theEffects {
			t.Errorf("cut after %d: %d effects in all, want %d", n, f.Effects(), theEffects)
		}
	}
}

func TestFakeFailAndLieAtEveryEffect(t *testing.T) {
	ctx := context.Background()
	for n := 1; n <= theEffects; n++ {
		f := NewFake()
		f.FailAt(n)
		if err := f.Apply(ctx, theSteps()); !errors.Is(err, ErrInjected) {
			t.Errorf("failure at %d: %v", n, err)
		}
		if f.Effects() != n-1 {
			t.Errorf("failure at %d: %d effects", n, f.Effects())
		}
		if err := f.Apply(ctx, theSteps()); err != nil || f.Effects() != theEffects {
			t.Errorf("a failure happens once: %v, %d effects", err, f.Effects())
		}
	}
	for n := 1; n <= theEffects; n++ {
		f := NewFake()
		f.LieAt(n)
		err := f.Apply(ctx, theSteps())
		seen, lookErr := f.Observe(ctx, host.NewState(theBridge, aTap("ctap0"), address4, table, set).Keys()...)
		if lookErr != nil {
			t.Fatal(lookErr)
		}
		// A lie either is found out by a later step or leaves something missing.
		if whole := host.NewState(theBridge, aTap("ctap0"), address4, table, set); err == nil && maps.Equal(seen, whole) {
			t.Errorf("the lie at %d had no consequence", n)
		}
	}
}

func TestFakeStepsTwiceHaveNoEffect(t *testing.T) {
	f := NewFake()
	for range 2 {
		if err := f.Apply(context.Background(), theSteps()); err != nil {
			t.Fatal(err)
		}
		if f.Effects() != theEffects {
			t.Errorf("%d effects, want %d", f.Effects(), theEffects)
		}
	}
}

func TestFakeOutsideAndReboot(t *testing.T) {
	ctx := context.Background()
	nic := host.Link{Name: "enp6s18", MAC: "52:54:00:aa:aa:aa", MTU: 1500, Up: true}
	lease := host.Address{Link: nic.Name, Addr: netip.MustParsePrefix("192.168.99.66/24"), Dynamic: true}
	f := NewFake(nic, lease)
	seen, err := f.Observe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []host.Resource{nic, lease, subnetRoute(lease), localRoute(lease)} {
		if seen[want.Key()] != want {
			t.Errorf("a host with %+v shows %+v", want, seen[want.Key()])
		}
	}
	if err := f.Apply(ctx, theSteps()); err != nil {
		t.Fatal(err)
	}
	f.PowerCut(1)
	if err := f.Outside(drops(table)...); err != nil {
		t.Fatal(err)
	}
	if f.Effects() != theEffects {
		t.Error("what others do is counted")
	}
	if seen, err = f.Observe(ctx, table.Key(), set.Key()); err != nil || len(seen) != 0 {
		t.Errorf("others deleted the table, see %v, %v", seen, err)
	}
	f.Reboot(nic)
	if seen, err = f.Observe(ctx, theBridge.Key(), nic.Key(), lease.Key()); err != nil || len(seen) != 1 {
		t.Errorf("after a reboot there is only the NIC, see %v, %v", seen, err)
	}
}

func TestFakeGuestServicesDieWithWhatTheyServe(t *testing.T) {
	ctx := context.Background()
	pool := host.Pool{Bridge: theBridge.Name, Server: address4.Addr}
	zone := host.Zone{Bridge: theBridge.Name, Addr4: address4.Addr}
	resolver := host.Resolver{Link: theBridge.Name}
	f := NewFake()
	if err := f.Apply(ctx, makes(theBridge, pool)); err == nil {
		t.Error("a pool without the server's address")
	}
	if err := f.Apply(ctx, makes(address4, pool, zone, resolver)); err != nil {
		t.Fatal(err)
	}
	if err := f.Apply(ctx, drops(theBridge)); err != nil {
		t.Fatal(err)
	}
	if seen, err := f.Observe(ctx, pool.Key(), zone.Key(), resolver.Key()); err != nil || len(seen) != 0 {
		t.Errorf("left without a bridge: %v, %v", seen, err)
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"br0 . 10.0.0.0/8", "br0 . 10.1.0.0/16", true},
		{"br0 . 10.1.0.0/16", "br0 . 10.0.0.0/8", true},
		{"br0 . 10.0.0.0/8", "br1 . 10.1.0.0/16", false},
		{"10.0.0.0/9", "10.128.0.0/9", false},
		{"10.0.0.5-10.0.0.9", "10.0.0.9", true},
		{"10.0.0.5-10.0.0.9", "10.0.0.10", false},
		{"fd00::/64", "fd00:0:0:1::/64", false},
		{"fd00::/48", "fd00:0:0:1::/64", true},
	} {
		if got := overlap(c.a, c.b); got != c.want {
			t.Errorf("overlap(%q, %q) is %t", c.a, c.b, got)
		}
	}
}

func TestFakeVLANs(t *testing.T) {
	ContractVLANs(t, func(*testing.T) txn.Host { return NewFake() }, nil)
}
