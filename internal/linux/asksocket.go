package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// askSocket is a netlink socket that asks and waits for the answer. The
// library's own swallows the message that ends a dump, and with it the only sign
// (NLM_F_DUMP_INTR) that the table changed before the last of its entries: an
// entry that was there all the time is then missing, and nobody knows. It also
// asks the kernel for the size of each answer before it reads it, which is half
// of the calls where answers are small.
type askSocket struct {
	fd     int
	buffer []byte
}

// largestAnswer is more than the kernel puts into one datagram: 32 kB in a dump
// (netlink_dump in net/netlink/af_netlink.c), more for a card with many virtual
// functions.
const largestAnswer = 256 << 10

// errCut says that an answer was larger than the largest.
var errCut = errors.New("the kernel's answer was cut short")

// openAsk opens a socket of a netlink family in the calling thread's network
// namespace, with options of SOL_NETLINK set, and returns its port.
func openAsk(family int, options ...int) (s *askSocket, port uint32, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, family)
	if err != nil {
		return nil, 0, os.NewSyscallError("socket", err)
	}
	s = &askSocket{fd: fd, buffer: make([]byte, largestAnswer)}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, 0, os.NewSyscallError("bind", err)
	}
	for _, option := range options {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, option, 1); err != nil {
			return nil, 0, os.NewSyscallError("setsockopt", err)
		}
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return nil, 0, os.NewSyscallError("getsockname", err)
	}
	return s, name.(*unix.SockaddrNetlink).Pid, nil
}

// Close closes the socket.
func (s *askSocket) Close() error { return os.NewSyscallError("close", unix.Close(s.fd)) }

// Send sends one request.
func (s *askSocket) Send(m netlink.Message) error {
	return s.SendMessages([]netlink.Message{m})
}

// SendMessages sends several requests as one datagram.
func (s *askSocket) SendMessages(msgs []netlink.Message) error {
	var b []byte
	for _, m := range msgs {
		one, err := m.MarshalBinary()
		if err != nil {
			return err
		}
		b = append(b, one...)
	}
	return os.NewSyscallError("sendto", unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
}

// Receive waits for one datagram and returns its messages.
func (s *askSocket) Receive() (msgs []netlink.Message, err error) {
	for m, err := range s.ReceiveIter() {
		if err != nil {
			return nil, err
		}
		msgs = append(msgs, m)
	}
	return msgs, nil
}

// ReceiveIter waits for one datagram and gives its messages. The end of a dump
// that was interrupted is the error unix.EINTR.
func (s *askSocket) ReceiveIter() iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		b, err := s.receive()
		for err == nil && len(b) > 0 {
			var m netlink.Message
			if m, b, err = nextMessage(b); err != nil {
				break
			}
			if m.Header.Type == netlink.Done && m.Header.Flags&netlink.DumpInterrupted != 0 {
				err = unix.EINTR
				break
			}
			if !yield(m, nil) {
				return
			}
		}
		if err != nil {
			yield(netlink.Message{}, err)
		}
	}
}

func (s *askSocket) receive() ([]byte, error) {
	for {
		n, _, flags, _, err := unix.Recvmsg(s.fd, s.buffer, nil, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue // a signal, not the kernel's word about a dump
		case err != nil:
			return nil, os.NewSyscallError("recvmsg", err)
		case flags&unix.MSG_TRUNC != 0:
			return nil, errCut
		}
		return append([]byte(nil), s.buffer[:n]...), nil
	}
}

// nextMessage takes the first message off a datagram.
func nextMessage(b []byte) (m netlink.Message, rest []byte, err error) {
	if len(b) < unix.NLMSG_HDRLEN {
		return m, nil, errCut
	}
	length := int(binary.NativeEndian.Uint32(b))
	if length < unix.NLMSG_HDRLEN || length > len(b) {
		return m, nil, errCut
	}
	padded := min((length+3)&^3, len(b))
	whole := append(b[:padded:padded], make([]byte, -padded&3)...) // the library wants the padding
	if err := m.UnmarshalBinary(whole); err != nil {
		return m, nil, fmt.Errorf("read a netlink message: %w", err)
	}
	return m, b[padded:], nil
}
