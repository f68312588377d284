package hosts

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/hostconf"
)

// TestBridged tells an operator's story with the program as it is installed, by
// its units, on a host of every network manager: in on trial and taken back in
// each way, in for good, over a reboot, out again, over a reboot. No ping of a
// thousand a second may be lost in any of it, and afterwards every file is as it was.
func TestBridged(t *testing.T) {
	need(t)
	for _, c := range managerCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			testBridged(t, c)
		})
	}
}

// reloads is how a manager is made to read its files anew, in the boot in which they
// were changed. Nothing must come of it.
var reloads = map[string]string{
	hostconf.Networkd: "networkctl reload", hostconf.Netplan: "networkctl reload",
	hostconf.NetworkManager: "nmcli connection reload", hostconf.IfUpDown2: "ifreload -a",
	// systemd runs netplan, which writes NetworkManager's files anew.
	hostconf.NetplanNM: "systemctl daemon-reload; nmcli connection reload",
}

// pendingChange is what the client says of a change that waits.
type pendingChange struct{ ID, Phase, Problem string }

func testBridged(t *testing.T, c managerCase) {
	h := newBridged(t, c)
	before, files := h.network(t), h.configuration(t)
	asBefore := func(t *testing.T) {
		t.Helper()
		h.wantNetwork(t, before)
		h.wantConfiguration(t, files)
		within(t, 10*time.Second, h.says([]string{"nothing pending"}, "drawbridge", "change", "ls"))
	}
	chapter := func(name string, tell func(*testing.T)) {
		t.Helper()
		if !t.Run(name, tell) {
			t.FailNow()
		}
	}
	chapter("cancelled", func(t *testing.T) {
		var ch pendingChange
		h.lossless(t, c, "in", func() { ch = h.bridge(t, "1m") })
		h.wantBridge(t, c)
		h.lossless(t, c, "out", func() { h.run(t, "drawbridge", "change", "cancel", ch.ID) })
		asBefore(t)
	})
	chapter("nobody confirms", func(t *testing.T) {
		var ch pendingChange
		h.lossless(t, c, "in and out", func() {
			ch = h.bridge(t, "2s")
			within(t, 20*time.Second, h.says([]string{"nothing pending"}, "drawbridge", "change", "ls"))
		})
		asBefore(t)
		if out, err := h.Try("drawbridge", "change", "confirm", ch.ID); err == nil || !strings.Contains(out, "too late") {
			t.Errorf("confirmed all the same: %v\n%s", err, out)
		}
	})
	chapter("daemon and guard killed", func(t *testing.T) {
		ch := h.bridge(t, "1m")
		pid := h.property(t, "drawbridge", "MainPID")
		h.sh(t, "kill -9 "+pid+" "+h.guard(t, ch))
		within(t, 20*time.Second, func() error {
			if h.property(t, "drawbridge", "MainPID") == pid {
				return errors.New("the daemon is not restarted")
			}
			return h.active("drawbridge")
		})
		asBefore(t)
	})
	if !c.dhcp { // a matter of systemd's and ours
		chapter("daemon stopped", func(t *testing.T) { h.testStopped(t, c, before); asBefore(t) })
	}
	if c.name == "networkd-static" {
		chapter("daemon restarted, stopped, upgraded", func(t *testing.T) { h.testRestarts(t, c, asBefore) })
	}
	chapter("power cut", func(t *testing.T) {
		h.bridge(t, "1m")
		h.cut(t)
		h.start(t, c.address())
		asBefore(t)
	})
	chapter("in for good", func(t *testing.T) {
		h.lossless(t, c, "in", func() { h.run(t, "drawbridge", "change", "confirm", h.bridge(t, "1m").ID) })
		h.wantBridge(t, c)
		if reload := reloads[c.manager]; reload != "" {
			h.lossless(t, c, reload, func() { h.sh(t, reload) })
			h.wantBridge(t, c)
		}
		h.sh(t, c.again)
		h.reboot(t, c.address())
		h.wantBridge(t, c)
		h.sh(t, c.bridged)
		if c.files[seed] != "" {
			h.wantOrder(t, "drawbridge-boot", "cloud-init-local")
		}
		if out := h.run(t, "drawbridge", "network", "ls"); !strings.Contains(out, "lan") || !strings.Contains(out, managedBridge) {
			t.Errorf("after the reboot:\n%s", out)
		}
		// A bridge that the host's manager makes may come after the daemon.
		within(t, 10*time.Second, func() error {
			if problems := h.status(t).Problems; len(problems) > 0 {
				return fmt.Errorf("status has problems: %v", problems)
			}
			return nil
		})
		h.sh(t, "ip link add vnet7 type veth peer name vguest7; ip link set vnet7 master "+managedBridge+" up; ip link del vnet7")
	})
	chapter("out again", func(t *testing.T) {
		h.lossless(t, c, "out", func() {
			var ch pendingChange
			h.decode(t, &ch, "network", "rm", "lan", "--no-wait", "-o", "json")
			h.run(t, "drawbridge", "change", "confirm", ch.ID)
		})
		asBefore(t)
		h.sh(t, c.last)
		h.reboot(t, c.address())
		asBefore(t)
		h.sh(t, c.gone)
		if c.dhcp {
			h.wantOneLease(t)
		}
	})
	if c.edit != "" {
		chapter("edited since", func(t *testing.T) { h.testEdited(t, c, before, files) })
	}
}

