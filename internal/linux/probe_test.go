package linux

import (
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"testing"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/ruleset"
)

// A probe is seen by every rule that its packet meets, from outside and from the
// host itself, and nothing of what it needs is there afterwards.
func TestProbeShowsWhatRulesDo(t *testing.T) {
	newRouter(t)
	freshNFT(t)
	h, err := New(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	nftFile(t, `
table inet t {
  chain f {
    type filter hook forward priority 0; policy accept;
    tcp dport 81 drop
    tcp dport 80 accept
  }
  chain o { type filter hook output priority 0; policy accept; }
}
`)
	before := nftOutput(t, "list", "tables")
	links := func() (names []string) {
		list, err := os.ReadDir("/sys/class/net")
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range list {
			names = append(names, l.Name())
		}
		return names
	}
	were := links()
	addr := netip.MustParseAddr
	mac := "02:00:00:00:0a:00"
	for _, c := range []struct {
		name       string
		p          diagnose.Packet
		port, mac  string
		last       ruleset.VerdictKind
		byRule     bool
		lastChains string
	}{
		{"dropped", diagnose.NewConnection("a0", addr("10.1.0.2"), 6, addr("10.2.0.2"), 81), "a0", mac, ruleset.Drop, true, "f"},
		{"accepted", diagnose.NewConnection("a0", addr("10.1.0.2"), 6, addr("10.2.0.2"), 80), "a0", mac, ruleset.Accept, true, "f"},
		{"ping", diagnose.NewConnection("a0", addr("10.1.0.2"), 1, addr("10.2.0.2"), 0), "a0", mac, ruleset.Accept, false, "f"},
		{"udp of the host", diagnose.NewConnection("", addr("10.1.0.1"), 17, addr("10.2.0.2"), 53), "", "", ruleset.Accept, false, "o"},
		{"IPv6", diagnose.NewConnection("a0", addr("fd01::2"), 6, addr("fd02::2"), 81), "a0", mac, ruleset.Drop, true, "f"},
		{"ping of the host in IPv6", diagnose.NewConnection("", addr("fd01::1"), 58, addr("fd02::2"), 0), "", "", ruleset.Accept, false, "o"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.p.TargetPort != 0 {
				c.p.SourcePort = 40404
			}
			trace, err := h.Probe(t.Context(), c.p, c.port, c.mac)
			if err != nil {
				t.Fatal(err)
			}
			if len(trace) == 0 {
				t.Fatal("the packet was not seen")
			}
			last := trace[len(trace)-1]
			if last.Verdict != c.last || last.Chain != c.lastChains || (last.Handle != 0) != c.byRule || last.Target.IsValid() && last.Target != c.p.Target {
				t.Errorf("the trace ends with %+v", last)
			}
		})
	}
	if after := nftOutput(t, "list", "tables"); after != before {
		t.Errorf("tables were\n%s\nand are\n%s", before, after)
	}
	if now := links(); !slices.Equal(now, were) {
		t.Errorf("links were %v and are %v", were, now)
	}
}
