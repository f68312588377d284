package rest

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// getPeerGroups is getsockopt(SO_PEERGROUPS), which golang.org/x/sys has no
// function for. It returns how many groups there are, also with ERANGE.
func getPeerGroups(fd int, groups []uint32) (int, error) {
	const width = uint32(unsafe.Sizeof(uint32(0)))
	size := uint32(len(groups)) * width
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
		uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
	n := int(size / width)
	if errno != 0 {
		return n, errno
	}
	return n, nil
}
