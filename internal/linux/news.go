package linux

import (
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// news is a socket to which the kernel tells changes, and that is only read when
// somebody asks whether there were any. The kernel tells of a change before whoever
// made it gets his answer: if there is nothing to read, nothing was changed. (But see
// kept.addDown and kept.carriers.)
type news struct {
	fd int
	b  []byte
	// groups are what is subscribed to once somebody asks.
	groups []int
	// behind: not all that was told is read.
	behind bool
}

const (
	// newsBuffer is how much waits to be read; beyond, all is read anew, which for a
	// thousand links costs no more than to read what was told of them.
	newsBuffer = 1 << 20
	// largestNews is more than any single message of these groups.
	largestNews = 64 << 10
	// newsAtOnce bounds how many messages are read at one time, if they come faster
	// than that.
	newsAtOnce = 1 << 16
)

// openNews opens a socket in the calling thread's network namespace.
func openNews(groups ...int) (*news, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	n := &news{fd: fd, b: make([]byte, largestNews), groups: groups, behind: true}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, errors.Join(os.NewSyscallError("bind", err), n.close())
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, newsBuffer) != nil {
		// Refused without privileges: then the default size has to do.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, newsBuffer)
	}
	return n, nil
}

func (n *news) close() error { return os.NewSyscallError("close", unix.Close(n.fd)) }

func (n *news) subscribe() error {
	for _, g := range n.groups {
		err := unix.SetsockoptInt(n.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g)
		if err != nil && !errors.Is(err, unix.EINVAL) { // a group that this kernel does not know tells nothing
			return os.NewSyscallError("setsockopt", err)
		}
	}
	n.groups = nil
	return nil
}

// read reads all that was told, without waiting. lost says that there was more,
// of which nothing is known. What is told while it reads is read too, or the next
// time: whoever looks at the host after read misses nothing.
func (n *news) read(each func(typ uint16, data []byte)) (lost bool, err error) {
	if err := n.subscribe(); err != nil {
		return true, err
	}
	lost, n.behind = n.behind, true
	for range newsAtOnce {
		size, _, flags, _, err := unix.Recvmsg(n.fd, n.b, nil, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			n.behind = false
			return lost, nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			// It tells nothing more until all that waits is read.
			lost = true
			continue
		case err != nil:
			return true, os.NewSyscallError("recvmsg", err)
		case flags&unix.MSG_TRUNC != 0:
			lost = true
			continue
		}
		for b := n.b[:size]; len(b) >= unix.NLMSG_HDRLEN; {
			length := int(binary.NativeEndian.Uint32(b))
			if length < unix.NLMSG_HDRLEN || length > len(b) {
				lost = true
				break
			}
			each(binary.NativeEndian.Uint16(b[4:]), b[unix.NLMSG_HDRLEN:length])
			b = b[min((length+3)&^3, len(b)):]
		}
	}
	return true, nil
}
