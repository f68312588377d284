package linux

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
	"drawbridge/internal/txn"
)

// TestVLANs plays the contract where bridges tell VLANs apart, which the kernels
// of build machines need not.
func TestVLANs(t *testing.T) {
	with := nettest.Inside{Modules: []string{"bridge", "8021q", "veth", "tun", "nf_tables"}, Programs: []string{"bridge", "nft"}}
	nettest.InGuest(t, with, func(t *testing.T) {
		t.Run("the module is loaded to ask", func(t *testing.T) {
			h := newHost(t)
			if there, err := h.knowsVLANs(); err != nil || !there {
				t.Errorf("%v, %v", there, err)
			}
			if out, err := exec.Command("ip", "-br", "link").Output(); err != nil || strings.Count(string(out), "\n") != 1 {
				t.Errorf("asking left something behind: %v\n%s", err, out)
			}
		})
		nettest.ContractVLANs(t, func(t *testing.T) txn.Host { return newHost(t) }, opinion)
		t.Run("VLAN interfaces say theirs", func(t *testing.T) {
			h := newHost(t)
			for _, args := range []string{"link add v0 type veth peer name v1", "link add link v0 name v0.30 type vlan id 30", "link del v0"} {
				if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
					t.Fatalf("%s: %v: %s", args, err, out)
				}
				seen, err := h.Observe(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				l, there := seen[host.LinkKey("v0.30")].(host.Link)
				if there && (l.Type != host.TypeVLAN || l.VID != 30 || l.Lower != "v0") || strings.Contains(args, "v0.30") != there {
					t.Errorf("after %s: %v %+v", args, there, l)
				}
			}
		})
	})
}

// Where bridges cannot tell VLANs apart that is what is said, and nothing is made.
func TestVLANsThatTheKernelLacks(t *testing.T) {
	h := newHost(t)
	there, err := h.knowsVLANs()
	if err != nil {
		t.Fatal(err)
	}
	if there {
		t.Skip("this kernel's bridges tell VLANs apart")
	}
	ctx := context.Background()
	seen, err := h.Observe(ctx, host.FeatureKey(host.BridgeVLANs))
	if err != nil || len(seen) != 0 {
		t.Errorf("%v, %v", seen, err)
	}
	if out, err := exec.Command("ip", "-br", "link").Output(); err != nil || strings.Contains(string(out), "bridge") {
		t.Errorf("asking left something behind: %v\n%s", err, out)
	}
}
