package ra

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socketConn is the real Conn.
type socketConn struct {
	file  *os.File
	raw   syscall.RawConn
	index int
	gone  atomic.Bool
	data  [1500]byte
	oob   [256]byte
}

// NewConn makes a Conn of an open socket, and owns the socket from then on, also
// if it fails. The socket is a raw ICMPv6 one, bound to a device, in the group of
// all routers (ff02::2), sends with hop limit 255, and receives hop limits
// (IPV6_RECVHOPLIMIT); opening it needs privileges, using it none.
func NewConn(f *os.File) (Conn, error) {
	defer f.Close()
	given, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("take over ICMPv6 socket: %w", err)
	}
	fd, index := -1, 0
	var fault error
	err = given.Control(func(old uintptr) {
		if index, fault = boundDevice(int(old)); fault != nil {
			return
		}
		if fd, fault = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0); fault == nil {
			fault = unix.SetNonblock(fd, true)
		}
	})
	if err = errors.Join(err, fault); err != nil {
		return nil, fmt.Errorf("take over ICMPv6 socket: %w", err)
	}
	c := &socketConn{file: os.NewFile(uintptr(fd), f.Name()), index: index}
	if c.raw, err = c.file.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("take over ICMPv6 socket: %w", err), c.file.Close())
	}
	return c, nil
}

// boundDevice is the index of the interface that a socket is bound to.
func boundDevice(fd int) (int, error) {
	index, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	if err == nil && index <= 0 {
		err = errors.New("it is bound to no device")
	}
	return index, err
}

// Close ends all calls.
func (c *socketConn) Close() error {
	if err := c.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close ICMPv6 socket: %w", err)
	}
	return nil
}

// checkEvery is how often Receive looks whether the interface is still there: a
// raw socket hears nothing of its end.
const checkEvery = 30 * time.Second

// Receive waits for the next message.
func (c *socketConn) Receive() (Packet, error) {
	for faults := 0; faults < 100; {
		// The error means that the socket is closed, which the read tells again.
		_ = c.file.SetReadDeadline(time.Now().Add(checkEvery))
		var n, oobn int
		var from unix.Sockaddr
		var fault error
		err := c.raw.Read(func(fd uintptr) bool {
			n, oobn, _, from, fault = unix.Recvmsg(int(fd), c.data[:], c.oob[:], 0)
			return fault != unix.EAGAIN && fault != unix.EINTR
		})
		switch {
		case c.gone.Load():
			return Packet{}, ErrGone
		case errors.Is(err, os.ErrDeadlineExceeded):
			if !c.exists() {
				return Packet{}, ErrGone
			}
			continue
		case err != nil:
			return Packet{}, fmt.Errorf("receive ICMPv6: %w", net.ErrClosed)
		case fault != nil:
			faults++
			continue
		}
		source, ok := from.(*unix.SockaddrInet6)
		if !ok {
			continue
		}
		return Packet{Data: c.data[:n], From: netip.AddrFrom16(source.Addr), HopLimit: hopLimit(c.oob[:oobn])}, nil
	}
	return Packet{}, fmt.Errorf("receive ICMPv6: the socket fails again and again")
}

func hopLimit(oob []byte) int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1
	}
	for _, m := range messages {
		if m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_HOPLIMIT && len(m.Data) >= 4 {
			return int(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return -1
}

// Send sends from the link-local address: guests ignore advertisements from any
// other (RFC 4861, section 6.1.2), which the kernel would take while duplicate
// address detection for the link-local one is under way.
func (c *socketConn) Send(message []byte, to netip.Addr) error {
	if !to.IsValid() {
		to = netip.IPv6LinkLocalAllNodes()
	}
	source, err := c.source()
	if err != nil {
		return fmt.Errorf("send to %s: %w", to, err)
	}
	dst := &unix.SockaddrInet6{Addr: to.As16(), ZoneId: uint32(c.index)}
	info := unix.PktInfo6(&unix.Inet6Pktinfo{Addr: source, Ifindex: uint32(c.index)})
	var fault error
	err = c.raw.Control(func(fd uintptr) {
		fault = unix.Sendmsg(int(fd), message, info, dst, unix.MSG_DONTWAIT)
	})
	if err = errors.Join(err, fault); err != nil {
		return fmt.Errorf("send to %s: %w", to, err)
	}
	return nil
}

// source asks the kernel for the address that it would send to all nodes from;
// a connected UDP socket sends nothing.
func (c *socketConn) source() ([16]byte, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return [16]byte{}, fmt.Errorf("find link-local address: %w", err)
	}
	defer unix.Close(fd)
	all := &unix.SockaddrInet6{Port: 9, Addr: netip.IPv6LinkLocalAllNodes().As16(), ZoneId: uint32(c.index)}
	if err := unix.Connect(fd, all); err != nil {
		if !c.exists() {
			c.gone.Store(true)
			return [16]byte{}, errors.Join(fmt.Errorf("find link-local address: %w", ErrGone), c.Close())
		}
		return [16]byte{}, fmt.Errorf("find link-local address: %w", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return [16]byte{}, fmt.Errorf("find link-local address: %w", err)
	}
	own, ok := name.(*unix.SockaddrInet6)
	if !ok || !netip.AddrFrom16(own.Addr).IsLinkLocalUnicast() {
		return [16]byte{}, fmt.Errorf("find link-local address: there is none yet")
	}
	return own.Addr, nil
}

// exists says whether the interface is still there.
func (c *socketConn) exists() bool {
	exists := true
	_ = c.raw.Control(func(fd uintptr) { // an error means closed, which the next read tells
		req, err := unix.NewIfreq("x") // the kernel replaces the name
		if err != nil {
			return
		}
		req.SetUint32(uint32(c.index))
		exists = unix.IoctlIfreq(int(fd), unix.SIOCGIFNAME, req) == nil
	})
	return exists
}
