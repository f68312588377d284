package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/api"
	"drawbridge/internal/nettest"
)

func restartGroup() Group {
	return Group{"restart", "The daemon restarts under a guest that pings", `
A hundred networks run. A guest on one of them pings a machine on the LAN, through source NAT, a thousand times a second
(iputils' ping; the count is its own), while the daemon is ended and started again and again, by SIGTERM and by SIGKILL in turn.
Ours has a thousand ports besides, ten on each network, whose taps this program holds open; the peer has none. The time is
from starting the daemon's process until the first command is answered (` + "`drawbridge status`" + `, ` + "`virsh net-list`" + `).`, runRestart}
}

const pingSeconds = 10

func runRestart(ctx context.Context, b *Bench) error {
	n := b.runs(fleet, 3)
	ours, err := newOurs(ctx, b, "ours-restart")
	if err != nil {
		return err
	}
	var o, p restarts
	perNetwork := 10
	files, err := b.fillPorts(ctx, ours, n, perNetwork)
	if err == nil {
		o, err = b.restartUnderPing(ctx, ours, b.runs(3, 1))
	}
	closeBy(8, files)
	if err := errors.Join(err, ours.Close()); err != nil {
		return err
	}
	peer, err := newPeer(ctx, b, "peer-restart", "")
	if err != nil {
		return err
	}
	b.say("the peer: %d networks", n)
	if err = peer.define(ctx, n); err == nil {
		for i := 0; i < n && err == nil; i++ {
			_, err = peer.run(ctx, "net-start", fmt.Sprintf("n%d", i))
		}
	}
	if err == nil {
		p, err = b.restartUnderPing(ctx, peer, 1) // it takes its time
	}
	if err := errors.Join(err, peer.Close()); err != nil {
		return err
	}
	b.add(Row{
		Work: fmt.Sprintf("packets lost over restarts, %d networks, %d ports", n, n*perNetwork),
		Ours: o.lost, Peer: p.lost, Target: none(Packets),
		Notes: []string{fmt.Sprintf("ours: %s, with %d restarts; the peer: %s, with %d restarts", o.sent, len(o.ready.Values), p.sent, len(p.ready.Values))},
	})
	b.add(Row{Work: "from start until it answers", Ours: o.ready, Peer: p.ready})
	return nil
}

// fillPorts makes n networks with some ports each and returns their descriptors.
func (b *Bench) fillPorts(ctx context.Context, h *Host, n, each int) ([]*os.File, error) {
	if _, err := h.feed(ctx, document(n), "apply", "-f", "-"); err != nil {
		return nil, err
	}
	var all []*os.File
	for i := range n * each {
		_, taps, vhosts, err := h.client.OpenPort(ctx, api.PortRequest{Network: fmt.Sprintf("n%d", i%n), Guest: fmt.Sprintf("g%d", i)})
		all = append(append(all, taps...), vhosts...)
		if err != nil {
			return all, err
		}
	}
	b.say("ours: %d networks with %d ports", n, n*each)
	return all, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

type restarts struct {
	lost, ready Series
	sent        string
}

// restartUnderPing restarts the daemon as long as a guest on n0 pings, and again until it has
// pinged through all rounds.
func (b *Bench) restartUnderPing(ctx context.Context, h *Host, rounds int) (r restarts, err error) {
	lan, err := nettest.NewNode(ctx, "lan-"+h.node.Name, "")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, lan.Close()) }()
	err = errors.Join(
		h.node.IP(ctx, fmt.Sprintf("link set lan0 netns %d", lan.PID())),
		lan.IP(ctx, "link set lan0 up", "addr add 192.168.99.1/24 dev lan0"))
	if err != nil {
		return r, err
	}
	guest, err := newGuest(ctx, h, "virbr0", "10.80.0.200/24", "10.80.0.1")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, guest.Close()) }()
	if err := waitForPing(ctx, guest); err != nil {
		return r, err
	}
	total := 0
	for range rounds {
		sent, lost, err := b.pingRound(ctx, h, guest, &r.ready)
		if err != nil {
			return r, err
		}
		total += sent
		r.lost.Counted(Packets, float64(lost))
	}
	r.sent = fmt.Sprintf("%.0f lost of %d pings", sum(r.lost.Values), total)
	b.say("%s: %s, %d restarts, ready after %s", h.node.Name, r.sent, len(r.ready.Values), r.ready)
	return r, nil
}

func sum(v []float64) (total float64) {
	for _, x := range v {
		total += x
	}
	return total
}

// waitForPing waits until the way is known: neighbours resolved, ports forwarding.
func waitForPing(ctx context.Context, guest *nettest.Node) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		_, err := guest.Run(ctx, "ping", "-q", "-i", "0.01", "-c", "20", "-w", "2", "192.168.99.1")
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}

// pingRound pings for ten seconds and restarts the daemon all the while.
func (b *Bench) pingRound(ctx context.Context, h *Host, guest *nettest.Node, ready *Series) (sent, lost int, err error) {
	count := b.runs(pingSeconds, 3) * 1000
	cmd := guest.Command(ctx, "ping", "-q", "-i", "0.001", "-W", "2", "-c", strconv.Itoa(count), "192.168.99.1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	signals := []os.Signal{unix.SIGTERM, unix.SIGKILL}
	for i := 0; ; i++ {
		select {
		case err := <-done:
			var exit *exec.ExitError // ping ends with 1 when packets are missing
			if err != nil && !errors.As(err, &exit) {
				return 0, 0, err
			}
			sent, received, err := parsePing(out.String())
			if err == nil && i == 0 {
				err = errors.New("ping ended before the daemon was restarted once")
			}
			return sent, sent - received, err
		case <-time.After(300 * time.Millisecond): // the daemon at work for a moment
		}
		if err := h.stopDaemon(signals[i%len(signals)]); err != nil {
			return 0, 0, err
		}
		took, err := h.startDaemon(ctx)
		if err != nil {
			return 0, 0, err
		}
		ready.Took(took)
	}
}

var pingReport = regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`)

func parsePing(text string) (sent, received int, err error) {
	m := pingReport.FindStringSubmatch(text)
	if m == nil {
		return 0, 0, fmt.Errorf("read ping's report: it is not as known: %q", text)
	}
	sent, err = strconv.Atoi(m[1])
	received, err2 := strconv.Atoi(m[2])
	return sent, received, errors.Join(err, err2)
}