// testStopped: systemd ends the daemon and all that is in its control group, and the guard goes on.
func (h *managed) testStopped(t *testing.T, c managerCase, before string) {
	ch := h.bridge(t, "6s")
	h.wantGuard(t, h.guard(t, ch))
	h.run(t, "systemctl", "stop", "drawbridge")
	h.wantBridge(t, c)
	within(t, 20*time.Second, h.says([]string{"nothing pending"}, "drawbridge", "change", "ls"))
	h.wantNetwork(t, before)
	within(t, 10*time.Second, func() error {
		if units := h.run(t, "systemctl", "list-units", "--all", "--plain", "--no-legend", "drawbridge-guard*"); strings.TrimSpace(units) != "" {
			return errors.New("systemd still has: " + units)
		}
		return nil
	})
	h.run(t, "systemctl", "start", "drawbridge")
}

// guard is the process that guards a change.
func (h *managed) guard(t *testing.T, ch pendingChange) string {
	t.Helper()
	return strings.TrimSpace(h.run(t, "cat", "/run/drawbridge/guard/"+ch.ID+".stands"))
}

// wantGuard looks at the guard as the kernel sees it: it may do no more than the
// daemon, and ends neither with it nor before it.
func (h *managed) wantGuard(t *testing.T, pid string) {
	t.Helper()
	daemon := h.property(t, "drawbridge", "MainPID")
	same := func(what string) {
		t.Helper()
		look := func(pid string) string { return h.sh(t, "cd /proc/"+pid+"; "+what) }
		if is, of := look(pid), look(daemon); is != of {
			t.Errorf("%s of the guard:\n%sof the daemon:\n%s", what, is, of)
		}
	}
	same("grep -E '^(Uid|Gid|Groups|Cap.*|NoNewPrivs|Seccomp|Seccomp_filters):' status")
	same("readlink ns/mnt ns/uts ns/net")
	if out := h.sh(t, "grep -E '^(NoNewPrivs|Seccomp):' /proc/"+pid+"/status"); out != "NoNewPrivs:\t1\nSeccomp:\t2\n" {
		t.Errorf("nothing confines the guard:\n%s", out)
	}
	// Where not even systemd may ask for it, it is so in a script for guests (guard.txtar).
	may, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if out := h.sh(t, "cat /proc/"+pid+"/oom_score_adj /proc/"+daemon+"/oom_score_adj"); may == 1 && out != "-900\n0\n" {
		t.Errorf("when memory is short, the guard and the daemon are killed in the order of:\n%s", out)
	}
	scope := "drawbridge-guard-[0-9a-f]*-" + pid + ".scope"
	if out := h.run(t, "systemctl", "show", "-p", "ActiveState", "-p", "DevicePolicy", "-p", "DeviceAllow", scope); out != "DevicePolicy=closed\nDeviceAllow=/dev/net/tun rw\nActiveState=active\n" {
		t.Errorf("the guard's scope:\n%s", out)
	}
	if in := h.sh(t, "cat /proc/"+pid+"/cgroup"); strings.Contains(in, "drawbridge.service") {
		t.Errorf("the guard is in the daemon's control group:\n%s", in)
	}
}

