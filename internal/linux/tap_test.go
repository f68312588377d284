package linux

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"drawbridge/internal/nettest"
)

// ipText is what ip says, as text.
func ipText(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func hasLink(name string) bool { return exec.Command("ip", "link", "show", name).Run() == nil }

func TestHostSpeaksNoIPv6OnATap(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, nettest.Tun, "ip")
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		t.Skip("this kernel has no IPv6")
	}
	files, err := h.OpenTap("tap-six", 1, -1, false)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(files)
	ipText(t, "link", "set", "tap-six", "up")
	if text := ipText(t, "-6", "addr", "show", "dev", "tap-six"); text != "" {
		t.Errorf("the tap has IPv6 addresses:\n%s", text)
	}
	if text := ipText(t, "-6", "route", "show", "table", "all", "dev", "tap-six"); text != "" {
		t.Errorf("the tap has IPv6 routes:\n%s", text)
	}
}

func TestTapGoesWithItsLastDescriptor(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, nettest.Tun, "ip")
	files, err := h.OpenTap("tap-one", 3, -1, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 3 {
		t.Errorf("%d descriptors for 3 queues", len(files))
	}
	text := ipText(t, "-d", "link", "show", "tap-one")
	for _, want := range []string{"vnet_hdr on", "multi_queue", "numqueues 3", "persist off"} {
		if !strings.Contains(text, want) {
			t.Errorf("the tap has not %q:\n%s", want, text)
		}
	}
	if _, err := h.OpenTap("tap-one", 1, -1, false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second tap of the same name: %v", err)
	}
	closeAll(files[:2])
	if !hasLink("tap-one") {
		t.Error("gone with one descriptor left")
	}
	closeAll(files[2:])
	if hasLink("tap-one") {
		t.Error("still there after its last descriptor")
	}
	if _, err := h.OpenTap("sixteen-letters-", 1, -1, false); err == nil {
		t.Error("a name of 16 letters was taken")
	}
	if _, err := h.OpenTap("lo", 1, -1, false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a tap named lo: %v", err)
	}
}

func TestPersistentTapOfAUser(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, nettest.Tun, "ip")
	files, err := h.OpenTap("tap-user", 1, 1234, true)
	if err != nil {
		t.Fatal(err)
	}
	closeAll(files)
	text := ipText(t, "-d", "link", "show", "tap-user")
	for _, want := range []string{"vnet_hdr on", "persist on", "user 1234"} {
		if !strings.Contains(text, want) {
			t.Errorf("the tap has not %q:\n%s", want, text)
		}
	}
	ipText(t, "link", "delete", "tap-user")
}

