package linux

import (
	"context"
	"net/netip"
	"os"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
	"drawbridge/internal/plan"
)

func TestLocalAddrs(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, "ip")
	br := aBridge("br-local")
	apply(t, h, create(br))
	defer apply(t, h, remove(br))
	ipText(t, "addr", "add", "192.0.2.66/24", "dev", br.Name)
	ipText(t, "addr", "add", "2001:db8::66/64", "dev", br.Name, "nodad")
	local, err := h.LocalAddrs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{"192.0.2.66": true, "2001:db8::66": true, "127.0.0.1": true, "::1": true, "192.0.2.67": false} {
		if local[netip.MustParseAddr(addr)] != want {
			t.Errorf("%s is local: %t; all: %v", addr, !want, local)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.LocalAddrs(ended); err == nil {
		t.Error("listed after the end")
	}
}

// TestBridgeFilterParameters reads and sets what makes bridged packets pass the
// routing hooks, which is there only while br_netfilter is loaded.
func TestBridgeFilterParameters(t *testing.T) {
	h := newHost(t)
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-nosuch"} {
		was := host.Sysctl{Path: "net/bridge/" + name}
		seen, err := h.Observe(t.Context(), was.Key())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat("/proc/sys/net/bridge/" + name); err != nil {
			if len(seen) != 0 {
				t.Errorf("%v is seen, and not there", seen)
			}
			continue
		}
		was = seen[was.Key()].(host.Sysctl)
		now := was
		now.Value = map[string]string{"0": "1", "1": "0"}[was.Value]
		apply(t, h, []plan.Step{{Before: was, After: now}})
		b, err := os.ReadFile("/proc/sys/net/bridge/" + name)
		if err != nil || string(b) != now.Value+"\n" {
			t.Errorf("%s was %s, is %q: %v", name, was.Value, b, err)
		}
		apply(t, h, []plan.Step{{Before: now, After: was}})
	}
}
