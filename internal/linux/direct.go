package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
)

// Numbers of linux/if_link.h.
const (
	macvlanMode       = 1 // IFLA_MACVLAN_MODE
	macvlanModeBridge = 4 // MACVLAN_MODE_BRIDGE: guests of one NIC reach each other
)

// ErrNoMacvtap says that the kernel has no macvtap, or that its device nodes cannot
// be used here.
var ErrNoMacvtap = errors.New("macvtap cannot be used here")

// nodesDir is where device nodes are made if the kernel's own, /dev/tapN, are not
// to be had: in containers, and for links of other network namespaces.
const nodesDir = "/run/drawbridge/taps"

// directs are the macvtaps whose descriptors were handed out. Unlike a tap a macvtap
// outlives its last descriptor; inotify on its device node says when that is closed.
type directs struct {
	mu    sync.Mutex
	notes *os.File // inotify; nil until it is needed
	// doubt are taps that somebody closed a descriptor of since they were last
	// looked at; watched are taps by watch.
	doubt    map[string]bool
	watched  map[int32]string
	released func(tap string)
}

// OnRelease has f called whenever a descriptor of a macvtap is closed. Call it
// before the first one is opened.
func (h *Host) OnRelease(f func(tap string)) { h.directs.released = f }

// OpenDirect makes a macvtap (mode bridge) on a NIC, down, with the hardware address
// of the guest's NIC, and returns a descriptor for each queue, as QEMU takes them.
// A name that is taken is an error that errors.Is fs.ErrExist, a kernel without
// macvtap ErrNoMacvtap.
func (h *Host) OpenDirect(name, nic, mac string, queues int) (files []*os.File, err error) {
	lower, err := h.rtnl.linkBy(0, nic)
	if err != nil {
		return nil, fmt.Errorf("create macvtap %s: %w", name, err)
	}
	addr, err := net.ParseMAC(mac)
	if err != nil {
		return nil, fmt.Errorf("create macvtap %s: %w", name, err)
	}
	_, err = h.rtnl.do(unix.RTM_NEWLINK, flagCreate, linkHeader(0, 0, 0), func(ae *netlink.AttributeEncoder) {
		ae.String(unix.IFLA_IFNAME, name)
		ae.Bytes(unix.IFLA_ADDRESS, addr)
		ae.Uint32(unix.IFLA_LINK, uint32(lower.index))
		nest(ae, unix.IFLA_LINKINFO, func(ae *netlink.AttributeEncoder) {
			ae.String(unix.IFLA_INFO_KIND, host.TypeMacvtap)
			nest(ae, unix.IFLA_INFO_DATA, func(ae *netlink.AttributeEncoder) { ae.Uint32(macvlanMode, macvlanModeBridge) })
		})
	})
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return nil, fmt.Errorf("create macvtap %s: the kernel has none (try: modprobe macvtap): %w", name, ErrNoMacvtap)
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("create macvtap %s: something else takes the frames of %s, such as a bridge that it is a port of: %w", name, nic, err)
	case err != nil:
		return nil, fmt.Errorf("create macvtap %s on %s: %w", name, nic, err)
	}
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
			made, seen := h.rtnl.linkBy(0, name)
			if seen == nil {
				_, gone := h.rtnl.do(unix.RTM_DELLINK, flagChange, linkHeader(made.index, 0, 0), nil)
				err = errors.Join(err, gone)
			}
		}
	}()
	h.noIPv6(name)
	node, err := nodeOf(name)
	if err != nil {
		return nil, fmt.Errorf("open macvtap %s: %w", name, err)
	}
	for range max(queues, 1) {
		fd, err := unix.Open(node, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return files, fmt.Errorf("open macvtap %s: %s: %w: %w", name, node, err, ErrNoMacvtap)
		}
		files = append(files, os.NewFile(uintptr(fd), node))
	}
	h.directs.watch(name, node)
	return files, nil
}

// device is the number of a macvtap's device; fs.ErrNotExist if there is no such link.
func device(name string) (index string, number uint64, err error) {
	found, err := filepath.Glob(filepath.Join("/sys/class/net", name, "tap*", "dev"))
	if err != nil || len(found) != 1 {
		return "", 0, fmt.Errorf("find the device of %s: %w", name, errors.Join(err, fs.ErrNotExist))
	}
	b, err := os.ReadFile(found[0])
	if err != nil {
		return "", 0, err
	}
	major, minor, _ := strings.Cut(strings.TrimSpace(string(b)), ":")
	ma, err1 := strconv.ParseUint(major, 10, 32)
	mi, err2 := strconv.ParseUint(minor, 10, 32)
	return filepath.Base(filepath.Dir(found[0])), unix.Mkdev(uint32(ma), uint32(mi)), errors.Join(err1, err2)
}

// nodeOf finds the device node of a macvtap, or makes one.
func nodeOf(name string) (string, error) {
	base, number, err := device(name)
	if err != nil {
		return "", err
	}
	is := func(path string) bool {
		var st unix.Stat_t
		return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && uint64(st.Rdev) == number
	}
	kernels, own := filepath.Join("/dev", base), filepath.Join(nodesDir, base)
	if is(kernels) {
		return kernels, nil
	}
	if is(own) {
		return own, nil
	}
	if err := os.MkdirAll(nodesDir, 0o700); err != nil {
		return "", err
	}
	if err := os.Remove(own); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := unix.Mknod(own, unix.S_IFCHR|0o600, int(number)); err != nil {
		return "", fmt.Errorf("%s is not there and %s cannot be made: %w: %w", kernels, own, err, ErrNoMacvtap)
	}
	return own, nil
}

