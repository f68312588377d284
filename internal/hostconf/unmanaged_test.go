package hostconf

import (
	"context"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

func TestHandsOffIsToldAndTakenBack(t *testing.T) {
	tr := filesIn(t, nil)
	h := NewHandsOff("/run/drawbridge", func(note string) { t.Error(note) })
	h.tree = tr
	ctx := context.Background()
	taps, bridge := host.Unmanaged{Links: "vnet*"}, host.Unmanaged{Links: "virbr0"}
	seen := func(want ...host.Resource) {
		t.Helper()
		got, err := h.Observe(ctx)
		if err != nil || len(got) != len(want) {
			t.Fatalf("observed %v, %v; wanted %v", got, err, want)
		}
		for _, w := range want {
			if got[w.Key()] != w {
				t.Errorf("observed %v without %v", got, w)
			}
		}
	}
	apply := func(steps ...plan.Step) {
		t.Helper()
		for range 2 { // each step twice
			if err := h.Apply(ctx, steps); err != nil {
				t.Fatal(err)
			}
		}
	}
	seen()
	apply(plan.Step{After: taps}, plan.Step{After: bridge})
	seen(taps, bridge)
	if got, err := h.Observe(ctx, taps.Key()); err != nil || len(got) != 1 {
		t.Errorf("asked for one: %v, %v", got, err)
	}
	const networkd = "# Drawbridge: guests' ports and their bridges are managed by nobody else.\n[Match]\nName=virbr0 vnet*\n\n[Link]\nUnmanaged=yes\n"
	const nm = "# Drawbridge: guests' ports and their bridges are managed by nobody else.\n[device-drawbridge]\nmatch-device=interface-name:virbr0,interface-name:vnet*\nmanaged=0\n"
	if got := tr.text(networkdHandsOff) + "\n"; got != networkd {
		t.Errorf("networkd is told:\n%s", got)
	}
	if got := tr.text(nmHandsOff) + "\n"; got != nm {
		t.Errorf("NetworkManager is told:\n%s", got)
	}
	// What somebody takes away or edits is seen, and written again.
	if err := tr.remove(nmHandsOff); err != nil {
		t.Fatal(err)
	}
	seen()
	apply(plan.Step{After: taps})
	seen(taps, bridge)
	apply(plan.Step{Before: bridge})
	seen(taps)
	apply(plan.Step{Before: taps})
	seen()
	for _, f := range []string{networkdHandsOff, nmHandsOff, "/run/drawbridge/hostconf-unmanaged"} {
		if tr.exists(f) {
			t.Errorf("%s is left", f)
		}
	}
}

// Reading all files again can cost another link a moment, so it is done only where
// one of them may match.
func TestWhichBridgesNetworkdMayTake(t *testing.T) {
	for _, c := range []struct {
		match string
		may   bool
	}{
		{"Name=en*", false}, {"Name=en* br*", true}, {"Name=*", true}, {"Name=!en*", true}, {"Kind=veth", false}, {"Kind=bridge", true},
		{"Type=ether", true}, {"Type=wlan", false}, {"MACAddress=52:54:00:AA:BB:01", true}, {"MACAddress=52:54:00:aa:bb:02", false},
		{"PermanentMACAddress=52:54:00:aa:bb:01", false}, {"Driver=e1000e", false}, {"Path=pci-0000:02:00.0-*", false}, {"", true},
	} {
		tr := filesIn(t, map[string]string{"/etc/systemd/network/20-x.network": "[Match]\n" + c.match + "\n[Network]\nDHCP=yes\n"})
		if got := networkdMayTake(tr, "br0", "52:54:00:aa:bb:01"); got != c.may {
			t.Errorf("%q: %v", c.match, got)
		}
	}
}
