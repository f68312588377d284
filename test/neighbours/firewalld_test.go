package neighbours

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/hostconf"
	"drawbridge/internal/nettest"
	"drawbridge/internal/txn"
)

// firewalldThatOwns is about a firewalld that lets nobody else into its table, as
// that of Fedora, RHEL 10 and Debian 13: an exception is a zone then. The files of
// the zone are those that are installed.
func firewalldThatOwns(t *testing.T) {
	w := newWorldOn(t, script(t, "../../scripts/firewalld-root"))
	w.prepare()
	// The bus is the host's.
	w.on("mkdir -p /run/dbus /run/nb/root/run/dbus && mount --bind /run/nb/root/run/dbus /run/dbus")
	w.beside("dbus-daemon --system --fork")
	w.begin(usual)
	stop := func() {}
	run := func() {
		stop = w.start("firewalld --nofork --nopid >/var/log/firewalld.log 2>&1")
		w.until("firewalld runs", func() error {
			_, err := w.host.Run(context.Background(), "chroot", "/run/nb/root", "firewall-cmd", "--state")
			return err
		})
	}
	// Without the zone doctor says what is missing.
	run()
	if rules := w.on("nft list table inet firewalld"); !strings.Contains(rules, "flags owner") {
		t.Fatalf("this firewalld does not own its table:\n%.300s", rules)
	}
	found := w.finding("guests-blocked")
	if found == nil || found.Fix.Command != "firewall-cmd --reload" {
		t.Errorf("without a zone: %+v", found)
	}
	files, err := filepath.Abs("../../packaging/firewalld")
	w.check(err)
	w.on(fmt.Sprintf("cd /run/nb/root/usr/lib/firewalld && cp %[1]s/zone.xml zones/drawbridge.xml && cp %[1]s/policy-out.xml policies/drawbridge-out.xml", files))
	// What firewalld itself permits shows what is its own: new connections wait for it
	// while it reloads.
	w.beside(fmt.Sprintf("firewall-cmd --permanent --add-port=%d/udp && firewall-cmd --reload", echoPort))
	w.permits = true
	w.event("firewalld was there", func() {})
	if out := w.beside("firewall-cmd --get-zone-of-interface=" + w.bridge); strings.TrimSpace(out) != "drawbridge" {
		t.Errorf("the bridge is in zone %s", out)
	}
	if out := w.beside("firewall-offline-cmd --zone drawbridge --list-interfaces"); strings.TrimSpace(out) != w.bridge {
		t.Errorf("firewalld would not know of the bridge when it starts, but of %q", out)
	}
	// The host's other ports stay shut to guests.
	if _, err := w.guest.Run(context.Background(), "sh", "-c", "echo | busybox nc -w1 "+w.gateway.String()+" 22"); err == nil || strings.Contains(err.Error(), "refused") {
		t.Errorf("a guest reaches other ports of the host: %v", err)
	}
	w.event("firewall-cmd --reload", func() { w.beside("firewall-cmd --reload") })
	w.event("firewalld --add-service", func() { w.beside("firewall-cmd --add-service=http") })
	w.event("firewalld stops", func() { stop() })
	w.event("firewalld starts", run)
	gone := func() {
		t.Helper()
		w.on(program + " network stop default --cut-guests")
		if out := w.beside("firewall-cmd --zone drawbridge --list-interfaces"); strings.TrimSpace(out) != "" {
			t.Errorf("the network is stopped, and in our zone is %s", out)
		}
		if out := w.beside("ls /etc/firewalld/zones"); strings.Contains(out, "drawbridge") {
			t.Errorf("the network is stopped, and firewalld has files of ours: %s", out)
		}
	}
	gone()
	stop()
	// Installed, it is reckoned with before it ever starts.
	w.on(fmt.Sprintf("%s network start default && ip link set tap1 master %[2]s && ip link set tap2 master %[2]s", program, w.bridge))
	w.runs()
	w.event("firewalld starts, as never before", run)
	gone()
	w.restart(func() { t.Run("contract", w.zones) })
	stop()
}

// zones has the contract of what puts bridges into zones checked on the host with its
// firewalld, by this program.
func (w *world) zones(t *testing.T) {
	cmd := w.host.Command(context.Background(), os.Args[0], "-test.v", "-test.run", "^TestZones$")
	cmd.Env = append(os.Environ(), zonesIn+"=/run/nb/root")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestZones/") {
		t.Errorf("%v\n%s", err, out)
	}
}

// zonesIn names the root of the firewalld on whose host this program runs.
const zonesIn = "DRAWBRIDGE_TEST_ZONES"

func TestZones(t *testing.T) {
	root := os.Getenv(zonesIn)
	if root == "" {
		t.Skip("for a host with firewalld: TestNeighbours runs it there")
	}
	nettest.ContractZones(t, func(t *testing.T) txn.Host {
		f := hostconf.NewFirewalld("", root, nil)
		t.Cleanup(func() { _ = f.Close() })
		return f
	}, func(t *testing.T, present host.State, absent []host.Key) {
		t.Helper()
		for _, ask := range []string{"firewall-cmd --zone drawbridge --list-interfaces", "firewall-offline-cmd --zone drawbridge --list-interfaces"} {
			out, err := exec.Command("chroot", append([]string{root}, strings.Fields(ask)...)...).Output()
			if err != nil {
				t.Fatalf("%s: %v", ask, err)
			}
			there := strings.Fields(string(out))
			for k := range present {
				if !slices.Contains(there, k.Name) {
					t.Errorf("%s: %v, without %s", ask, there, k.Name)
				}
			}
			for _, k := range absent {
				if slices.Contains(there, k.Name) {
					t.Errorf("%s: %v, with %s", ask, there, k.Name)
				}
			}
		}
	})
}