// testRestarts: what an operator does to the daemon while a change waits does not decide
// about the change.
func (h *managed) testRestarts(t *testing.T, c managerCase, asBefore func(*testing.T)) {
	ch := h.bridge(t, "5m")
	waits := func(after string) {
		t.Helper()
		within(t, 20*time.Second, h.says([]string{ch.ID, "waiting"}, "drawbridge", "change", "ls"))
		h.wantBridge(t, c)
		if _, err := h.Try("sh", "-c", "kill -0 $(cat /run/drawbridge/guard/"+ch.ID+".stands)"); err != nil {
			t.Errorf("after %s the guard is gone: %v", after, err)
		}
	}
	h.sh(t, "systemctl restart drawbridge")
	waits("a restart")
	h.sh(t, "systemctl stop drawbridge")
	waits("a stop") // the client reads it without the daemon
	h.sh(t, "systemctl start drawbridge")
	// As the package does after its files are new.
	h.sh(t, "systemctl daemon-reload; systemctl try-restart drawbridge-guests.service drawbridge.service")
	waits("an upgrade")
	if out, err := h.Try("drawbridge", "network", "create", "other"); err == nil || !strings.Contains(out, ch.ID+" is pending (waiting): confirm or cancel it first") {
		t.Errorf("another change meanwhile: %v\n%s", err, out)
	}
	h.run(t, "drawbridge", "change", "cancel", ch.ID)
	asBefore(t)
}

// testEdited: what somebody wrote into a manager's file while the bridge stood is
// his. It is said before and done afterwards.
func (h *managed) testEdited(t *testing.T, c managerCase, before string, files map[string]string) {
	h.run(t, "drawbridge", "change", "confirm", h.bridge(t, "1m").ID)
	h.sh(t, c.edit)
	if out := h.run(t, "drawbridge", "network", "rm", "lan", "--dry-run"); !strings.Contains(out, "was edited since") {
		t.Errorf("it is not said what becomes of the edit:\n%s", out)
	}
	h.lossless(t, c, "out", func() {
		var ch pendingChange
		h.decode(t, &ch, "network", "rm", "lan", "--no-wait", "-o", "json")
		h.run(t, "drawbridge", "change", "confirm", ch.ID)
	})
	h.wantNetwork(t, before)
	if out := h.run(t, "cat", c.edited[0]); !strings.Contains(out, c.edited[1]) {
		t.Errorf("%s has lost %q:\n%s", c.edited[0], c.edited[1], out)
	}
	if out := h.run(t, "journalctl", "-b", "-u", "drawbridge"); !strings.Contains(out, "was edited since") {
		t.Errorf("nothing was told:\n%s", out)
	}
	for name, is := range h.configuration(t) {
		switch {
		case name != c.edited[0]:
			if is != files[name] {
				t.Errorf("%s is %s, was %q", name, is, files[name])
			}
		case strings.Contains(h.run(t, "cat", name), managedBridge):
			t.Errorf("the bridge is still in %s", name)
		}
	}
	// The host's own manager still reads it so.
	h.reboot(t, c.address())
	h.wantNetwork(t, before)
}

// wantOrder says that at boot a unit had done its work before another began with its own:
// cloud-init must not write the files of a change that is still being finished.
func (h *managed) wantOrder(t *testing.T, first, then string) {
	t.Helper()
	at := func(unit, what string) (usec uint64) {
		usec, err := strconv.ParseUint(strings.TrimSpace(h.run(t, "systemctl", "show", "--value", "-p", what, unit)), 10, 64)
		if err != nil || usec == 0 {
			t.Errorf("%s of %s: %d, %v", what, unit, usec, err)
		}
		return usec
	}
	if done, began := at(first, "ExecMainExitTimestampMonotonic"), at(then, "ExecMainStartTimestampMonotonic"); done > began {
		t.Errorf("%s began %d µs before %s had ended", then, done-began, first)
	}
}

