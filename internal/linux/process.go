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
// into, are passed over. There may be a hundred thousand: each costs one question.
func eachFD(ctx context.Context, prefix string, f func(pid int, fd, target string)) error {
	procs, err := os.Open("/proc")
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	defer procs.Close()
	names, err := procs.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	target := make([]byte, unix.PathMax)
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		d, err := os.Open("/proc/" + name + "/fd")
		if err != nil {
			continue
		}
		fds, _ := d.Readdirnames(-1)
		for _, fd := range fds {
			n, err := unix.Readlinkat(int(d.Fd()), fd, target)
			if err == nil && n >= len(prefix) && string(target[:len(prefix)]) == prefix {
				f(pid, fd, string(target[:n]))
			}
		}
		d.Close()
	}
	return nil
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
