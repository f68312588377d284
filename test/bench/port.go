package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/api"
)

func portGroup() Group {
	return Group{"port", "A thousand ports on one network", `
Ports are opened one after another through the daemon's API (` + "`POST /v1/ports/open`" + ` on the unix socket; the descriptor of the tap comes
back), a thousand on one network. The time of each is the client's, so it contains the daemon's and the way there and back. "All plugged
together" is from the first request to the last answer. Then the process that holds the descriptors closes all of them, as when guests end; the time is until
the kernel shows none of the taps. They are unplugged in two ways: closed by one thread, as when one process ends, and by eight threads,
as when many do; what the kernel alone takes for that, with taps on no bridge and no daemon, is given below. Persistent ports, which are the daemon's to delete, are detached by a
thousand calls of 128 threads. There is no peer for this without QEMU; "ip commands" are two processes for each port, as a script would run them:
` + "`ip tuntap add`, `ip link set master … up`" + `, without rules, names or DHCP.`, runPort}
}

func runPort(ctx context.Context, b *Bench) (err error) {
	n := b.runs(1000, 50)
	h, err := newOurs(ctx, b, "ours-port")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if _, err := h.run(ctx, "network", "create", "lab"); err != nil {
		return err
	}
	var each, together, one, lot, alone, parallel, p99 Series
	for round := range b.runs(3, 2) {
		files, err := plug(ctx, h, n, &each, &together, &p99)
		if err != nil {
			closeAll(files)
			return err
		}
		into := []*Series{&parallel, &alone}[round%2]
		threads := []int{8, 1}[round%2]
		if err := unplug(ctx, h, files, threads, into); err != nil {
			return err
		}
		b.say("round %d: plugged in %s, unplugged by %d threads in %s", round+1, last(together), threads, last(*into))
	}
	if err := attachAndDetach(ctx, h, b.runs(100, 10), 1, &one, new(Series)); err != nil {
		return err
	}
	for range b.runs(3, 1) {
		if err := attachAndDetach(ctx, h, n, 128, new(Series), &lot); err != nil {
			return err
		}
	}
	var script Series
	for i := range b.runs(50, 5) {
		began := time.Now()
		tap := fmt.Sprintf("script%d", i)
		if _, err := h.node.Run(ctx, "ip", "tuntap", "add", "dev", tap, "mode", "tap"); err != nil {
			return err
		}
		if _, err := h.node.Run(ctx, "ip", "link", "set", tap, "master", "virbr0", "up"); err != nil {
			return err
		}
		script.Took(time.Since(began))
	}
	b.add(Row{Work: "plug one port, of all " + fmt.Sprint(len(each.Values)), Ours: each, Peer: script, Target: below(3, Millis),
		Notes: []string{"the peer here: ip commands"}})
	b.add(Row{Work: "plug one port, p99 of each round", Ours: p99, Target: below(3, Millis)})
	b.add(Row{Work: fmt.Sprintf("%d plugged together", n), Ours: together, Target: below(1500, Millis)})
	b.add(Row{Work: fmt.Sprintf("%d unplugged together, one thread closes", n), Ours: alone, Target: below(1000, Millis)})
	b.add(Row{Work: fmt.Sprintf("%d unplugged together, eight threads close", n), Ours: parallel, Target: below(1000, Millis)})
	b.add(Row{Work: fmt.Sprintf("%d persistent ports detached together", n), Ours: lot, Target: below(1000, Millis)})
	b.add(Row{Work: "detach one persistent port (port detach)", Ours: one})
	return b.bareTaps(ctx, h, n)
}

func last(s Series) string { return figure(s.Values[len(s.Values)-1], s.Unit) }

func plug(ctx context.Context, h *Host, n int, each, together, p99 *Series) ([]*os.File, error) {
	var files []*os.File
	var round Series
	began := time.Now()
	for i := range n {
		one := time.Now()
		_, taps, vhosts, err := h.client.OpenPort(ctx, api.PortRequest{Network: "lab", Guest: fmt.Sprintf("g%d", i)})
		files = append(append(files, taps...), vhosts...)
		if err != nil {
			return files, fmt.Errorf("port %d: %w", i, err)
		}
		round.Took(time.Since(one))
	}
	together.Took(time.Since(began))
	p99.Counted(Millis, round.Percentile(99))
	each.Unit = Millis
	each.Values = append(each.Values, round.Values...)
	ports, err := h.client.Ports(ctx)
	if err == nil && len(ports) != n {
		err = fmt.Errorf("there are %d ports, want %d", len(ports), n)
	}
	return files, err
}

// unplug closes the taps and waits until the kernel, and then the daemon, show none.
func unplug(ctx context.Context, h *Host, files []*os.File, threads int, into *Series) error {
	began := time.Now()
	closeBy(threads, files)
	for {
		left, err := h.node.Run(ctx, "ls", "/sys/class/net/virbr0/brif")
		if err != nil {
			return err
		}
		if strings.TrimSpace(left) == "" {
			break
		}
	}
	into.Took(time.Since(began))
	for time.Since(began) < 60*time.Second {
		ports, err := h.client.Ports(ctx)
		if err != nil {
			return err
		}
		if len(ports) == 0 {
			return nil
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return errors.New("the daemon shows ports that are gone")
}

// closeBy closes files by several threads.
func closeBy(threads int, files []*os.File) {
	var all sync.WaitGroup
	for t := range threads {
		all.Go(func() {
			for i := t; i < len(files); i += threads {
				files[i].Close()
			}
		})
	}
	all.Wait()
}

// attachAndDetach attaches n persistent ports and detaches them by several threads; each is the time of one
// call, together that of all.
func attachAndDetach(ctx context.Context, h *Host, n, threads int, each, together *Series) error {
	var taps []string
	for i := range n {
		p, err := h.client.AttachPort(ctx, api.PortRequest{Network: "lab", Guest: fmt.Sprintf("a%d", i)})
		if err != nil {
			return err
		}
		taps = append(taps, p.Tap)
	}
	calls, errs := make([]Series, threads), make([]error, threads)
	began := time.Now()
	var all sync.WaitGroup
	for t := range threads {
		all.Go(func() {
			for i := t; i < n && errs[t] == nil; i += threads {
				one := time.Now()
				errs[t] = h.client.DetachPort(ctx, taps[i])
				calls[t].Took(time.Since(one))
			}
		})
	}
	all.Wait()
	together.Took(time.Since(began))
	each.Unit = Millis
	for _, c := range calls {
		each.Values = append(each.Values, c.Values...)
	}
	return errors.Join(errs...)
}

// bareTaps measures what closing taps costs the kernel where no daemon looks on.
func (b *Bench) bareTaps(ctx context.Context, h *Host, n int) error {
	if err := h.stopDaemon(unix.SIGTERM); err != nil {
		return err
	}
	for _, threads := range []int{1, 8} {
		var s Series
		var files []*os.File
		err := h.node.Do(func() error {
			for i := range n {
				fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
				if err != nil {
					return err
				}
				files = append(files, os.NewFile(uintptr(fd), "tap"))
				req, err := unix.NewIfreq(fmt.Sprintf("bare%d", i))
				if err != nil {
					return err
				}
				req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
				if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
					return err
				}
			}
			return nil
		})
		began := time.Now()
		closeBy(threads, files)
		if err != nil {
			return err
		}
		s.Took(time.Since(began))
		b.add(Row{Work: fmt.Sprintf("closing %d taps on no bridge by %d threads, without a daemon", n, threads), Ours: s,
			Notes: []string{"the kernel's share of unplugging: it ends each tap by itself and waits for a grace period each time"}})
	}
	return nil
}