func TestTapUsers(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, nettest.Tun, nettest.Root)
	files, err := h.OpenTap("tap-qemu", 1, -1, false)
	if err != nil {
		t.Fatal(err)
	}
	mine, err := h.OpenTap("tap-mine", 1, -1, false)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(mine)
	both, err := h.OpenTap("tap-both", 1, -1, false) // as while it is handed over
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(both)
	files = append(files, both[0])
	// Something that waits under QEMU's name with the descriptor.
	qemu := exec.Command("/bin/sh")
	qemu.Args = []string{"qemu-system-x86_64", "-c", "echo ready; read x", "-name", "guest=ubuntu-cloud,debug-threads=on"}
	qemu.ExtraFiles = files
	in, err := qemu.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := qemu.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	closeAll(files[:1])
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	// One of the same name in another namespace, held by this very process.
	node, err := nettest.NewNode(context.Background(), "elsewhere", "")
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	err = node.Do(func() error {
		other, err := h.OpenTap("tap-other", 1, -1, false)
		t.Cleanup(func() { closeAll(other) })
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	users, err := h.TapUsers(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if p := users["tap-qemu"]; p.PID != qemu.Process.Pid || p.Guest != "ubuntu-cloud" {
		t.Errorf("the tap of pid %d is said to be of %+v", qemu.Process.Pid, p)
	}
	if p := users["tap-both"]; p.PID != qemu.Process.Pid {
		t.Errorf("the tap of pid %d and us is said to be of %+v", qemu.Process.Pid, p)
	}
	if !Descends(qemu.Process.Pid, os.Getpid()) || Descends(os.Getpid(), qemu.Process.Pid) || Descends(1, 1) || Descends(qemu.Process.Pid, qemu.Process.Pid) {
		t.Error("descent is wrong")
	}
	if p := users["tap-mine"]; p.PID != os.Getpid() || p.Comm != "linux.test" || p.Guest != "" {
		t.Errorf("our own tap is said to be of %+v", p)
	}
	if p, ok := users["tap-other"]; ok {
		t.Errorf("a tap of another namespace is listed, of %+v", p)
	}
	in.Close()
	_ = qemu.Wait() // `read` fails when its input ends
	if hasLink("tap-qemu") {
		t.Error("the tap outlived its holder")
	}
}

func TestGuestName(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"qemu-system-x86_64 -name ubuntu", "ubuntu"},
		{"/usr/bin/qemu-system-aarch64 -m 1G -name guest=a-b,debug-threads=on -S", "a-b"},
		{"qemu-kvm --name debug-threads=on,guest=x", "x"},
		{"/usr/bin/kvm -name one,,two,process=z", "one,two"},
		{"qemu-system-x86_64 -name guest=a,,b", "a,b"},
		{"qemu-system-x86_64 -name process=z", ""},
		{"qemu-system-x86_64 -m 1G", ""},
		{"qemu-system-x86_64 -name", ""},
		{"vim -name x", ""},
		{"/opt/qemu/tool -name x", ""},
		{"", ""},
	} {
		cmdline := bytes.ReplaceAll([]byte(c.args), []byte(" "), []byte{0})
		if got := guestName(append(cmdline, 0)); got != c.want {
			t.Errorf("guest of %q is %q, not %q", c.args, got, c.want)
		}
		guestName(cmdline) // cut short, as /proc may give it
	}
}

func TestLinkCounters(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, nettest.Tun, "ip")
	files, err := h.OpenTap("tap-count", 1, -1, false)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(files)
	ipText(t, "link", "set", "tap-count", "up")
	frame := make([]byte, 10+60) // an empty virtio header, then Ethernet
	copy(frame[10:], "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x88\xb5")
	for range 7 {
		if _, err := files[0].Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	var said []struct {
		Stats64 struct {
			Rx, Tx struct{ Bytes, Packets uint64 }
		}
	}
	output(t, &said, "ip", "-j", "-s", "link", "show", "tap-count")
	for _, names := range [][]string{nil, {"tap-count", "no-such-link"}} {
		counters, err := h.Counters(names...)
		if err != nil {
			t.Fatal(err)
		}
		got := counters["tap-count"]
		if got.RxPackets != 7 || got.RxBytes != 7*60 || got.RxBytes != said[0].Stats64.Rx.Bytes {
			t.Errorf("7 frames of 60 bytes are counted as %+v; ip says %+v", got, said)
		}
		if _, ok := counters["no-such-link"]; ok {
			t.Error("counters of a link that is not there")
		}
	}
}

func TestNoVhostIsNoError(t *testing.T) {
	files, err := OpenVhost(2)
	defer closeAll(files)
	if _, missing := os.Stat(vhostDevice); missing != nil {
		if files != nil || err != nil {
			t.Errorf("without %s: %v, %v", vhostDevice, files, err)
		}
	} else if err != nil || len(files) != 2 {
		t.Errorf("%d descriptors, %v", len(files), err)
	}
}

// TestNoTun hides /dev/net in the test's own mount namespace.
func TestNoTun(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, "/dev/net")
	if err := unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount("/dev/net", 0); err != nil {
			t.Error(err)
		}
	}()
	if _, err := h.OpenTap("tap-none", 1, -1, false); !errors.Is(err, ErrNoTun) {
		t.Errorf("without %s: %v", tunDevice, err)
	}
}
