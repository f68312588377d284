package dhcp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socketConn is the real Conn, on two sockets of one bridge.
type socketConn struct {
	udp, packet       *os.File
	udpRaw, packetRaw syscall.RawConn
	index             int
	mac               [6]byte
	gone, closed      atomic.Bool
	frame             [128]byte // ReceiveARP's
	later             func(io.Closer)
}

// NewConn makes a Conn of two open sockets of a bridge, and owns them from then
// on, also if it fails. Opening them needs privileges, using them none:
//
//   - udp: UDP, bound to the device, then to 0.0.0.0 port 67;
//   - packet: AF_PACKET, SOCK_RAW, bound to the interface for ARP.
//
// Both die with the bridge: one made anew needs sockets opened anew.
//
// Close gives the packet socket to later, which closes it at some time: that waits
// for a grace period of the kernel (packet_release, net/packet/af_packet.c; 10 ms
// measured), and nobody needs to wait for it, as it occupies no address.
func NewConn(udp, packet *os.File, later func(io.Closer)) (Conn, error) {
	c := &socketConn{later: later}
	var err error
	if c.udp, c.udpRaw, err = adopt(udp); err != nil {
		packet.Close()
		return nil, fmt.Errorf("take over UDP socket: %w", err)
	}
	if c.packet, c.packetRaw, err = adopt(packet); err != nil {
		c.udp.Close()
		return nil, fmt.Errorf("take over packet socket: %w", err)
	}
	if err := errors.Join(c.identify(), c.prepare()); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// receiveBuffer is in bytes; it holds the messages of some thousand clients that
// start together.
const (
	receiveBuffer = 4 << 20
	// defaultBuffer is net.core.rmem_default of most kernels; more than that was
	// chosen by the opener, who may set more than net.core.rmem_max.
	defaultBuffer = 212992
)

// prepare sets what needs no privileges: the filter, and as large a receive
// buffer as net.core.rmem_max allows, unless the opener gave a larger one.
func (c *socketConn) prepare() error {
	var fault error
	err := c.packetRaw.Control(func(fd uintptr) { fault = onlyARPReplies(int(fd)) })
	if err = errors.Join(err, fault); err != nil {
		return fmt.Errorf("filter packet socket: %w", err)
	}
	err = c.udpRaw.Control(func(fd uintptr) {
		var size int
		size, fault = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
		if fault == nil && size <= defaultBuffer {
			fault = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
		}
	})
	if err = errors.Join(err, fault); err != nil {
		return fmt.Errorf("size receive buffer: %w", err)
	}
	return nil
}

// adopt makes a file that the runtime can wait for, and closes the one given.
func adopt(f *os.File) (*os.File, syscall.RawConn, error) {
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	fd := -1
	var fail error
	if err := raw.Control(func(old uintptr) {
		if fd, fail = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0); fail == nil {
			fail = unix.SetNonblock(fd, true)
		}
	}); err != nil {
		return nil, nil, err
	}
	if fail != nil {
		return nil, nil, fail
	}
	own := os.NewFile(uintptr(fd), f.Name())
	ownRaw, err := own.SyscallConn()
	return own, ownRaw, err
}

// identify learns the interface from the packet socket.
func (c *socketConn) identify() error {
	var addr unix.Sockaddr
	var fail error
	if err := c.packetRaw.Control(func(fd uintptr) { addr, fail = unix.Getsockname(int(fd)) }); err != nil {
		return err
	}
	link, ok := addr.(*unix.SockaddrLinklayer)
	if fail != nil || !ok || link.Ifindex <= 0 || link.Halen != 6 {
		return fmt.Errorf("packet socket is not bound to an Ethernet interface: %w", errors.Join(fail, ErrGone))
	}
	c.index, c.mac = link.Ifindex, [6]byte(link.Addr[:6])
	return nil
}

// Close ends all calls. The port is free when it returns.
func (c *socketConn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	err := errors.Join(c.udp.Close(), c.packet.SetReadDeadline(time.Unix(1, 0)))
	c.later(c.packet)
	return err
}

// Receive reads datagrams until none is left or the room is full.
func (c *socketConn) Receive(room *Room) ([]Message, error) {
	for faults := 0; ; {
		var got []Message
		var fault error
		err := c.udpRaw.Read(func(fd uintptr) bool {
			into, n := room.Take(), 0
			if n, fault = readAllOf(int(fd), into); n > 0 {
				got = into[:n]
			} else {
				room.Give(into) // nothing is kept while waiting
			}
			return n > 0 || fault != nil
		})
		switch {
		case c.gone.Load():
			return nil, ErrGone
		case err != nil:
			return nil, fmt.Errorf("receive DHCP: %w", net.ErrClosed)
		case len(got) > 0:
			return got, nil
		}
		// Errors of a UDP socket are news about single packets or the link and
		// are cleared by being read; one that stays is none of these.
		if faults++; faults > 100 {
			return nil, fmt.Errorf("receive DHCP: %w", fault)
		}
	}
}

func readAllOf(fd int, into []Message) (n int, err error) {
	for n < len(into) {
		buf := into[n].Data[:cap(into[n].Data)]
		size, err := unix.Read(fd, buf)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return n, nil
		case err != nil:
			return n, err
		}
		into[n].Data = buf[:size]
		n++
	}
	return n, nil
}

