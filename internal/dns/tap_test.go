package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"drawbridge/internal/nettest"
)

// A guest's tap without offloads gets whole packets of one answer each, with
// right lengths and checksums, however the answers left the server.
func TestBatchesThroughATap(t *testing.T) {
	guestOnBridge(t) // for the bridge; the guest of this test is the tap's reader
	nettest.Need(t, nettest.Tun)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	req, err := unix.NewIfreq("tap7")
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		t.Fatal(err)
	}
	tap := os.NewFile(uintptr(fd), "tap7")
	defer tap.Close()
	const mac = "52:54:00:00:00:70"
	for _, line := range []string{
		"link set tap7 master virbr0 up", "neigh replace 192.168.122.70 lladdr " + mac + " dev virbr0 nud permanent",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
	// A worker of the kernel lets the port forward once it has noticed its carrier;
	// before, the bridge drops what comes in there.
	looks := time.NewTicker(time.Millisecond)
	defer looks.Stop()
	for limit := time.Now().Add(10 * time.Second); ; <-looks.C {
		state, err := os.ReadFile("/sys/class/net/tap7/brport/state")
		if err == nil && strings.TrimSpace(string(state)) == "3" { // BR_STATE_FORWARDING
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("the port does not forward: state %q, %v", state, err)
		}
	}
	link, err := net.InterfaceByName("virbr0")
	if err != nil {
		t.Fatal(err)
	}
	s := threeNetworks(t, Config{})
	listen, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(192, 168, 122, 1), Port: 53})
	if err != nil {
		t.Fatal(err)
	}
	const questions = 30
	from, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint16]bool{}
	ask := func() {
		for id := range uint16(questions) {
			if seen[id] {
				continue
			}
			p := pack(t, "web.default.internal.", mdns.TypeA, func(m *mdns.Msg) { m.Id = id })
			if _, err := tap.Write(frame(from, link.HardwareAddr, p)); err != nil {
				t.Fatal(err)
			}
		}
	}
	ask() // before anybody reads, so that they are read together
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.ServeUDP(ctx, "virbr0", listen) }()
	// A bridge passes nothing until it has noticed that its port is plugged in,
	// which may be late; then it is asked again, as a client does.
	end := time.Now().Add(30 * time.Second)
	_ = tap.SetReadDeadline(time.Now().Add(time.Second))
	for b := make([]byte, 65536); len(seen) < questions; {
		n, err := tap.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(end) {
			ask()
			_ = tap.SetReadDeadline(time.Now().Add(time.Second))
			continue
		}
		if err != nil {
			t.Fatalf("%d answers: %v", len(seen), err)
		}
		m, err := unframe(b[:n], from)
		if err != nil {
			t.Fatal(err)
		}
		if m == nil {
			continue // the kernel's own traffic
		}
		if text(m) != "NOERROR aa A=192.168.122.50" {
			t.Errorf("answer %d: %s", m.Id, text(m))
		}
		seen[m.Id] = true
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// frame wraps a question in UDP (without checksum, as IPv4 allows), IPv4 and Ethernet.
func frame(from, to net.HardwareAddr, p []byte) []byte {
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 122, 70, 192, 168, 122, 1}
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(p)))
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip))
	udp := []byte{0x9c, 0x40, 0, 53, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(p)))
	return bytes.Join([][]byte{to, from, {8, 0}, ip, udp, p}, nil)
}

// sum is the Internet checksum before it is inverted (RFC 1071).
func sum(parts ...[]byte) uint16 {
	var v uint32
	for _, b := range parts {
		for i := 0; i+1 < len(b); i += 2 {
			v += uint32(b[i])<<8 | uint32(b[i+1])
		}
		if len(b)%2 == 1 {
			v += uint32(b[len(b)-1]) << 8
		}
	}
	for v > 0xffff {
		v = v>>16 + v&0xffff
	}
	return uint16(v)
}

// unframe reads an answer out of a frame; nil for frames that hold none.
func unframe(b []byte, to net.HardwareAddr) (*mdns.Msg, error) {
	if len(b) < 42 || !bytes.Equal(b[:6], to) || b[12] != 8 || b[13] != 0 || b[23] != 17 {
		return nil, nil
	}
	ip := b[14:]
	udp := ip[20:]
	length := int(binary.BigEndian.Uint16(udp[4:]))
	if int(binary.BigEndian.Uint16(ip[2:])) != len(ip) || length != len(udp) {
		return nil, fmt.Errorf("lengths %x in a frame of %d", ip[:28], len(b))
	}
	if sum(ip[:20]) != 0xffff || sum(ip[12:20], []byte{0, 17}, udp[4:6], udp) != 0xffff {
		return nil, fmt.Errorf("wrong checksum in %x", ip)
	}
	m := new(mdns.Msg)
	return m, m.Unpack(udp[8:])
}
