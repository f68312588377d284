package linux

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process is a running program that holds something of the network.
type Process struct {
	// PID is 0 if it is not known.
	PID int
	// Comm is the program's name, cut to 15 characters by the kernel; "" if the
	// process has ended.
	Comm string
	// Guest is what QEMU was told with -name; "" for other programs.
	Guest string
}

// String writes the process as `name (pid N)`.
func (p Process) String() string {
	if p.PID == 0 {
		return "an unknown process"
	}
	if p.Comm == "" {
		return fmt.Sprintf("pid %d", p.PID)
	}
	return fmt.Sprintf("%s (pid %d)", p.Comm, p.PID)
}

func processByPID(pid int) Process {
	p := Process{PID: pid}
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	if b, err := os.ReadFile(filepath.Join(dir, "comm")); err == nil {
		p.Comm = strings.TrimSpace(string(b))
	}
	if b, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil {
		p.Guest = guestName(b)
	}
	return p
}

// guestName finds a guest's name in the arguments of QEMU, separated by NUL:
// `-name NAME` or `-name guest=NAME,…`, with one dash or two.
func guestName(cmdline []byte) string {
	args := bytes.Split(cmdline, []byte{0})
	if !bytes.Contains(filepathBase(args[0]), []byte("qemu")) && !bytes.Contains(filepathBase(args[0]), []byte("kvm")) {
		return ""
	}
	for i, a := range args[:len(args)-1] {
		if s := string(a); s == "-name" || s == "--name" {
			return nameOption(string(args[i+1]))
		}
	}
	return ""
}

func filepathBase(b []byte) []byte { return b[bytes.LastIndexByte(b, '/')+1:] }

// nameOption reads QEMU's option list; a comma in a value is doubled, and the
// first value needs no key.
func nameOption(s string) string {
	const mark = "\x00"
	for i, part := range strings.Split(strings.ReplaceAll(s, ",,", mark), ",") {
		key, value, keyed := strings.Cut(part, "=")
		switch {
		case keyed && key == "guest":
			return strings.ReplaceAll(value, mark, ",")
		case !keyed && i == 0:
			return strings.ReplaceAll(part, mark, ",")
		}
	}
	return ""
}

// eachFD calls f for every open file of every process whose link text begins
// with the prefix. Processes that end meanwhile, and those that we may not look
// into, are passed over.
func eachFD(ctx context.Context, prefix string, f func(pid int, fd, target string)) error {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, proc := range procs {
		if err := ctx.Err(); err != nil {
			return err
		}
		pid, err := strconv.Atoi(proc.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join("/proc", proc.Name(), "fd")
		d, err := os.Open(dir)
		if err != nil {
			continue
		}
		fds, _ := d.Readdirnames(-1)
		d.Close()
		for _, fd := range fds {
			if target, err := os.Readlink(filepath.Join(dir, fd)); err == nil && strings.HasPrefix(target, prefix) {
				f(pid, fd, target)
			}
		}
	}
	return nil
}

// TapUsers says which process holds each tap of this network namespace open: a
// running guest's QEMU, say. A tap that nobody holds is missing. We ourselves,
// who hand taps over, are named only if nobody else is.
func TapUsers(ctx context.Context) (map[string]Process, error) {
	ours, err := namespaceOf("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	users, self := map[string]Process{}, os.Getpid()
	// A process's files come one after the other: what is asked of it is asked once.
	var at holder
	defer func() { at.close() }()
	err = eachFD(ctx, tunDevice, func(pid int, fd, _ string) {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "fdinfo", fd))
		if err != nil {
			return
		}
		name := tapOfFDInfo(b)
		if name == "" {
			return
		}
		if at.PID != pid {
			at.close()
			at = newHolder(pid)
		}
		if p, known := users[name]; known && p.PID != self || at.tapNamespace(fd) != ours {
			return
		}
		users[name] = at.Process
	})
	return users, err
}

// maxDescent bounds how far up Descends looks: QEMU, a shell, a helper.
const maxDescent = 4

// Descends says whether a process was started by another, itself or through a
// few others between them. A process that has ended descends from none.
func Descends(pid, from int) bool {
	for range maxDescent {
		pid = parentOf(pid)
		if pid <= 1 {
			return false
		}
		if pid == from {
			return true
		}
	}
	return false
}

// parentOf is the process that started another, or took it over; 0 if that is
// not known, as it has ended.
func parentOf(pid int) int {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	// The name, in brackets, may hold anything; the state and the parent follow
	// (proc_pid_stat(5)).
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 2 {
		return 0
	}
	parent, err := strconv.Atoi(string(fields[1]))
	if err != nil {
		return 0
	}
	return parent
}

// tapOfFDInfo reads the line `iff:	NAME` (tun_chr_show_fdinfo in drivers/net/tun.c).
func tapOfFDInfo(b []byte) string {
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "iff:"); ok {
			return strings.TrimSpace(name)
		}
	}
	return ""
}

// netNS identifies a network namespace; the zero value is none.
type netNS struct{ dev, ino uint64 }

func namespaceOf(path string) (netNS, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return netNS{}, fmt.Errorf("find the network namespace: %w", err)
	}
	return netNS{st.Dev, st.Ino}, nil
}

// holder is a process that holds taps open.
type holder struct {
	Process
	pidFD int // -1: we may not look into it
}

func newHolder(pid int) holder {
	h := holder{Process: processByPID(pid), pidFD: -1}
	if fd, err := unix.PidfdOpen(pid, 0); err == nil {
		h.pidFD = fd
	}
	return h
}

func (h holder) close() {
	if h.PID != 0 && h.pidFD >= 0 {
		unix.Close(h.pidFD)
	}
}

// tapNamespace is the namespace that a tap is in, which need not be that of the
// process that holds it: descriptors travel. Where the kernel does not let us
// look, it is taken to be the process's.
func (h holder) tapNamespace(fd string) netNS {
	n, err := strconv.Atoi(fd)
	if err == nil && h.pidFD >= 0 {
		if ns, ok := tapNamespaceBy(h.pidFD, n); ok {
			return ns
		}
	}
	ns, _ := namespaceOf(filepath.Join("/proc", strconv.Itoa(h.PID), "ns/net"))
	return ns
}

func tapNamespaceBy(pidFD, n int) (netNS, bool) {
	tap, err := unix.PidfdGetfd(pidFD, n, 0)
	if err != nil {
		return netNS{}, false
	}
	defer unix.Close(tap)
	ns, err := unix.IoctlRetInt(tap, tunGetDevNetNS)
	if err != nil {
		return netNS{}, false
	}
	defer unix.Close(ns)
	var st unix.Stat_t
	if err := unix.Fstat(ns, &st); err != nil {
		return netNS{}, false
	}
	return netNS{st.Dev, st.Ino}, true
}

// tunGetDevNetNS is TUNGETDEVNETNS, _IO('T', 227), of linux/if_tun.h.
const tunGetDevNetNS = 0x54e3
