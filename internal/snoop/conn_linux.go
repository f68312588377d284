package snoop

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// frameSize is more than a frame of DHCP has (RFC 2131: 576 bytes, more by
// agreement); the filter cuts what is longer.
const frameSize = 2048

// errGone says that the link of a socket was deleted.
var errGone = errors.New("the port is gone")

// Conn is a packet socket (packet(7)) on a port.
type Conn struct{ file *os.File }

// NewConn takes over an open packet socket that is bound to one link.
func NewConn(f *os.File) (*Conn, error) {
	fd := int(f.Fd()) // blocking from now on; below it is not
	if err := unix.SetNonblock(fd, true); err != nil {
		f.Close()
		return nil, fmt.Errorf("use packet socket: %w", err)
	}
	// A new file, so that the runtime waits for it and Close ends a read.
	copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("use packet socket: %w", err)
	}
	return &Conn{os.NewFile(uintptr(copied), "port")}, nil
}

// Close ends a read.
func (c *Conn) Close() error { return c.file.Close() }

// read waits for a frame. A link that goes down is waited for; errGone says that it
// was deleted.
func (c *Conn) read(b []byte) (int, error) {
	for {
		n, err := c.file.Read(b)
		if !errors.Is(err, unix.ENETDOWN) {
			return n, err
		}
		raw, err := c.file.SyscallConn()
		if err != nil {
			return 0, err
		}
		gone := false
		err = raw.Control(func(fd uintptr) {
			name, err := unix.Getsockname(int(fd))
			at, ok := name.(*unix.SockaddrLinklayer)
			gone = err != nil || !ok || at.Ifindex <= 0
		})
		if err != nil || gone {
			return 0, errGone
		}
	}
}
