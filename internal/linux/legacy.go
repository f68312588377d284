package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"drawbridge/internal/ruleset"
)

// Requests of getsockopt and the layout of their answers, from
// include/uapi/linux/netfilter_ipv4/ip_tables.h; those of IPv6 have the same
// numbers.
const (
	iptGetInfo    = 64
	iptGetEntries = 65

	iptNameLen     = 32
	iptInfoLen     = iptNameLen + 4 + 5*4 + 5*4 + 4 + 4
	iptEntriesHead = 40 // the name, the size, and padding to eight bytes
	iptTargetHead  = 32 // struct xt_entry_target, before a standard target's verdict
	iptVerdictDrop = -1 // -NF_DROP - 1
)

// legacyTables names the tables of iptables-legacy in this network namespace
// that have rules or a policy of drop. A table that is merely there does
// nothing: looking at it with iptables-legacy makes it.
func legacyTables() ([]string, error) {
	var found []string
	for _, v := range []struct {
		family, file string
		domain       int
		level        int
		// target is where an entry has the offset of its target: behind struct
		// ipt_ip or ip6t_ip6, and nfcache.
		target int
	}{
		{ruleset.IP, "/proc/thread-self/net/ip_tables_names", unix.AF_INET, unix.SOL_IP, 84 + 4},
		{ruleset.IP6, "/proc/thread-self/net/ip6_tables_names", unix.AF_INET6, unix.SOL_IPV6, 136 + 4},
	} {
		names, err := os.ReadFile(v.file)
		if errors.Is(err, os.ErrNotExist) || len(names) == 0 && err == nil {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read tables of iptables-legacy: %w", err)
		}
		fd, err := unix.Socket(v.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return nil, fmt.Errorf("read tables of iptables-legacy: %w", err)
		}
		for name := range strings.FieldsSeq(string(names)) {
			// What cannot be looked into counts as holding something.
			if holds, err := legacyHolds(fd, v.level, v.target, name); holds || err != nil {
				found = append(found, v.family+" "+name)
			}
		}
		unix.Close(fd)
	}
	slices.Sort(found)
	return found, nil
}

// legacyHolds says whether a table has more than its policies (one entry for
// each hook, and the one that marks the end), or a policy that is not accept.
func legacyHolds(fd, level, target int, name string) (bool, error) {
	info := make([]byte, iptInfoLen)
	copy(info[:iptNameLen-1], name)
	if err := getsockopt(fd, level, iptGetInfo, info); err != nil {
		return false, err
	}
	u32 := func(b []byte, at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
	hooks, entries, size := u32(info, iptNameLen), u32(info, iptInfoLen-8), u32(info, iptInfoLen-4)
	if int(entries) != bits.OnesCount32(hooks)+1 {
		return true, nil
	}
	b := make([]byte, iptEntriesHead+size)
	copy(b[:iptNameLen-1], name)
	binary.NativeEndian.PutUint32(b[iptNameLen:], size)
	if err := getsockopt(fd, level, iptGetEntries, b); err != nil {
		return false, err
	}
	for hook := range 5 {
		if hooks&(1<<hook) == 0 {
			continue
		}
		at := iptEntriesHead + int(u32(info, iptNameLen+4+5*4+4*hook))
		if at+target+2 > len(b) {
			return true, nil
		}
		verdict := at + int(binary.NativeEndian.Uint16(b[at+target:])) + iptTargetHead
		if verdict+4 > len(b) || int32(u32(b, verdict)) == iptVerdictDrop {
			return true, nil
		}
	}
	return false, nil
}

// getsockopt fills b, whose beginning is the question.
func getsockopt(fd, level, option int, b []byte) error {
	size := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return os.NewSyscallError("getsockopt", errno)
	}
	return nil
}
