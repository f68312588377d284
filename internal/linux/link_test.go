package linux

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
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

// TestWithoutSpanningTreePortsDoNotWait: those that wait when it is turned off forward
// at once, although the kernel would let them wait on.
func TestWithoutSpanningTreePortsDoNotWait(t *testing.T) {
	h := newHost(t)
	br := aBridge("brstp")
	br.STP, br.ForwardDelay = true, 1500
	apply(t, h, create(br))
	ip := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	ip("ip", "link", "add", "p0", "type", "veth", "peer", "name", "p1")
	ip("ip", "link", "set", "p0", "master", br.Name, "up")
	ip("ip", "link", "set", "p1", "up")
	state := func() string { return ip("bridge", "-d", "link", "show", "dev", "p0") }
	for limit := time.Now().Add(10 * time.Second); !strings.Contains(state(), "state listening"); {
		if time.Now().After(limit) {
			t.Fatal("the port does not wait: ", state())
		}
	}
	quick := br
	quick.STP, quick.ForwardDelay = false, 0
	apply(t, h, []plan.Step{{Before: br, After: quick}})
	if got := state(); !strings.Contains(got, "state forwarding") {
		t.Errorf("the port waits on: %s", got)
	}
}