// wantOneLease asks the DHCP server: it has given this NIC one address in all that
// time, and never refused it. (An orderly shutdown may give it back; then it is
// given again.)
func (h *managed) wantOneLease(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(h.Dir, "leases"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(b), managedMAC+" 192.168.99.") != 1 || !strings.Contains(string(b), " "+managedMAC+" "+managedDHCP+" ") {
		t.Errorf("the DHCP server has given away:\n%s", b)
	}
	for _, kind := range []string{"DHCPNAK", "DHCPDECLINE"} {
		if n := h.served(t, kind); n > 0 {
			t.Errorf("the DHCP server has seen %d times %s", n, kind)
		}
	}
}

// newBridged installs the program on a host, boots it and starts the daemon.
func newBridged(t *testing.T, c managerCase) *managed {
	t.Helper()
	root := c.root
	if root == "" {
		root = "ifupdown"
	}
	h := newManaged(t, root, c.files, c.services...)
	for _, target := range []string{"build", "install"} {
		mk := exec.Command("make", "-C", h.Src, target, "VERSION=1.0.0", "BIN="+filepath.Join(h.Deb, "drawbridge"), "DESTDIR="+filepath.Join(h.Dir, "upper"))
		if out, err := mk.CombinedOutput(); err != nil {
			t.Fatalf("make %s: %v\n%s", target, err, out)
		}
	}
	h.before = c.before
	h.start(t, c.address())
	h.run(t, "systemd-sysusers")
	h.run(t, "systemctl", "enable", "--now", "drawbridge")
	return h
}

// bridge moves the NIC into a bridge on trial.
func (h *managed) bridge(t *testing.T, within string) (ch pendingChange) {
	t.Helper()
	h.decode(t, &ch, "network", "create", "lan", "--mode", "bridged", "--uplink", managedNIC, "--confirm-within", within, "--no-wait", "-o", "json")
	if ch.Phase != "waiting" {
		t.Fatalf("the change is %+v", ch)
	}
	return ch
}

// decode runs the client and decodes what it says.
func (h *managed) decode(t *testing.T, into any, args ...string) {
	t.Helper()
	out, err := h.Command("drawbridge", args...).Output()
	if err == nil {
		err = json.Unmarshal(out, into)
	}
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			out = append(out, exit.Stderr...)
		}
		t.Fatalf("drawbridge %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// TestRefused: what cannot be carried over is refused by name before anything is
// touched.
func TestRefused(t *testing.T) {
	need(t)
	for _, c := range []struct {
		managerCase
		why string
	}{
		{managerCase{
			name: "netplan with NetworkManager and anchors", services: []string{"NetworkManager"}, dhcp: true,
			files: map[string]string{"/etc/netplan/01-nm.yaml": "network:\n  version: 2\n  renderer: NetworkManager\n  ethernets:\n    enp6s18: {dhcp4: &yes true, dhcp6: *yes}\n"},
		}, "YAML anchors"},
		{managerCase{
			name: "networkd with a VLAN on it", services: []string{"systemd-networkd"},
			files: map[string]string{"/etc/systemd/network/20-lan.network": "[Match]\nName=enp6s18\n\n[Network]\nAddress=192.168.99.66/24\nVLAN=vlan5\n"},
		}, "VLAN=vlan5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newBridged(t, c.managerCase)
			before, files := h.network(t), h.configuration(t)
			out, err := h.Try("drawbridge", "network", "create", "lan", "--mode", "bridged", "--uplink", managedNIC, "--no-wait")
			if err == nil || !strings.Contains(out, c.why) || strings.Count(strings.TrimSpace(out), "\n") > 0 {
				t.Errorf("%v: %s", err, out)
			}
			h.wantNetwork(t, before)
			h.wantConfiguration(t, files)
		})
	}
}
