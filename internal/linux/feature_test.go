package linux

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
)

// feature says whether a feature is seen, and that looking for it made no link.
func feature(t *testing.T, h *Host, name string) bool {
	t.Helper()
	seen, err := h.Observe(context.Background(), host.FeatureKey(name))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ip", "-br", "link").Output(); err != nil || strings.Count(string(out), "\n") != 1 {
		t.Errorf("%s: asking left something behind: %v\n%s", name, err, out)
	}
	return seen[host.FeatureKey(name)] != nil
}

// What the kernel is said to have is what other programs find that it has.
func TestFeatures(t *testing.T) {
	nettest.Need(t, nettest.Namespace, "ip", "conntrack", "sysctl")
	h := newHost(t)
	works := func(command string) bool { return exec.Command("sh", "-c", command).Run() == nil }
	for name, command := range map[string]string{
		host.Taps:             "ip tuntap add probe0 mode tap && ip link del probe0",
		host.Macvtaps:         "ip link add probe0 type veth peer name probe1 && { ip link add link probe0 name probe2 type macvtap; e=$?; ip link del probe0; exit $e; }",
		host.ConnectionLists:  "conntrack -S",
		host.ConnectionEvents: "nft add table inet probe && nft 'add chain inet probe c { type filter hook input priority 0; }' && nft add rule inet probe c ct state new && sysctl net.netfilter.nf_conntrack_events && nft delete table inet probe",
	} {
		if want, got := works(command), feature(t, h, name); got != want {
			t.Errorf("%s: the kernel has it: %v; %q works: %v", name, got, command, want)
		}
	}
}

// A kernel without macvtaps answers as it does for a kind of link that nobody has.
func TestFeaturesThatAreNotThere(t *testing.T) {
	nettest.Need(t, nettest.Namespace, nettest.Tun)
	h := newHost(t)
	if there, err := h.knowsKind("probing"); there || err != nil {
		t.Errorf("links of kind probing: %v, %v", there, err)
	}
	if err := unix.Mount("none", "/dev/net", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if feature(t, h, host.Taps) {
		t.Error("there are taps without /dev/net/tun")
	}
	if err := unix.Unmount("/dev/net", 0); err != nil {
		t.Fatal(err)
	}
	if !feature(t, h, host.Taps) {
		t.Error("there are no taps with /dev/net/tun")
	}
}
