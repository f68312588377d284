package linux

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
)

// holders says who holds taps open, as it was found the last time. To find it means to
// look at every open file of the host; to see that it is still so, at those alone.
type holders struct {
	mu   sync.Mutex
	taps map[string]holding
}

// holding is an open file of a process that is a tap.
type holding struct {
	Process
	fd string
	// reading is that of the tap; it is another once something happened to it.
	reading uint64
}

// place is where an open file is.
type place struct {
	pid int
	fd  string
}

// tapState is a tap as kept has it. The driver turns the carrier on with the first
// that opens it, and off after the last (tun_attach, __tun_detach in drivers/net/tun.c).
type tapState struct {
	carrier bool
	reading uint64
}

// TapUsers says which process holds each tap of this network namespace open: a
// running guest's QEMU, say. A tap that nobody holds is missing. We ourselves,
// who hand taps over, are named only if nobody else is; of several others it is one.
func (h *Host) TapUsers(ctx context.Context) (map[string]Process, error) {
	taps, err := h.kept.taps()
	if err != nil {
		return nil, fmt.Errorf("list taps: %w", err)
	}
	h.holders.mu.Lock()
	defer h.holders.mu.Unlock()
	if sure, all := h.holders.still(taps); !all {
		h.holders.taps = nil
		if h.holders.taps, err = findTapUsers(ctx, taps, sure); err != nil {
			return nil, err
		}
	}
	users := make(map[string]Process, len(h.holders.taps))
	for tap, by := range h.holders.taps {
		if _, there := taps[tap]; there {
			users[tap] = by.Process
		}
	}
	return users, nil
}

// still lists the holders that hold what they did, and says whether these are all that
// there can be: a descriptor can be handed to another process without a word from
// the kernel, and then the one before closes it.
func (k *holders) still(taps map[string]tapState) (sure map[place]string, all bool) {
	self, comms := os.Getpid(), map[int]bool{}
	sure, all = make(map[place]string, len(k.taps)), k.taps != nil
	target := make([]byte, len(tunDevice))
	for name, tap := range taps {
		by, known := k.taps[name]
		switch {
		case !known:
			all = all && !tap.carrier
			continue
		case by.reading != tap.reading || by.PID == self:
			all = false
			continue
		}
		dir := "/proc/" + strconv.Itoa(by.PID)
		same, asked := comms[by.PID]
		if !asked {
			b, err := os.ReadFile(dir + "/comm")
			same = err == nil && strings.TrimSpace(string(b)) == by.Comm // else it began another program
			comms[by.PID] = same
		}
		n, err := unix.Readlink(dir+"/fd/"+by.fd, target)
		if !same || err != nil || string(target[:n]) != tunDevice {
			all = false
			continue
		}
		sure[place{by.PID, by.fd}] = name
	}
	return sure, all
}

func (k *kept) taps() (map[string]tapState, error) {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.refreshCarriers(now); err != nil {
		return nil, err
	}
	taps := map[string]tapState{}
	for _, l := range k.links {
		if l.Type == host.TypeTap {
			taps[l.Name] = tapState{l.carrier, l.reading}
		}
	}
	return taps, nil
}

// findTapUsers looks at all open files but those of which it is sure.
func findTapUsers(ctx context.Context, taps map[string]tapState, sure map[place]string) (map[string]holding, error) {
	ours, err := namespaceOf("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	users, self := make(map[string]holding, len(taps)), os.Getpid()
	// A process's files come one after the other: what is asked of it is asked once.
	var at holder
	defer func() { at.close() }()
	err = eachFD(ctx, tunDevice, func(pid int, fd, _ string) {
		name, known := sure[place{pid, fd}]
		if !known {
			b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "fdinfo", fd))
			if err != nil {
				return
			}
			if name = tapOfFDInfo(b); name == "" {
				return
			}
		}
		if at.PID != pid {
			at.close()
			at = newHolder(pid)
		}
		if p, there := users[name]; there && p.PID != self || !known && at.tapNamespace(fd) != ours {
			return
		}
		users[name] = holding{at.Process, fd, taps[name].reading}
	})
	return users, err
}

// MacvtapUsers is DirectUsers of all macvtaps.
func (h *Host) MacvtapUsers(ctx context.Context) (map[string]Process, error) {
	names, err := h.kept.macvtaps()
	if err != nil || len(names) == 0 {
		return nil, err
	}
	return h.DirectUsers(ctx, names)
}

func (k *kept) macvtaps() ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.refresh(); err != nil {
		return nil, fmt.Errorf("list macvtaps: %w", err)
	}
	var names []string
	for _, l := range k.links {
		if l.Type == host.TypeMacvtap {
			names = append(names, l.Name)
		}
	}
	return names, nil
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
