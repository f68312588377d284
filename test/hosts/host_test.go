package hosts

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/nettest"
	"drawbridge/internal/nettest/booted"
)

// The host's own address; nettest.HostA is not used here, its namespace would
// outlive a reboot.
const hostAddr = "192.168.99.67"

// need ends the test unless whole hosts are wanted and possible.
func need(t *testing.T) {
	t.Helper()
	if os.Getenv("DRAWBRIDGE_HOSTS") == "" {
		t.Skip("whole hosts are booted by: make test-hosts")
	}
	nettest.Need(t, nettest.Root, nettest.Tun, "debootstrap", "systemd-nspawn", "make", "dpkg-deb", "ip", "nsenter", "unshare", "busybox")
}

// tree is the project's folder.
func tree(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// whole is a host under systemd: a container with a root, a network namespace
// and processes of its own, in a LAN with a router.
type whole struct {
	*booted.Host
	lan *nettest.LAN

	node  *nettest.Node // this boot's network
	cable string        // the port of the LAN's switch that the host is plugged into
	boots int
}

// newHost prepares a host that is off, with a root that a script of the project's
// makes, on a LAN of its own.
func newHost(t *testing.T, script string, args ...string) *whole {
	t.Helper()
	src := tree(t)
	base, err := booted.Root(src, script, args...)
	if err != nil {
		t.Fatal(err)
	}
	// Not below /tmp, which may be a file system that an overlay cannot lie on.
	dir, err := os.MkdirTemp(filepath.Dir(base), "host-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &whole{}
	if h.Host, err = booted.New(src, base, dir); err != nil {
		t.Fatal(err)
	}
	if h.lan, err = nettest.NewLAN(t.Context(), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.lan.Close() })
	// The LAN's own host A has an address that this host may have too.
	if err := h.lan.Switch.IP(t.Context(), "link del p-host-a"); err != nil {
		t.Fatal(err)
	}
	return h
}

// newWhole prepares a host that is off.
func newWhole(t *testing.T) *whole {
	t.Helper()
	h := newHost(t, "scripts/host-root")
	t.Cleanup(func() {
		if t.Failed() && h.Running() {
			out, _ := h.Try("journalctl", "--no-pager", "-b", "-u", "drawbridge", "-u", "drawbridge-guests", "-u", "systemd-resolved", "-n", "80")
			t.Logf("journal:\n%s", out)
		}
		h.off(t)
	})
	h.write(t, "/etc/hostname", "host\n")
	// LLMNR waits seconds for a name of one word that nobody has.
	h.write(t, "/etc/systemd/resolved.conf.d/lan.conf", "[Resolve]\nLLMNR=no\nDNS="+nettest.Router4+"\n")
	return h
}

// write puts a file on a host that is off.
func (h *whole) write(t *testing.T, name, content string) {
	t.Helper()
	if err := h.Write(name, content); err != nil {
		t.Fatal(err)
	}
}

// plugIn gives the host a fresh network with a NIC.
func (h *whole) plugIn(t *testing.T, name, nic string) {
	t.Helper()
	ctx := context.Background()
	h.boots++
	var err error
	if h.node, err = nettest.NewNode(ctx, name, ""); err != nil {
		t.Fatal(err)
	}
	h.cable = fmt.Sprintf("p-host%d", h.boots)
	if err := h.lan.Switch.IP(ctx,
		fmt.Sprintf("link add %s type veth peer name %s netns %d", h.cable, nic, h.node.PID()),
		fmt.Sprintf("link set %s master lan0 up", h.cable)); err != nil {
		t.Fatal(err)
	}
}

// boot starts the host with a fresh network and waits until systemd says that
// all is up. It returns how long that took.
func (h *whole) boot(t *testing.T) time.Duration {
	t.Helper()
	h.plugIn(t, "whole-host", "eth0")
	if err := h.node.IP(t.Context(), "link set eth0 up", "addr add "+hostAddr+"/24 dev eth0", "route add default via "+nettest.Router4); err != nil {
		t.Fatal(err)
	}
	took, err := h.Boot(h.node)
	if err != nil {
		t.Fatal(err)
	}
	return took
}

// off shuts the host down in order; what it wrote is kept.
func (h *whole) off(t *testing.T) {
	t.Helper()
	running := h.Running()
	if err := h.Off(); err != nil {
		t.Error(err)
	}
	if running {
		h.unplug(t)
	}
}

// unplug takes a host that is off from the LAN. The kernel ends its network at its
// leisure: an old boot's NIC would go on to answer for a second beside the new
// one, with the same addresses, and the switch would not know whom to believe.
func (h *whole) unplug(t *testing.T) {
	t.Helper()
	if err := errors.Join(h.lan.Switch.IP(context.Background(), "link del "+h.cable), h.node.Close()); err != nil {
		t.Error(err)
	}
}

// cut takes the power away.
func (h *whole) cut(t *testing.T) {
	t.Helper()
	h.Cut()
	h.unplug(t)
}

// run is Try for what must succeed.
func (h *whole) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := h.Try(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// sh runs a shell script on the host.
func (h *whole) sh(t *testing.T, script string) string {
	t.Helper()
	return h.run(t, "sh", "-ec", script)
}

// property reads one property of a unit.
func (h *whole) property(t *testing.T, unit, name string) string {
	t.Helper()
	return strings.TrimSpace(h.run(t, "systemctl", "show", "--value", "-p", name, unit))
}

// within repeats a look until it finds no fault, and says how long that took.
func within(t *testing.T, limit time.Duration, look func() error) time.Duration {
	t.Helper()
	began := time.Now()
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	for {
		err := look()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			t.Fatalf("not within %s: %v", limit, err)
		}
		<-ticks.C
	}
}

// says is a look that wants a command's output to have all words.
func (h *whole) says(words []string, name string, args ...string) func() error {
	return func() error {
		out, err := h.Try(name, args...)
		if err != nil {
			return err
		}
		for _, w := range words {
			if !strings.Contains(out, w) {
				return fmt.Errorf("%s %s does not say %q:\n%s", name, strings.Join(args, " "), w, out)
			}
		}
		return nil
	}
}

// fails is a look that wants a command to fail.
func (h *whole) fails(name string, args ...string) func() error {
	return func() error {
		if out, err := h.Try(name, args...); err == nil {
			return errors.New(name + " " + strings.Join(args, " ") + " succeeds: " + out)
		}
		return nil
	}
}
