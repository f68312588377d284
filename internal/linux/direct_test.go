package linux

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
	"drawbridge/internal/plan"
)

// A guest with a macvtap is a machine on the LAN: frames from another namespace
// reach its descriptor, and what it writes arrives there.
func TestDirect(t *testing.T) {
	nettest.Need(t, nettest.Root, nettest.Namespace, "ip", "nsenter")
	h := newHost(t)
	ctx := context.Background()
	lan, err := nettest.NewNode(ctx, "lan", "")
	if err != nil {
		t.Fatal(err)
	}
	defer lan.Close()
	if out, err := exec.Command("ip", "link", "add", "nic0", "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(lan.PID())).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("ip", "link", "del", "nic0").Run() })
	if err := lan.IP(ctx, "link set eth0 address 02:00:00:00:00:99 up"); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ip", "link", "set", "nic0", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	closed := make(chan string, 16)
	h.OnRelease(func(tap string) { closed <- tap })
	const mac = "52:54:00:00:00:01"
	files, err := h.OpenDirect("mt0", "nic0", mac, 2)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 2 {
		t.Fatalf("%d descriptors for 2 queues", len(files))
	}
	want := host.Link{Name: "mt0", Type: host.TypeMacvtap, MAC: mac, MTU: 1500, Up: true, Lower: "nic0", Alias: "guest"}
	if err := h.Apply(ctx, []plan.Step{{After: want}}); err != nil {
		t.Fatal(err)
	}
	seen, err := h.Observe(ctx, want.Key())
	if err != nil || seen[want.Key()] != host.Resource(want) {
		t.Errorf("want %+v\n see %+v, %v", want, seen[want.Key()], err)
	}
	if out, err := exec.Command("ip", "-d", "link", "show", "mt0").Output(); err != nil || !strings.Contains(string(out), "macvtap mode bridge") || !strings.Contains(string(out), "mt0@nic0") {
		t.Errorf("ip: %v: %s", err, out)
	}
	if _, err := h.OpenDirect("mt0", "nic0", mac, 1); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the same name again: %v", err)
	}
	if _, err := h.OpenDirect("mt1", "nic9", mac, 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a NIC that is not there: %v", err)
	}

	speak(t, lan, files, mac)

	users, err := h.DirectUsers(ctx, nil)
	if err != nil || users["mt0"].PID != os.Getpid() {
		t.Errorf("who holds it: %v, %v", users, err)
	}
	if free, err := h.Released(ctx, []string{"mt0"}); err != nil || len(free) != 0 {
		t.Errorf("released while it is open: %v, %v", free, err)
	}
	files[0].Close()
	<-closed
	if free, err := h.Released(ctx, []string{"mt0"}); err != nil || len(free) != 0 {
		t.Errorf("released while one queue is open: %v, %v", free, err)
	}
	// Another daemon that never opened it sees the same.
	other := newHost(t)
	if free, err := other.Released(ctx, []string{"mt0"}); err != nil || len(free) != 0 {
		t.Errorf("another daemon: %v, %v", free, err)
	}
	files[1].Close()
	select {
	case tap := <-closed:
		if tap != "mt0" {
			t.Errorf("%q was closed", tap)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("nobody tells that the last descriptor is closed")
	}
	for range 2 { // and again, until it is gone
		if free, err := h.Released(ctx, []string{"mt0"}); err != nil || len(free) != 1 {
			t.Errorf("released: %v, %v", free, err)
		}
	}
	if err := h.Apply(ctx, []plan.Step{{Before: want}}); err != nil {
		t.Error(err)
	}
	if out, err := exec.Command("ip", "link", "show", "mt0").CombinedOutput(); err == nil {
		t.Errorf("it is there: %s", out)
	}
	// A port of a bridge has its frames taken.
	if out, err := exec.Command("sh", "-c", "ip link add br9 type bridge && ip link set nic0 master br9").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer exec.Command("ip", "link", "del", "br9").Run()
	if _, err := h.OpenDirect("mt2", "nic0", mac, 1); err == nil || !strings.Contains(err.Error(), "takes the frames of nic0") {
		t.Errorf("on a port of a bridge: %v", err)
	}
}

// speak sends a frame each way between a node's eth0 and a macvtap, whose frames
// have a virtio header before them.
func speak(t *testing.T, lan *nettest.Node, taps []*os.File, mac string) {
	t.Helper()
	const header, kind = 10, 0x88b5 // IEEE 802 local experimental
	var fd int
	err := lan.Do(func() (err error) {
		protocol := htons(kind)
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(protocol))
		if err != nil {
			return err
		}
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: link.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	guest, _ := net.ParseMAC(mac)
	eth0, _ := net.ParseMAC("02:00:00:00:00:99")
	frame := func(to, from net.HardwareAddr, text string) []byte {
		return append(binary.BigEndian.AppendUint16(append(append([]byte{}, to...), from...), kind), text...)
	}
	if _, err := unix.Write(fd, frame(guest, eth0, "to the guest")); err != nil {
		t.Fatal(err)
	}
	if got := await(t, "to the guest", int(taps[0].Fd()), int(taps[1].Fd())); !bytes.Equal(got[header:header+6], guest) {
		t.Errorf("the guest got %x", got)
	}
	if _, err := unix.Write(int(taps[0].Fd()), append(make([]byte, header), frame(eth0, guest, "from the guest")...)); err != nil {
		t.Fatal(err)
	}
	if got := await(t, "from the guest", fd); !bytes.Equal(got[6:12], guest) {
		t.Errorf("the LAN got %x", got)
	}
}

// await reads until a frame of one of the descriptors has the text.
func await(t *testing.T, text string, fds ...int) []byte {
	t.Helper()
	buf := make([]byte, 65536)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		var ask []unix.PollFd
		for _, fd := range fds {
			ask = append(ask, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
		if _, err := unix.Poll(ask, 500); err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
		for _, p := range ask {
			if p.Revents&unix.POLLIN == 0 {
				continue
			}
			n, err := unix.Read(int(p.Fd), buf)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(buf[:n], []byte(text)) {
				return bytes.Clone(buf[:n])
			}
		}
	}
	t.Fatalf("%q did not arrive", text)
	return nil
}
