package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
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
as when many do. There is no peer for this without QEMU; "ip commands" are two processes for each port, as a script would run them:
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
	var each, together, inChunks, alone, parallel, p99 Series
	for round := range b.runs(4, 2) {
		files, err := plug(ctx, h, n, &each, &together, &p99)
		if err != nil {
			closeAll(files)
			return err
		}
		into := []*Series{&alone, &parallel}[round%2]
		threads := []int{1, 8}[round%2]
		if err := unplug(ctx, h, files, threads, into); err != nil {
			return err
		}
		b.say("round %d: plugged in %s, unplugged by %d threads in %s", round+1, last(together), threads, last(*into))
	}
	if err := attachAndDetach(ctx, h, b.runs(100, 10), &inChunks); err != nil {
		return err
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
	b.add(Row{Work: "detach one persistent port (port detach)", Ours: inChunks})
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
	done := make(chan struct{})
	for t := range threads {
		go func() {
			for i := t; i < len(files); i += threads {
				files[i].Close()
			}
			done <- struct{}{}
		}()
	}
	for range threads {
		<-done
	}
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

func attachAndDetach(ctx context.Context, h *Host, n int, into *Series) error {
	var taps []string
	for i := range n {
		p, err := h.client.AttachPort(ctx, api.PortRequest{Network: "lab", Guest: fmt.Sprintf("a%d", i)})
		if err != nil {
			return err
		}
		taps = append(taps, p.Tap)
	}
	for _, tap := range taps {
		began := time.Now()
		if err := h.client.DetachPort(ctx, tap); err != nil {
			return err
		}
		into.Took(time.Since(began))
	}
	return nil
}

// bareTaps measures what closing taps costs the kernel where no daemon looks on.
func (b *Bench) bareTaps(ctx context.Context, h *Host, n int) error {
	if err := h.stopDaemon(unix.SIGTERM); err != nil {
		return err
	}
	var s Series
	for range b.runs(2, 1) {
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
		closeAll(files)
		if err != nil {
			return err
		}
		s.Took(time.Since(began))
	}
	b.add(Row{Work: fmt.Sprintf("closing %d taps on no bridge, without a daemon", n), Ours: s, Notes: []string{"the kernel's share of unplugging"}})
	return nil
}
