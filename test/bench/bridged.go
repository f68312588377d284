package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/api"
	"drawbridge/internal/nettest"
)

func bridgedGroup() Group {
	return Group{"bridged", "A NIC that moves into a bridge", `
A host of namespaces stands on a LAN with a router and another machine. The machine pings the host, and the host the router, a thousand times a second each, in IPv4 and
IPv6 at once, while the host's only NIC moves into a bridge, or out of it; so each run counts what is lost of four rows of pings. A command is a whole process, from its
start to its end: then the bridge works and is verified, and the change waits to be confirmed; it is timed in moves of its own, while nothing else goes on, and for a peer that
is done before the NIC is in the bridge, until it is. A TCP stream goes from the machine to the host and back all the while; retransmission
timeouts are the kernel's own count (TCPTimeouts of /proc/net/netstat) on both ends. The peers are Debian's ifupdown with bridge-utils, ` + "`ifdown NIC && ifup br0`" + `, and
NetworkManager, ` + "`nmcli con up br0`" + `, each on such a host in its own root, and both hand-tuned: no spanning tree, no forward delay, the NIC's hardware address, and for ifupdown no
duplicate address detection. ` + "`netplan apply`" + ` needs systemd as process 1: both it and ours move the NIC of one whole Debian host in a container, which netplan and systemd-networkd
configure, and both are commands on that host; netplan's YAML is tuned by hand as well, and IPv6 has no duplicate address detection there. Ours tells networkd, and when confirmed writes
the YAML. None of the peers has a way back, so rolling back has no peer.`, runBridged}
}

const (
	pingEvery = time.Millisecond
	pingsEach = 2500 // of one row; the move begins after the first 500
	rootEnv   = "DRAWBRIDGE_BENCH_MANAGERS"
)

func runBridged(ctx context.Context, b *Bench) error {
	var in, out, back, expired Row
	in = Row{Work: "packets lost, in", Target: none(Packets)}
	out = Row{Work: "packets lost, out", Target: none(Packets)}
	back = Row{Work: "packets lost, in and cancelled", Target: none(Packets), PeerSaid: "no way back"}
	expired = Row{Work: "packets lost, in and not confirmed", Target: none(Packets), PeerSaid: "no way back"}
	took := Row{Work: "command to working bridge", Target: below(100, Millis)}
	tcp := Row{Work: "TCP retransmission timeouts, in and out", Target: none(Times)}
	if err := bridgedOurs(ctx, b, &in, &out, &back, &expired, &took, &tcp); err != nil {
		return err
	}
	floor, err := bridgedFloor(ctx, b)
	if err != nil {
		return err
	}
	rows := []Row{back, expired, floor}
	beside := func(name string, failed error, measured ...Row) {
		if failed != nil {
			measured[0].Notes = append(measured[0].Notes, name+" was not measured to the end: "+failed.Error())
		}
		for _, r := range measured {
			r.Work += ", beside " + name
			rows = append(rows, r)
		}
	}
	for _, p := range []peer{ifupdown(), networkManager()} {
		in, out, took, tcp := in, out, took, tcp
		err := bridgedPeer(ctx, b, p, &in, &out, &took, &tcp)
		beside(p.name, err, in, out, took, tcp)
	}
	in, out, took, tcp = in.bare(), out.bare(), took.bare(), tcp.bare()
	err = bridgedNetplan(ctx, b, &in, &out, &took, &tcp)
	beside("netplan apply", err, in, out, took, tcp)
	for _, r := range rows {
		b.add(r)
	}
	return nil
}

