package linux

import (
	"context"
	"fmt"
	"testing"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
	"drawbridge/internal/plan"
)

// create and remove write the two commonest steps.
func create(rs ...host.Resource) []plan.Step {
	var steps []plan.Step
	for _, r := range rs {
		steps = append(steps, plan.Step{After: r})
	}
	return steps
}

func remove(rs ...host.Resource) []plan.Step {
	var steps []plan.Step
	for _, r := range rs {
		steps = append(steps, plan.Step{Before: r})
	}
	return steps
}

func apply(t testing.TB, h *Host, steps []plan.Step) {
	t.Helper()
	if err := h.Apply(context.Background(), steps); err != nil {
		t.Fatal(err)
	}
}

func aBridge(name string) host.Link {
	return host.Link{Name: name, Type: host.TypeBridge, MAC: "52:54:00:00:00:01", MTU: 1500, Up: true, Alias: "network " + name}
}

func aTap(i int, bridge string) host.Link {
	return host.Link{
		Name: fmt.Sprintf("vnet%d", i), Type: host.TypeTap, MAC: fmt.Sprintf("fe:54:00:00:%02x:%02x", i>>8, i&255),
		MTU: 1500, Up: true, Master: bridge, Isolated: true,
	}
}

// TestThousandTaps holds the promise that a guest's NIC is plugged in in well
// under a millisecond and that a thousand go together in under a second.
func TestThousandTaps(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, nettest.Tun)
	br := aBridge("br1000")
	apply(t, h, create(br))
	taps := make([]host.Resource, 1000)
	for i := range taps {
		taps[i] = aTap(i, br.Name)
	}
	foreign := host.Link{Name: "foreign0", Type: host.TypeTap, MAC: "fe:00:00:00:00:01", MTU: 1500}
	apply(t, h, create(foreign))
	start := time.Now()
	apply(t, h, create(taps...))
	made := time.Since(start)
	seen, err := h.Observe(context.Background(), taps[17].Key(), taps[999].Key())
	if err != nil {
		t.Fatal(err)
	}
	if seen[taps[17].Key()] != taps[17] || seen[taps[999].Key()] != taps[999] {
		t.Errorf("made %v and %v, see %v", taps[17], taps[999], seen)
	}
	start = time.Now()
	apply(t, h, remove(taps...))
	gone := time.Since(start)
	t.Logf("1000 taps: plugged in %v, deleted in %v", made, gone)
	if gone > 5*time.Second {
		t.Errorf("deleting 1000 taps took %v: they were not deleted together", gone)
	}
	if seen, err = h.Observe(context.Background(), br.Key(), foreign.Key(), taps[0].Key(), taps[999].Key()); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 2 {
		t.Errorf("bridge and the foreign tap should be left, see %v", seen)
	}
	apply(t, h, remove(br, foreign))
}
