package linux

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/nettest"
)

// ethernet is a frame of a type, filled up to the least length.
func ethernet(kind uint16, body ...byte) []byte {
	f := append([]byte{255, 255, 255, 255, 255, 255, 0x52, 0x54, 0, 0, 0, 0x67}, binary.BigEndian.AppendUint16(nil, kind)...)
	f = append(f, body...)
	return append(f, make([]byte, max(0, 60-len(f)))...)
}

func icmp6(kind byte) []byte {
	return ethernet(unix.ETH_P_IPV6, slices.Concat([]byte{0x60, 0, 0, 0, 0, 24, unix.IPPROTO_ICMPV6, 255}, make([]byte, 32), []byte{kind}, make([]byte, 23))...)
}

// ipv4 is a packet of a protocol with options and ports.
func ipv4(protocol byte, fragment uint16, options int, from, to uint16) []byte {
	head := make([]byte, 20+4*options)
	head[0], head[9] = byte(0x45+options), protocol
	binary.BigEndian.PutUint16(head[6:], fragment)
	return ethernet(unix.ETH_P_IP, slices.Concat(head, binary.BigEndian.AppendUint16(nil, from), binary.BigEndian.AppendUint16(nil, to), make([]byte, 300))...)
}

// TestSnoopHearsWhatItShall: sent by the other end of a cable that is a port of a
// bridge, each kind of frame passes the filter or does not.
func TestSnoopHearsWhatItShall(t *testing.T) {
	nettest.Need(t, nettest.Namespace, "ip")
	t.Cleanup(func() { _ = exec.Command("sh", "-c", "ip link del tap0; ip link del br0").Run() })
	for _, args := range []string{"link add br0 type bridge", "link add tap0 type veth peer name guest0", "link set tap0 master br0 up", "link set guest0 up", "link set br0 up"} {
		if out, err := exec.Command("sh", "-c", "ip "+args).CombinedOutput(); err != nil {
			t.Fatal(string(out), err)
		}
	}
	f, err := OpenSnoop("tap0")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hears(t, f, sender(t, "guest0"), sender(t, "tap0"))
	if out, err := exec.Command("ip", "link", "del", "tap0").CombinedOutput(); err != nil {
		t.Fatal(string(out), err)
	}
	for err == nil {
		_, err = f.Read(make([]byte, 2048))
	}
	if !errors.Is(err, unix.ENETDOWN) {
		t.Errorf("the port is gone: %v", err)
	}
}

// TestSnoopHearsMacvtap: the same frames, written by a guest to its macvtap; what comes
// to it from the cable is not heard.
func TestSnoopHearsMacvtap(t *testing.T) {
	nettest.Need(t, nettest.Root, nettest.Namespace, "ip")
	h := newHost(t)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "nic0").Run() })
	for _, args := range []string{"link add nic0 type veth peer name eth0", "link set nic0 up", "link set eth0 up"} {
		if out, err := exec.Command("sh", "-c", "ip "+args).CombinedOutput(); err != nil {
			t.Fatal(string(out), err)
		}
	}
	files, err := h.OpenDirect("mt0", "nic0", "52:54:00:00:00:67", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(files)
	if out, err := exec.Command("ip", "link", "set", "mt0", "up").CombinedOutput(); err != nil {
		t.Fatal(string(out), err)
	}
	f, err := OpenSnoop("mt0")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const header = 10 // of virtio
	guest := func(frame []byte) error {
		_, err := files[0].Write(append(make([]byte, header), frame...))
		return err
	}
	hears(t, f, guest, sender(t, "eth0"))
}

// sender sends frames out at a link.
func sender(t *testing.T, link string) func([]byte) error {
	t.Helper()
	index, err := linkIndex(link)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return func(frame []byte) error {
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index})
	}
}

// hears has a guest send each kind of frame, and something come to it; each frame ends
// with its number, and an ARP that passes follows the last.
func hears(t *testing.T, f *os.File, guest, toGuest func([]byte) error) {
	t.Helper()
	frames := []struct {
		what  string
		frame []byte
		heard bool
	}{
		{"ARP", ethernet(unix.ETH_P_ARP), true},
		{"solicitation", icmp6(135), true},
		{"advertisement", icmp6(136), true},
		{"router solicitation", icmp6(133), false},
		{"echo", icmp6(128), false},
		{"IPv6 of another kind", ethernet(unix.ETH_P_IPV6, append([]byte{0x60, 0, 0, 0, 0, 24, 17, 255}, append(make([]byte, 32), 135)...)...), false},
		{"DHCP request", ipv4(17, 0, 0, 68, 67), true},
		{"DHCP request with options", ipv4(17, 0, 3, 68, 67), true},
		{"DHCP answer", ipv4(17, 0, 0, 67, 68), false},
		{"DNS", ipv4(17, 0, 0, 68, 53), false},
		{"TCP", ipv4(6, 0, 0, 68, 67), false},
		{"fragment", ipv4(17, 100, 0, 68, 67), false},
		{"LLDP", ethernet(0x88cc), false},
		{"the end", ethernet(unix.ETH_P_ARP), true},
	}
	if err := toGuest(ethernet(unix.ETH_P_ARP, 99)); err != nil {
		t.Fatal(err)
	}
	for i, c := range frames {
		c.frame[len(c.frame)-1] = byte(i + 1)
		if err := guest(c.frame); err != nil {
			t.Fatal(c.what, err)
		}
	}
	heard := map[int]bool{}
	b := make([]byte, 2048)
	if err := f.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for !heard[len(frames)] {
		n, err := f.Read(b)
		if err != nil {
			t.Fatal(heard, err)
		}
		if b[6] == 0x52 && b[11] == 0x67 { // the kernel talks too
			heard[int(b[n-1])] = true
		}
	}
	for i, c := range frames {
		if heard[i+1] != c.heard {
			t.Errorf("%s: heard %t", c.what, heard[i+1])
		}
	}
	if heard[0] {
		t.Error("what is sent to the guest is heard")
	}
}
