package linux

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
)

// limit is how long a test waits for what must come.
const limit = 10 * time.Second

// network is a bridge with addresses of both families, a guest on it, and a
// machine on the other side of the host.
type network struct {
	guest, lan *nettest.Node
	v4, v6     netip.Addr
}

func newNetwork(t *testing.T, h *Host) network {
	t.Helper()
	nettest.Need(t, nettest.Root, "ip", "nsenter")
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	br := aBridge("virbr0")
	address4 := host.Address{Link: br.Name, Addr: netip.MustParsePrefix("192.168.122.1/24")}
	address6 := host.Address{Link: br.Name, Addr: netip.MustParsePrefix("fd00:122::1/64"), NoDAD: true}
	apply(t, h, create(br, address4, address6))
	t.Cleanup(func() { apply(t, h, remove(br)) })
	n := network{guest: newNode(t, "guest"), lan: newNode(t, "lan"), v4: address4.Addr.Addr(), v6: address6.Addr.Addr()}
	ipText(t, "link", "add", "vguest", "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(n.guest.PID()))
	ipText(t, "link", "set", "vguest", "master", br.Name, "up")
	ipText(t, "link", "add", "vlan", "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(n.lan.PID()))
	ipText(t, "addr", "add", "192.168.99.66/24", "dev", "vlan")
	ipText(t, "link", "set", "vlan", "up")
	t.Cleanup(func() { ipText(t, "link", "delete", "vguest"); ipText(t, "link", "delete", "vlan") })
	for node, lines := range map[*nettest.Node][]string{
		n.guest: {"link set eth0 up", "addr add 192.168.122.50/24 dev eth0", "addr add fd00:122::50/64 dev eth0 nodad"},
		n.lan:   {"link set eth0 up", "addr add 192.168.99.10/24 dev eth0", "route add 192.168.122.0/24 via 192.168.99.66"},
	} {
		if err := node.IP(ctx, lines...); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func newNode(t *testing.T, name string) *nettest.Node {
	t.Helper()
	node, err := nettest.NewNode(context.Background(), name, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.Close(); err != nil {
			t.Error(err)
		}
	})
	return node
}

// say sends text by UDP from a node, or from the host with nil, and returns the
// socket.
func say(t *testing.T, from *nettest.Node, to netip.AddrPort, text string) net.Conn {
	t.Helper()
	var c net.Conn
	do := func() (err error) {
		if c, err = net.Dial("udp", to.String()); err != nil {
			return err
		}
		_, err = c.Write([]byte(text))
		return err
	}
	err := error(nil)
	if from == nil {
		err = do()
	} else {
		err = from.Do(do)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func packetConn(t *testing.T, f *os.File) *net.UDPConn {
	t.Helper()
	c, err := net.FilePacketConn(f)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.UDPConn)
}

// TestDNSSocketsHearGuestsAndTheHost asks from the LAN first: if that were
// heard, it would be read before the others, which are. That the way from the
// LAN is open is seen on a socket without a filter.
func TestDNSSocketsHearGuestsAndTheHost(t *testing.T) {
	h := newHost(t)
	n := newNetwork(t, h)
	plain, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(n.v4, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if err := plain.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	say(t, n.lan, plain.LocalAddr().(*net.UDPAddr).AddrPort(), "lan")
	if _, _, err := plain.ReadFromUDPAddrPort(make([]byte, 8)); err != nil {
		t.Fatalf("the LAN does not reach the host: %v", err)
	}
	for _, addr := range []netip.Addr{n.v4, n.v6} {
		udp, tcp, err := OpenDNS("virbr0", addr)
		if err != nil {
			t.Fatal(err)
		}
		c := packetConn(t, udp)
		to := netip.AddrPortFrom(addr, portDNS)
		if addr.Is4() {
			say(t, n.lan, to, "lan")
		}
		b, oob := make([]byte, 64), make([]byte, 256)
		for want, node := range map[string]*nettest.Node{"guest": n.guest, "host": nil} {
			say(t, node, to, want)
			k, m, _, _, err := c.ReadMsgUDPAddrPort(b, oob)
			if err != nil {
				t.Fatalf("%s to %s: %v", want, addr, err)
			}
			if got := string(b[:k]); got != want {
				t.Errorf("heard %q, not %q, on %s", got, want, addr)
			}
			if m == 0 {
				t.Error("the packet does not say by which interface it came")
			}
		}
		listener, err := net.FileListener(tcp)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		tcp.Close()
		for from, node := range map[string]*nettest.Node{"guest": n.guest, "host": nil} {
			if err := dialTCP(node, to, limit); err != nil {
				t.Errorf("TCP from %s to %s: %v", from, to, err)
			}
		}
		if addr.Is4() {
			if err := dialTCP(n.lan, to, 300*time.Millisecond); err == nil {
				t.Error("TCP from the LAN was accepted")
			}
		}
	}
}

func dialTCP(from *nettest.Node, to netip.AddrPort, limit time.Duration) error {
	do := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		// Not net.Dialer: it may connect on another thread, in the wrong namespace.
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		deadline, _ := ctx.Deadline()
		tv := unix.NsecToTimeval(time.Until(deadline).Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
			return err
		}
		return unix.Connect(fd, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	}
	if from == nil {
		return do()
	}
	return from.Do(do)
}

func TestPortThatIsTaken(t *testing.T) {
	h := newHost(t)
	n := newNetwork(t, h)
	for _, proto := range []string{"udp", "tcp"} {
		taken := "0.0.0.0:53"
		var closer interface{ Close() error }
		var err error
		if proto == "udp" {
			closer, err = net.ListenPacket("udp4", taken)
		} else {
			closer, err = net.Listen("tcp4", taken)
		}
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = OpenDNS("virbr0", n.v4)
		var busy *InUseError
		if !errors.As(err, &busy) {
			t.Fatalf("%s port 53 is taken, the error is %v", proto, err)
		}
		if busy.Proto != proto || busy.Port != 53 || busy.Addr != n.v4 || busy.Process.PID != os.Getpid() || busy.Process.Comm != "linux.test" {
			t.Errorf("the port is ours, the error says %+v", busy)
		}
		if want := fmt.Sprintf("%s port 53 on 192.168.122.1 is taken by linux.test (pid %d)", proto, os.Getpid()); busy.Error() != want {
			t.Errorf("it reads %q, not %q", busy.Error(), want)
		}
		listeners, err := ListenersOn(53)
		if err != nil {
			t.Fatal(err)
		}
		if len(listeners) != 1 || listeners[0].Proto != proto || listeners[0].Addr != netip.IPv4Unspecified() {
			t.Errorf("listeners on 53: %+v", listeners)
		}
		closer.Close()
	}
	if _, _, err := OpenDNS("no-such-bridge", n.v4); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("on a missing bridge: %v", err)
	}
}

func TestDHCPSockets(t *testing.T) {
	h := newHost(t)
	n := newNetwork(t, h)
	udp, raw, err := OpenDHCP("virbr0")
	if err != nil {
		t.Fatal(err)
	}
	// A second network has a server of its own on the same port.
	second := aBridge("virbr1")
	apply(t, h, create(second))
	defer apply(t, h, remove(second))
	udp2, raw2, err := OpenDHCP("virbr1")
	if err != nil {
		t.Fatal(err)
	}
	closeAll([]*os.File{udp2, raw2})

	c := packetConn(t, udp)
	err = n.guest.Do(func() error {
		// As a client without an address does it.
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
			unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "eth0"))
		return errors.Join(err, unix.Sendto(fd, []byte("discover"), 0, &unix.SockaddrInet4{Port: 67, Addr: [4]byte{255, 255, 255, 255}}))
	})
	if err != nil {
		t.Fatal(err)
	}
	b, oob := make([]byte, 64), make([]byte, 256)
	k, m, _, _, err := c.ReadMsgUDPAddrPort(b, oob)
	if err != nil || string(b[:k]) != "discover" || m == 0 {
		t.Errorf("heard %q with %d bytes about it, %v", b[:k], m, err)
	}

	// An ARP question of the guest comes in by raw, and a frame goes out.
	rawConn, err := raw.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	say(t, n.guest, netip.AddrPortFrom(netip.MustParseAddr("192.168.122.77"), 9), "who has .77?")
	var kind uint16
	if err := rawConn.Read(func(fd uintptr) bool {
		k, _, err := unix.Recvfrom(int(fd), b, 0)
		if err == unix.EAGAIN {
			return false
		}
		if k >= 14 {
			kind = uint16(b[12])<<8 | uint16(b[13])
		}
		return true
	}); err != nil || kind != unix.ETH_P_ARP {
		t.Errorf("frame of type %#x, %v", kind, err)
	}
	before := guestReceived(t, n)
	frame := append([]byte("\xff\xff\xff\xff\xff\xff\x52\x54\x00\x00\x00\x01\x88\xb5"), make([]byte, 46)...)
	if _, err := raw.Write(frame); err != nil {
		t.Fatal(err)
	}
	if after := guestReceived(t, n); after <= before {
		t.Errorf("the frame did not reach the guest: %s packets before, %s after", before, after)
	}
	raw.Close()
}

func guestReceived(t *testing.T, n network) string {
	t.Helper()
	out, err := n.guest.Run(context.Background(), "cat", "/sys/class/net/eth0/statistics/rx_packets")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%12s", strings.TrimSpace(out))
}

func TestRouterSolicitationSocket(t *testing.T) {
	h := newHost(t)
	n := newNetwork(t, h)
	f, err := OpenRA("virbr0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.FilePacketConn(f)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	defer c.Close()
	ip := c.(*net.IPConn)
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	// An echo request first: it must not be heard.
	err = n.guest.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		index, err := linkIndex("eth0")
		if err != nil {
			return err
		}
		to := &unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::2").As16(), ZoneId: uint32(index)}
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255)
		return errors.Join(err,
			unix.Sendto(fd, []byte{128, 0, 0, 0, 0, 1, 0, 1}, 0, to),
			unix.Sendto(fd, []byte{133, 0, 0, 0, 0, 0, 0, 0}, 0, to))
	})
	if err != nil {
		t.Fatal(err)
	}
	b, oob := make([]byte, 64), make([]byte, 256)
	k, m, _, _, err := ip.ReadMsgIP(b, oob)
	if err != nil {
		t.Fatal(err)
	}
	if k < 1 || b[0] != 133 {
		t.Errorf("heard a message of type %d", b[0])
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:m])
	if err != nil {
		t.Fatal(err)
	}
	hops := -1
	for _, msg := range msgs {
		if msg.Header.Level == unix.IPPROTO_IPV6 && msg.Header.Type == unix.IPV6_HOPLIMIT {
			hops = int(msg.Data[0])
		}
	}
	if hops != 255 {
		t.Errorf("hop limit %d, not 255", hops)
	}
}
