package linux

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"drawbridge/internal/nettest"
)

// listenOn opens a socket that waits on a port, with or without IPV6_V6ONLY.
func listenOn(t *testing.T, network, addr string, v6only int) {
	t.Helper()
	config := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		if network != "tcp6" && network != "udp6" {
			return nil
		}
		var err error
		control := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, v6only) })
		return errors.Join(err, control)
	}}
	var c interface{ Close() error }
	var err error
	if network[:3] == "tcp" {
		c, err = config.Listen(context.Background(), network, addr)
	} else {
		c, err = config.ListenPacket(context.Background(), network, addr)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
}

func TestListeners(t *testing.T) {
	nettest.Need(t, nettest.Namespace)
	any4, any6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	lo4, other4, lo6 := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::1")
	everything := []netip.Addr{any4, any6, lo4, other4, lo6}
	listenOn(t, "tcp4", "127.0.0.1:5001", 0)
	listenOn(t, "tcp4", "0.0.0.0:5002", 0)
	listenOn(t, "tcp6", "[::]:5003", 0)
	listenOn(t, "tcp6", "[::]:5004", 1)
	listenOn(t, "tcp6", "[::1]:5005", 0)
	listenOn(t, "udp4", "127.0.0.1:5001", 0)
	listenOn(t, "udp6", "[::]:5003", 0)
	listenOn(t, "udp6", "[::]:5004", 1)
	for _, c := range []struct {
		proto string
		port  uint16
		addr  netip.Addr
		only  bool
		hears []netip.Addr
	}{
		{"tcp", 5001, lo4, false, []netip.Addr{any4, lo4}},
		{"tcp", 5002, any4, false, []netip.Addr{any4, lo4, other4}},
		{"tcp", 5003, any6, false, everything},
		{"tcp", 5004, any6, true, []netip.Addr{any6, lo6}},
		{"tcp", 5005, lo6, true, []netip.Addr{any6, lo6}},
		{"udp", 5001, lo4, false, []netip.Addr{any4, lo4}},
		{"udp", 5003, any6, false, everything},
		{"udp", 5004, any6, true, []netip.Addr{any6, lo6}},
	} {
		list, err := Listeners(t.Context(), c.proto, c.port, c.port)
		if err != nil || len(list) != 1 {
			t.Errorf("%s %d: %+v, %v", c.proto, c.port, list, err)
			continue
		}
		l := list[0]
		if l.Proto != c.proto || l.Port != c.port || l.Addr != c.addr || l.V6Only != c.only || l.Process.PID != os.Getpid() || l.Process.Comm != "linux.test" {
			t.Errorf("%s %d: %+v", c.proto, c.port, l)
		}
		hears := map[netip.Addr]bool{}
		for _, a := range c.hears {
			hears[a] = true
		}
		for _, a := range everything {
			if l.Hears(a) != hears[a] {
				t.Errorf("%s %d hears %s: %t", c.proto, c.port, a, l.Hears(a))
			}
		}
	}
	for _, c := range []struct {
		proto       string
		first, last uint16
		want        int
	}{
		{"tcp", 1, 65535, 5}, {"udp", 1, 65535, 3}, {"", 5003, 5004, 4}, {"", 5001, 5001, 2}, {"sctp", 1, 65535, 0}, {"tcp", 5006, 6000, 0},
	} {
		if list, err := Listeners(t.Context(), c.proto, c.first, c.last); err != nil || len(list) != c.want {
			t.Errorf("%s %d-%d: %+v, %v", c.proto, c.first, c.last, list, err)
		}
	}
	// With a peer it does not wait for others.
	peer, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5006}, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5001})
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if list, err := Listeners(t.Context(), "udp", 5006, 5006); err != nil || len(list) != 0 {
		t.Errorf("with a peer: %+v, %v", list, err)
	}
}
