package engine_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
)

// leaseFile stands for the guest services: it has leases of these networks.
type leaseFile struct {
	noLeases
	of   []spec.NetworkName
	down bool
}

func (f *leaseFile) KeepLeases(_ context.Context, networks []spec.NetworkName) error {
	if f.down {
		return errors.New("nobody answers")
	}
	f.of = slices.DeleteFunc(f.of, func(n spec.NetworkName) bool { return !slices.Contains(networks, n) })
	return nil
}

// A network's leases go when it is removed, not when it stops; later if guest
// services do not answer just then.
func TestLeasesGoWithTheirNetwork(t *testing.T) {
	m := newMachine(t)
	file := &leaseFile{of: []spec.NetworkName{"default", "lab", "old"}}
	m.services = file
	e := m.start(m.fake)
	has := func(what string, want ...spec.NetworkName) {
		t.Helper()
		if !slices.Equal(file.of, want) {
			t.Fatalf("%s: there are leases of %v, want %v", what, file.of, want)
		}
	}
	do := func(c engine.Command, o engine.Options) {
		t.Helper()
		if _, err := e.Do(t.Context(), c, o); err != nil {
			t.Fatal(err)
		}
	}
	has("with a document that was never written", "default", "lab", "old")
	do(network("default"), engine.Options{})
	do(network("lab"), engine.Options{})
	do(engine.StopNetwork{Name: "lab"}, engine.Options{})
	do(engine.RemoveNetwork{Name: "lab"}, engine.Options{DryRun: true})
	has("stopped, and removed in a dry run", "default", "lab", "old")
	do(engine.RemoveNetwork{Name: "lab"}, engine.Options{})
	has("removed", "default")

	file.of, file.down = []spec.NetworkName{"default", "lab"}, true
	do(network("lab"), engine.Options{})
	do(engine.RemoveNetwork{Name: "lab"}, engine.Options{})
	has("removed while nobody answers", "default", "lab")
	file.down = false
	// Its repair is told after the leases went.
	gate := host.Address{Link: "virbr0", Addr: netip.MustParsePrefix("192.168.122.1/24")}
	if err := m.fake.Outside(plan.Step{Before: m.state()[gate.Key()]}); err != nil {
		t.Fatal(err)
	}
	hints := make(chan engine.Hint, 1)
	hints <- engine.Hint{Object: "services"}
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan engine.Event, 64)
	defer e.Watch(func(ev engine.Event) { events <- ev })()
	done := make(chan struct{})
	go func() { e.Follow(ctx, hints); close(done) }()
	for ev := range events {
		if ev.Kind == engine.RepairEvent {
			break
		}
	}
	cancel()
	<-done
	has("when guest services answer again", "default")

	file.of = []spec.NetworkName{"default", "lab"}
	e = m.start(m.fake)
	has("after a crash between a removal and its leases", "default")
}
