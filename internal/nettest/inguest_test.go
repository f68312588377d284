package nettest

import (
	"context"
	"os"
	"strings"
	"testing"
)

// What needs InGuest has: another kernel, modules that load by themselves, nodes.
func TestInGuest(t *testing.T) {
	InGuest(t, Inside{Modules: []string{"bridge", "8021q", "veth"}, Programs: []string{"bridge"}, Env: []string{"WORD=two words"}}, func(t *testing.T) {
		release, err := os.ReadFile("/proc/sys/kernel/osrelease")
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("kernel %s", release)
		if os.Getenv("WORD") != "two words" {
			t.Errorf("WORD is %q", os.Getenv("WORD"))
		}
		ctx := context.Background()
		n, err := NewNode(ctx, "inner", "")
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		if err := n.IP(ctx, "link add br0 type bridge vlan_filtering 1", "link add v0 type veth peer name v1", "link set v0 master br0"); err != nil {
			t.Fatal(err)
		}
		if out, err := n.Run(ctx, "bridge", "-j", "vlan", "show", "dev", "v0"); err != nil || !strings.Contains(out, `"vlan":1`) {
			t.Errorf("bridge: %v: %s", err, out)
		}
	})
}

// A test that fails there, or that is not there, fails here.
func TestInGuestFails(t *testing.T) {
	if os.Getenv(guestEnv) != "" {
		InGuest(t, Inside{}, func(t *testing.T) { t.Error("as it shall") })
		return
	}
	Need(t, "qemu-system-x86_64", "busybox", "apt-get", "dpkg-deb", "depmod", "modprobe", "ldd")
	ctx := testContext(t, 2*bootLimit)
	guests := newTestGuests(t, ctx)
	for _, name := range []string{"TestInGuestFails", "TestNotThere"} {
		initrd := guests.dir + "/" + name
		if err := (Inside{}).build(ctx, guests.kernel, name, initrd); err != nil {
			t.Fatal(err)
		}
		if err := guests.runInside(ctx, t, initrd); err == nil {
			t.Errorf("%s passed", name)
		}
	}
}