// ReceiveARP reads ARP replies, and notices when the interface goes.
func (c *socketConn) ReceiveARP() (ARPReply, error) {
	for {
		size := 0
		var fault error
		err := c.packetRaw.Read(func(fd uintptr) bool {
			size, fault = unix.Read(int(fd), c.frame[:])
			return fault != unix.EAGAIN && fault != unix.EINTR
		})
		switch {
		case c.closed.Load(), err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return ARPReply{}, fmt.Errorf("receive ARP: %w", net.ErrClosed)
		case err != nil, fault != nil:
			if err := c.watchLink(); err != nil {
				return ARPReply{}, err
			}
			continue
		}
		if reply, ok := parseARPReply(c.frame[:max(size, 0)]); ok {
			return reply, nil
		}
	}
}

// watchLink finds out what the matter is after an error, which is ENETDOWN, once,
// when the link is set down, and also before it is deleted (af_packet.c,
// packet_notifier). While it is down, ReceiveARP looks again every second.
func (c *socketConn) watchLink() error {
	up, err := c.linkUp()
	if err != nil {
		c.gone.Store(true)
		return errors.Join(fmt.Errorf("receive ARP: %w", ErrGone), c.Close())
	}
	again := time.Time{}
	if !up {
		again = time.Now().Add(time.Second)
	}
	// Close may have set a deadline meanwhile, which this one replaced.
	if err := c.packet.SetReadDeadline(again); err != nil || c.closed.Load() {
		return fmt.Errorf("receive ARP: %w", net.ErrClosed)
	}
	return nil
}

// linkUp asks for IFF_UP; the error says that there is no such interface. An
// interface index is never used twice.
func (c *socketConn) linkUp() (up bool, err error) {
	fail := c.packetRaw.Control(func(fd uintptr) {
		var name string
		if name, err = interfaceName(int(fd), c.index); err != nil {
			return
		}
		var req *unix.Ifreq
		if req, err = unix.NewIfreq(name); err != nil {
			return
		}
		if err = unix.IoctlIfreq(int(fd), unix.SIOCGIFFLAGS, req); err == nil {
			up = req.Uint16()&unix.IFF_UP != 0
		}
	})
	if fail != nil {
		return false, nil // closed: the next read says so
	}
	return up, err
}

func interfaceName(fd, index int) (string, error) {
	req, err := unix.NewIfreq("x") // the kernel replaces the name
	if err != nil {
		return "", err
	}
	req.SetUint32(uint32(index))
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFNAME, req); err != nil {
		return "", err
	}
	return req.Name(), nil
}

// Send sends frames to clients and datagrams to relay agents.
func (c *socketConn) Send(replies []Reply) error {
	var first error
	for _, r := range replies {
		var err error
		if r.Relay {
			err = c.sendDatagram(r)
		} else {
			err = c.sendFrame(unix.ETH_P_IP, udpFrame(c.mac, r))
		}
		if err != nil && first == nil {
			first = fmt.Errorf("send to %s: %w", r.Dst, err)
		}
	}
	return first
}

// Probe sends an ARP probe.
func (c *socketConn) Probe(addr netip.Addr) error {
	if err := c.sendFrame(unix.ETH_P_ARP, arpProbe(c.mac, addr)); err != nil {
		return fmt.Errorf("probe %s: %w", addr, err)
	}
	return nil
}

func (c *socketConn) sendFrame(protocol uint16, frame []byte) error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	to := &unix.SockaddrLinklayer{Protocol: protocol<<8 | protocol>>8, Ifindex: c.index, Halen: 6}
	copy(to.Addr[:], frame[:6])
	var fault error
	err := c.packetRaw.Control(func(fd uintptr) { fault = unix.Sendto(int(fd), frame, unix.MSG_DONTWAIT, to) })
	return errors.Join(err, fault)
}

// sendDatagram lets the kernel find the relay agent, which is on the subnet.
func (c *socketConn) sendDatagram(r Reply) error {
	info := unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(c.index), Spec_dst: r.Src.As4()})
	to := &unix.SockaddrInet4{Port: serverPort, Addr: r.Dst.As4()}
	var fault error
	err := c.udpRaw.Control(func(fd uintptr) {
		fault = unix.Sendmsg(int(fd), r.Payload, info, to, unix.MSG_DONTWAIT)
	})
	return errors.Join(err, fault)
}

// onlyARPReplies keeps the requests of all the guests from waking the server.
func onlyARPReplies(fd int) error {
	const ret, loadHalf, jumpEqual = unix.BPF_RET | unix.BPF_K, unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	program := []unix.SockFilter{
		{Code: loadHalf, K: 12}, // EtherType
		{Code: jumpEqual, K: etherARP, Jf: 3},
		{Code: loadHalf, K: etherLen + 6}, // ARP operation
		{Code: jumpEqual, K: 2, Jf: 1},
		{Code: ret, K: etherLen + arpLen + 18}, // with Ethernet's padding
		{Code: ret, K: 0},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{
		Len: uint16(len(program)), Filter: &program[0],
	})
}
