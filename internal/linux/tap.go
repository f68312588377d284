package linux

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// ErrNoTun says that the kernel offers no taps: /dev/net/tun is missing.
// `modprobe tun` brings it, except in a container that was not given it.
var ErrNoTun = errors.New("/dev/net/tun is missing (try: modprobe tun)")

const (
	tunDevice   = "/dev/net/tun"
	vhostDevice = "/dev/vhost-net"
)

// OpenTap makes a tap with that many queues and returns a descriptor for each,
// as QEMU takes them (fd= or fds=). It has virtio headers (IFF_VNET_HDR), so
// that guests can leave checksums and segmentation to the host. Without persist
// the kernel removes it when the last descriptor is closed, so the caller keeps
// none after handing them over. owner is the user who may open it again, -1 for
// root only. A name that is taken is an error that errors.Is fs.ErrExist; a
// kernel without taps is ErrNoTun.
func (h *Host) OpenTap(name string, queues, owner int, persist bool) (files []*os.File, err error) {
	if len(name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("create tap %s: the name is longer than %d characters", name, unix.IFNAMSIZ-1)
	}
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	for i := range max(queues, 1) {
		// Not os.OpenFile, which would have the runtime wait for packets on it.
		fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if isAny(err, fs.ErrNotExist, unix.ENODEV, unix.ENXIO) {
			return files, fmt.Errorf("create tap %s: %w", name, ErrNoTun)
		}
		if err != nil {
			return files, fmt.Errorf("create tap %s: open %s: %w", name, tunDevice, err)
		}
		f := os.NewFile(uintptr(fd), tunDevice)
		files = append(files, f)
		if err := setTap(f, name, flags, i == 0); err != nil {
			return files, fmt.Errorf("create tap %s: %w", name, err)
		}
	}
	h.noIPv6(name)
	fd := int(files[0].Fd())
	if owner >= 0 {
		if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, owner); err != nil {
			return files, fmt.Errorf("give tap %s to user %d: %w", name, owner, err)
		}
	}
	if persist {
		if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
			return files, fmt.Errorf("make tap %s persistent: %w", name, err)
		}
	}
	return files, nil
}

// noIPv6 keeps the host from speaking IPv6 on a new tap: its end is a bridge
// port, and an address of its own would only send router solicitations to the
// guest and cost a route for each tap, through which the kernel walks whenever
// one comes or goes. Where it cannot be done the tap works all the same.
func (h *Host) noIPv6(name string) {
	off := plan.Step{After: host.LinkSysctl("ipv6", name, "disable_ipv6", "1")}
	if err := applySysctls([]plan.Step{off}); err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.log.Debug("IPv6 stays on for a tap", "tap", name, "err", err)
	}
}

// setTap ties an open /dev/net/tun to the tap: a new one, or one more queue of
// it. Only the first may ask for it to be new (IFF_TUN_EXCL).
func setTap(f *os.File, name string, flags uint16, first bool) error {
	if first {
		flags |= unix.IFF_TUN_EXCL
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	req.SetUint16(flags)
	err = unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, req)
	if first && isAny(err, unix.EBUSY, unix.EEXIST) {
		return fmt.Errorf("a link of that name is there: %w", fs.ErrExist)
	}
	return err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// OpenVhost opens /dev/vhost-net n times, once for each queue of a tap, for
// QEMU's vhostfds=. Where the kernel has no vhost-net the answer is empty and
// no error: guests work without, a little slower.
func OpenVhost(n int) ([]*os.File, error) {
	var files []*os.File
	for range n {
		f, err := os.OpenFile(vhostDevice, os.O_RDWR, 0)
		if isAny(err, fs.ErrNotExist, unix.ENODEV, unix.ENXIO) {
			closeAll(files)
			return nil, nil
		}
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("open a vhost queue: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}