// newLAN makes a LAN whose addresses have settled.
func newLAN(ctx context.Context) (*nettest.LAN, error) {
	lan, err := nettest.NewLAN(ctx, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	for range 200 {
		text, err := lan.HostA.Run(ctx, "ip", "addr", "show", "tentative")
		if err != nil {
			return nil, errors.Join(err, lan.Close())
		}
		if strings.TrimSpace(text) == "" {
			return lan, nil
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return nil, errors.Join(err, lan.Close())
		}
	}
	return nil, errors.Join(errors.New("the LAN's addresses do not settle"), lan.Close())
}

// lossless counts the pings that are lost while something is done to the host.
func lossless(ctx context.Context, lan *nettest.LAN, count int, do func() error) (lost int, err error) {
	var rows []*nettest.Pinging
	for _, p := range []struct {
		from *nettest.Node
		to   string
	}{{lan.Machine, nettest.HostA4}, {lan.Machine, nettest.HostA6}, {lan.HostA, nettest.Router4}, {lan.HostA, nettest.Router6}} {
		row, err := p.from.Ping(ctx, netip.MustParseAddr(p.to), count, pingEvery)
		if err != nil {
			return 0, err
		}
		rows = append(rows, row)
	}
	for rows[0].Sent() < 500 {
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	err = do()
	if n := rows[0].Sent(); err == nil && n >= count {
		err = fmt.Errorf("it took longer than the pings: %s", time.Since(began))
	}
	for _, row := range rows {
		got, waitErr := row.Wait()
		err = errors.Join(err, waitErr)
		lost += len(got.Lost) - got.Overflowed
	}
	return lost, err
}

// onLAN is ours on the host of a LAN.
func onLAN(ctx context.Context, b *Bench, lan *nettest.LAN) (*Host, error) {
	h := &Host{node: lan.HostA, dir: filepath.Join(b.scratch, "bridged"), tool: b.binary, ready: []string{"status"}}
	run := filepath.Join(h.dir, "run")
	if err := os.MkdirAll(run, 0o755); err != nil {
		return nil, err
	}
	h.socket = filepath.Join(run, "drawbridge.sock")
	h.flags, h.client, h.log = []string{"--socket", h.socket}, api.Dial(h.socket), filepath.Join(h.dir, "daemon.log")
	h.start = func(ctx context.Context) *exec.Cmd {
		return h.node.Command(ctx, b.binary, "daemon", "--state-dir", filepath.Join(h.dir, "state"), "--run-dir", run)
	}
	_, err := h.startDaemon(ctx)
	return h, err
}

// mover moves the NIC of a LAN's host with ours.
type mover struct {
	lan    *nettest.LAN
	client *api.Client
	// run runs a command of ours to its end and says how long it took.
	run func(context.Context, ...string) (time.Duration, error)
}

func (m mover) in(ctx context.Context, within string) error {
	_, err := m.run(ctx, "network", "create", "lan", "--mode", "bridged", "--uplink", nettest.HostANIC, "--no-wait", "--confirm-within", within)
	return err
}

func (m mover) out(ctx context.Context) error {
	_, err := m.run(ctx, "network", "rm", "lan", "--no-wait")
	return err
}

// pending is the change that waits.
func (m mover) pending(ctx context.Context) (string, error) {
	changes, err := m.client.Changes(ctx)
	if err != nil {
		return "", err
	}
	if len(changes) != 1 || changes[0].Phase != "waiting" {
		return "", fmt.Errorf("no change waits: %+v", changes)
	}
	return changes[0].ID, nil
}

// decide confirms or cancels the change that waits.
func (m mover) decide(ctx context.Context, what func(context.Context, string) error) error {
	id, err := m.pending(ctx)
	if err != nil {
		return err
	}
	return what(ctx, id)
}

// over waits until a change is taken back.
func (m mover) over(ctx context.Context) error {
	for {
		changes, err := m.client.Changes(ctx)
		if err != nil || len(changes) == 0 {
			return err
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// count adds what is lost meanwhile to a row.
func (m mover) count(ctx context.Context, row *Row, pings int, do func() error) error {
	lost, err := lossless(ctx, m.lan, pings, do)
	row.Ours.Counted(Packets, float64(lost))
	return err
}

// kept moves the NIC in and out for good, with a TCP stream all the while.
func (m mover) kept(ctx context.Context, pings int, in, out, tcp *Row) error {
	stream, err := startStream(m.lan)
	if err != nil {
		return err
	}
	if err := m.count(ctx, in, pings, func() error { return m.in(ctx, "60s") }); err != nil {
		return err
	}
	if err := m.decide(ctx, m.client.Confirm); err != nil {
		return err
	}
	if err := m.count(ctx, out, pings, func() error { return m.out(ctx) }); err != nil {
		return err
	}
	if err := m.decide(ctx, m.client.Confirm); err != nil {
		return err
	}
	timeouts, err := stream.end()
	if err != nil {
		return err
	}
	tcp.Ours.Counted(Times, float64(timeouts))
	return nil
}

// alone moves the NIC in and out for good while nothing else goes on, and times the command.
func (m mover) alone(ctx context.Context, took *Row) error {
	if err := settled(ctx, m.lan, nettest.HostANIC); err != nil {
		return err
	}
	began := time.Now()
	if err := m.in(ctx, "60s"); err != nil {
		return err
	}
	if err := plugged(ctx, m.lan); err != nil {
		return err
	}
	took.Ours.Took(time.Since(began))
	if err := m.decide(ctx, m.client.Confirm); err != nil {
		return err
	}
	return errors.Join(m.out(ctx), m.decide(ctx, m.client.Confirm))
}

func bridgedOurs(ctx context.Context, b *Bench, in, out, back, expired, took, tcp *Row) (err error) {
	lan, err := newLAN(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lan.Close()) }()
	h, err := onLAN(ctx, b, lan)
	if err != nil {
		return err
	}
	defer func() { _ = h.stopDaemon(unix.SIGTERM); h.client.Close() }()
	m := mover{lan, h.client, h.run}
	for range b.runs(10, 1) {
		if err := m.alone(ctx, took); err != nil {
			return err
		}
		if err := m.kept(ctx, pingsEach, in, out, tcp); err != nil {
			return err
		}
		if err := m.count(ctx, back, pingsEach, func() error { return errors.Join(m.in(ctx, "60s"), m.decide(ctx, h.client.Cancel)) }); err != nil {
			return err
		}
		if err := m.count(ctx, expired, pingsEach, func() error { return errors.Join(m.in(ctx, "1s"), m.over(ctx)) }); err != nil {
			return err
		}
	}
	for _, row := range []*Row{in, out, back, expired} {
		row.Notes = append(row.Notes, fmt.Sprintf("of %d in each run", 4*pingsEach))
	}
	return nil
}

// echoing is a TCP connection from the machine to the host and back that never rests.
type echoing struct {
	lan    *nettest.LAN
	conn   net.Conn
	before int
	ended  chan error
}

func startStream(lan *nettest.LAN) (*echoing, error) {
	s := &echoing{lan: lan, ended: make(chan error, 1)}
	var ln net.Listener
	err := lan.HostA.Do(func() (err error) {
		ln, err = net.Listen("tcp", nettest.HostA4+":0")
		return err
	})
	if err != nil {
		return nil, err
	}
	go func() {
		defer ln.Close()
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c) // until the other end closes
	}()
	err = lan.Machine.Do(func() (err error) {
		s.conn, err = net.Dial("tcp", ln.Addr().String())
		return err
	})
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	if s.before, err = s.timeouts(); err != nil {
		return nil, err
	}
	go func() { s.ended <- s.echo() }()
	return s, nil
}

// echo sends small pieces, each once the one before came back, as a terminal does.
func (s *echoing) echo() error {
	piece, back := make([]byte, 1000), make([]byte, 1000)
	for i := 0; ; i++ {
		piece[0] = byte(i)
		if _, err := s.conn.Write(piece); err != nil {
			return err
		}
		if _, err := io.ReadFull(s.conn, back); err != nil {
			return err
		}
		if back[0] != piece[0] {
			return errors.New("the stream came back otherwise")
		}
	}
}

// end closes the stream and says how often a retransmission timer ran out.
func (s *echoing) end() (int, error) {
	after, err := s.timeouts()
	s.conn.Close()
	if broken := <-s.ended; !errors.Is(broken, net.ErrClosed) {
		err = errors.Join(err, fmt.Errorf("the stream broke: %w", broken))
	}
	return after - s.before, err
}

func (s *echoing) timeouts() (int, error) {
	sum := 0
	for _, n := range []*nettest.Node{s.lan.HostA, s.lan.Machine} {
		v, err := netstat(n, "TcpExt", "TCPTimeouts")
		if err != nil {
			return 0, err
		}
		sum += v
	}
	return sum, nil
}

// netstat reads one of the kernel's counts on a node.
func netstat(n *nettest.Node, group, name string) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/netstat", n.PID()))
	if err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != group+":" {
			continue
		}
		if names == nil {
			names = words
			continue
		}
		for i, w := range names {
			if w == name && i < len(words) {
				return strconv.Atoi(words[i])
			}
		}
	}
	return 0, fmt.Errorf("the kernel does not count %s %s", group, name)
}
