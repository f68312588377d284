package services

import (
	"maps"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// TestLookSeesWhatIsServed: what another daemon, such as the guard of a change, has the
// process serve is seen by the next look, and so is the end of a bridge.
func TestLookSeesWhatIsServed(t *testing.T) {
	open := &loopback{port: freePort(t), index: map[string]int{"br0": 7}}
	start := startProcess(t, open)
	a, b := start(), start()
	look := func(what string) *host.Sight {
		t.Helper()
		s, err := a.Look(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all, err := b.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(s.State, all) {
			t.Errorf("%s: a look shows %v, and is %v", what, s.State, all)
		}
		if again, err := a.Look(t.Context()); err != nil || again != s {
			t.Errorf("%s: nothing changed, and a second look is another one: %v", what, err)
		}
		return s
	}
	apply := func(steps ...plan.Step) {
		t.Helper()
		if err := b.Apply(t.Context(), steps); err != nil {
			t.Fatal(err)
		}
	}
	nothing := look("nothing")
	apply(plan.Step{After: zone(0)})
	if one := look("a zone"); one == nothing || len(one.State) != 1 {
		t.Errorf("a zone is not seen: %v", one.State)
	}
	guest := host.Guest{Bridge: "br0", MAC: "52:54:00:00:00:01", Name: "web"}
	apply(plan.Step{After: guest})
	if two := look("a guest"); two.State[guest.Key()] != host.Resource(guest) {
		t.Errorf("a guest's name is not seen: %v", two.State)
	}
	other := guest
	other.Name = "db"
	apply(plan.Step{Before: guest, After: other})
	if two := look("another name"); two.State[guest.Key()] != host.Resource(other) {
		t.Errorf("a guest's new name is not seen: %v", two.State)
	}
	open.index["br0"] = 8 // the bridge was made again, and the sockets are dead
	if dead := look("another bridge"); dead.State[zone(0).Key()] != nil {
		t.Errorf("a zone is seen whose bridge is gone: %v", dead.State)
	}
	apply(plan.Step{Before: other})
	look("no guest")
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	for range 1000 { // it says so before it ends
		s, err := a.Look(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(s.State) == 0 {
			return
		}
	}
	t.Error("a process that ended is said to serve something")
}
