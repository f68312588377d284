package hosts

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMakeInstall installs from the source tree below /usr/local and takes all of
// it back.
func TestMakeInstall(t *testing.T) {
	need(t)
	h := newWhole(t)
	build := exec.Command("make", "-C", h.Src, "build", "BIN="+filepath.Join(h.Deb, "drawbridge"), "VERSION=1.0.0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	h.boot(t)
	before := h.files(t)
	// There is no Go on this host; the binary is there already.
	mk := func(args ...string) []string {
		return append([]string{"-C", "/src", "GO=true", "BIN=/deb/drawbridge", "VERSION=1.0.0"}, args...)
	}
	if out := h.run(t, "make", mk("install")...); !strings.Contains(out, "systemctl enable --now drawbridge") {
		t.Errorf("make install does not say how to start:\n%s", out)
	}
	for _, name := range []string{"bin/drawbridge", "lib/drawbridge/drawbridge-bridge-helper", "share/man/man8/drawbridge.8"} {
		h.run(t, "test", "-e", "/usr/local/"+name)
	}
	if out, err := h.Try("systemd-analyze", "verify", "drawbridge.service", "drawbridge-guests.service", "drawbridge-boot.service"); err != nil || out != "" {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	h.run(t, "systemctl", "enable", "--now", "drawbridge")
	h.wantDefault(t)
	h.run(t, "drawbridge", "status")
	h.run(t, "man", "-w", "drawbridge")

	h.run(t, "drawbridge", "port", "attach", "default", "--name", "webserver")
	// Installed over a running one, everything of the guest's stays.
	index, pid := h.run(t, "cat", "/sys/class/net/virbr0/ifindex", "/sys/class/net/vnet0/ifindex"), h.property(t, "drawbridge", "MainPID")
	h.run(t, "make", mk("install")...)
	within(t, 20*time.Second, func() error { return h.active("drawbridge") })
	if now := h.property(t, "drawbridge", "MainPID"); now == pid {
		t.Error("the daemon is still the one from before")
	}
	if now := h.run(t, "cat", "/sys/class/net/virbr0/ifindex", "/sys/class/net/vnet0/ifindex"); now != index {
		t.Errorf("bridge and tap were %q and are %q", index, now)
	}
	if out := h.run(t, "drawbridge", "port", "ls"); !strings.Contains(out, "webserver") {
		t.Errorf("the guest's port is gone:\n%s", out)
	}
	out, err := h.Try("make", mk("uninstall")...)
	if err == nil || !strings.Contains(out, "webserver") {
		t.Errorf("uninstall with a guest plugged in: %v:\n%s", err, out)
	}
	h.run(t, "drawbridge", "status")
	h.run(t, "make", mk("uninstall", "CUT_GUESTS=1", "PURGE=1")...)
	h.wantNothing(t)
	if out, err := h.Try("getent", "group", "drawbridge"); err == nil {
		t.Errorf("left: %s", out)
	}
	h.wantFiles(t, before)
	h.run(t, "make", mk("uninstall")...) // once more is no fault
}

// TestMakeInstallElsewhere stages an installation below DESTDIR, which touches
// nothing else and goes again.
func TestMakeInstallElsewhere(t *testing.T) {
	need(t)
	dir := t.TempDir()
	bin, stage := filepath.Join(dir, "drawbridge"), filepath.Join(dir, "stage")
	mk := func(target string) {
		t.Helper()
		cmd := exec.Command("make", "-C", tree(t), target, "BIN="+bin, "VERSION=1.0.0", "PREFIX=/opt/drawbridge", "DESTDIR="+stage)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("make %s: %v\n%s", target, err, out)
		}
	}
	mk("install")
	unit, err := os.ReadFile(filepath.Join(stage, "etc/systemd/system/drawbridge.service"))
	if err != nil || !strings.Contains(string(unit), "\nExecStart=/opt/drawbridge/bin/drawbridge daemon") {
		t.Errorf("the unit: %v\n%s", err, unit)
	}
	helper := filepath.Join(stage, "opt/drawbridge/lib/drawbridge/drawbridge-bridge-helper")
	if to, err := filepath.EvalSymlinks(helper); err != nil || to != filepath.Join(stage, "opt/drawbridge/bin/drawbridge") {
		t.Errorf("the bridge helper leads to %s: %v", to, err)
	}
	mk("uninstall")
	err = filepath.WalkDir(stage, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("left: %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