// DirectUsers says which process holds each of these macvtaps open, or each that
// there is if taps is nil; one that nobody holds is missing. We ourselves, who hand them over, are named only if nobody else is.
func (h *Host) DirectUsers(ctx context.Context, taps []string) (map[string]Process, error) {
	byNumber := map[uint64]string{}
	if taps == nil {
		// A thousand links are a thousand looks, and mostly none is one of them.
		if all, err := os.ReadDir("/sys/class/macvtap"); err != nil || len(all) == 0 {
			return map[string]Process{}, nil //nolint:nilerr // the class comes with the first
		}
		found, err := filepath.Glob("/sys/class/net/*/macvtap")
		if err != nil {
			return nil, err
		}
		for _, path := range found {
			taps = append(taps, filepath.Base(filepath.Dir(path)))
		}
	}
	for _, tap := range taps {
		if _, number, err := device(tap); err == nil {
			byNumber[number] = tap
		}
	}
	users := map[string]Process{}
	if len(byNumber) == 0 {
		return users, nil
	}
	look := func(pid int, fd, target string) {
		if !strings.HasPrefix(filepath.Base(target), "tap") {
			return
		}
		var st unix.Stat_t
		if unix.Stat(filepath.Join("/proc", strconv.Itoa(pid), "fd", fd), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
			return
		}
		if tap, ours := byNumber[uint64(st.Rdev)]; ours && (users[tap].PID == 0 || users[tap].PID == os.Getpid()) {
			users[tap] = processByPID(pid)
		}
	}
	for _, dir := range []string{"/dev/tap", nodesDir} {
		if err := eachFD(ctx, dir, look); err != nil {
			return nil, err
		}
	}
	return users, nil
}

// Released lists those of the macvtaps that nobody holds open any more.
func (h *Host) Released(ctx context.Context, taps []string) ([]string, error) {
	suspects := h.directs.suspects(taps)
	if len(suspects) == 0 {
		return nil, nil
	}
	users, err := h.DirectUsers(ctx, suspects)
	if err != nil {
		h.directs.suspect(suspects)
		return nil, err
	}
	var free []string
	for _, tap := range suspects {
		if users[tap].PID == 0 {
			free = append(free, tap)
		}
	}
	h.directs.suspect(free)
	return free, nil
}

// suspects takes those of the taps that are in doubt, and begins to watch those that
// an earlier daemon opened.
func (d *directs) suspects(taps []string) []string {
	d.mu.Lock()
	known := map[string]bool{}
	for _, tap := range d.watched {
		known[tap] = true
	}
	d.mu.Unlock()
	var out []string
	for _, tap := range taps {
		fresh := !known[tap]
		if fresh {
			if node, err := nodeOf(tap); err == nil {
				d.watch(tap, node)
			}
		}
		d.mu.Lock()
		if fresh || d.doubt[tap] {
			out = append(out, tap)
		}
		delete(d.doubt, tap)
		d.mu.Unlock()
	}
	return out
}

// suspect puts taps into doubt, until they are gone.
func (d *directs) suspect(taps []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, tap := range taps {
		d.doubt[tap] = true
	}
}

// watch hears of descriptors of the node that are closed. Where it cannot, the tap
// stays in doubt, and is looked at again and again.
func (d *directs) watch(tap, node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.doubt == nil {
		d.doubt, d.watched = map[string]bool{}, map[int32]string{}
	}
	if d.notes == nil {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			d.doubt[tap] = true
			return
		}
		d.notes = os.NewFile(uintptr(fd), "inotify")
		go d.listen(d.notes)
	}
	var w int
	var err error
	raw, err := d.notes.SyscallConn()
	if err == nil {
		err = errors.Join(raw.Control(func(fd uintptr) {
			w, err = unix.InotifyAddWatch(int(fd), node, unix.IN_CLOSE|unix.IN_DELETE_SELF)
		}), err)
	}
	if err != nil {
		d.doubt[tap] = true
		return
	}
	d.watched[int32(w)] = tap
}

func (d *directs) listen(notes *os.File) {
	buf := make([]byte, 64<<10)
	for {
		n, err := notes.Read(buf)
		if err != nil {
			return
		}
		for at := 0; at+unix.SizeofInotifyEvent <= n; {
			// struct inotify_event: watch, mask, cookie, length of the name behind it.
			watch := int32(binary.NativeEndian.Uint32(buf[at:]))
			mask := binary.NativeEndian.Uint32(buf[at+4:])
			at += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[at+12:]))
			d.mu.Lock()
			tap := d.watched[watch]
			if mask&unix.IN_IGNORED != 0 {
				delete(d.watched, watch)
			} else if tap != "" {
				d.doubt[tap] = true
			}
			d.mu.Unlock()
			if tap != "" && d.released != nil {
				d.released(tap)
			}
		}
	}
}

func (d *directs) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.notes == nil {
		return nil
	}
	return d.notes.Close()
}
