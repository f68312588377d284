package main

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// deleteBy sends RTM_DELLINK with one attribute that says which links, waits for the kernel's
// answer, and times both. It is written out, so that nothing but the kernel is measured.
func deleteBy(attribute uint16, value []byte, s *Series) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	padded := (len(value) + 3) &^ 3
	m := make([]byte, 16+16+4+padded) // nlmsghdr, ifinfomsg, rtattr, value
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	binary.NativeEndian.PutUint16(m[4:], unix.RTM_DELLINK)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	binary.NativeEndian.PutUint16(m[32:], uint16(4+len(value)))
	binary.NativeEndian.PutUint16(m[34:], attribute)
	copy(m[36:], value)
	began := time.Now()
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	took := time.Since(began)
	if n < 20 {
		return fmt.Errorf("delete links: an answer of %d bytes", n)
	}
	if code := int32(binary.NativeEndian.Uint32(answer[16:])); code != 0 {
		return fmt.Errorf("delete links: %w", unix.Errno(-code))
	}
	s.Took(took)
	return nil
}
