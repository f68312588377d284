package scripts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"drawbridge/internal/nettest"
)

// openTap opens a tap of a node as a hypervisor would.
func openTap(n *nettest.Node, name string) (*os.File, error) {
	var f *os.File
	err := n.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		req, err := unix.NewIfreq(name)
		if err == nil {
			req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		}
		if err != nil {
			unix.Close(fd)
			return fmt.Errorf("open tap %s: %w", name, err)
		}
		f = os.NewFile(uintptr(fd), name)
		return nil
	})
	return f, err
}

// carry takes frames from one tap to another until one of them is gone.
func carry(from, to *os.File) {
	frame := make([]byte, 64<<10)
	for {
		n, err := from.Read(frame)
		if err != nil {
			return
		}
		if _, err := to.Write(frame[:n]); errors.Is(err, os.ErrClosed) || errors.Is(err, io.EOF) {
			return // anything else is one frame: a link that is not up yet, say
		}
	}
}

// plugTap makes a guest behind a tap that attach made.
func (w *world) plugTap(ctx context.Context, g *nettest.Node, tap string) error {
	out, err := w.host.Run(ctx, program, "port", "ls", "-o", "json")
	if err != nil {
		return err
	}
	var ports []struct{ Tap, MAC string }
	if err := json.Unmarshal([]byte(out), &ports); err != nil {
		return err
	}
	host, err := openTap(w.host, tap)
	if err != nil {
		return err
	}
	nic, err := openTap(g, "eth0")
	if err != nil {
		return errors.Join(err, host.Close())
	}
	w.taps = append(w.taps, host, nic)
	go carry(host, nic)
	go carry(nic, host)
	for _, p := range ports {
		if p.Tap == tap {
			return g.IP(ctx, "link set eth0 address "+p.MAC+" up")
		}
	}
	return fmt.Errorf("there is no port %s", tap)
}
