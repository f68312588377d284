package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const fleet = 100 // networks

// rest is how long after starting them memory is measured.
const rest = 3 * time.Second

func manyGroup() Group {
	return Group{"many", "A hundred networks", `
Ours are started by ` + "`drawbridge up`" + ` and stopped by ` + "`drawbridge down`" + `, each one command and one change; ` + "`drawbridge apply`" + ` makes them from
nothing. The peer's are defined already and are started and stopped in two ways: by a loop of virsh commands, and by one virsh
that reads a hundred commands from standard input. The faster median of the two is the peer's figure. Memory is that of all processes of each side (ours: daemon and guest services; the peer:
libvirtd and two dnsmasq processes for each network) while the hundred run, three seconds after they were started: the proportional set size (PSS), in which a page shared
by several processes counts once, and the plain sum of resident set sizes (RSS), in which it counts for each.`, runMany}
}

func runMany(ctx context.Context, b *Bench) error {
	n := b.runs(fleet, 5)
	var apply, up, down, ourPSS, ourRSS Series
	ours, err := newOurs(ctx, b, "ours-many")
	if err != nil {
		return err
	}
	alone, _, _, err := ours.memory()
	if err != nil {
		return errors.Join(err, ours.Close())
	}
	b.say("ours: %d networks", n)
	for range b.runs(5, 2) {
		took, err := ours.feed(ctx, document(n), "apply", "-f", "-")
		if err != nil {
			return errors.Join(err, ours.Close())
		}
		apply.Took(took)
		if err := sleep(ctx, rest); err != nil {
			return errors.Join(err, ours.Close())
		}
		pss, rss, _, err := ours.memory()
		if err != nil {
			return errors.Join(err, ours.Close())
		}
		ourPSS.Counted(MiB, pss)
		ourRSS.Counted(MiB, rss)
		err = errors.Join(
			timed(ctx, ours, []string{"down"}, &down),
			timed(ctx, ours, []string{"up"}, &up),
			timed(ctx, ours, []string{"down"}, &down))
		if err == nil {
			_, err = ours.feed(ctx, "networks: []\n", "apply", "-f", "-")
		}
		if err != nil {
			return errors.Join(err, ours.Close())
		}
	}
	if err := ours.Close(); err != nil {
		return err
	}
	peer, err := newPeer(ctx, b, "peer-many", "")
	if err != nil {
		return err
	}
	p, err := peerMany(ctx, b, peer, n)
	if err := errors.Join(err, peer.Close()); err != nil {
		return err
	}
	started := fmt.Sprintf("the peer by a loop of commands: %s; by one virsh: %s", p.startLoop, p.startOne)
	b.add(Row{Work: fmt.Sprintf("start %d networks (up)", n), Ours: up, Peer: p.startBest(), Target: faster(20), Notes: []string{started}})
	b.add(Row{Work: fmt.Sprintf("define and start %d networks (apply)", n), Ours: apply, Peer: p.startBest(), Target: faster(20)})
	b.add(Row{Work: fmt.Sprintf("stop %d networks (down)", n), Ours: down, Peer: p.stopBest(), Target: faster(20),
		Notes: []string{fmt.Sprintf("the peer by a loop of commands: %s; by one virsh: %s", p.stopLoop, p.stopOne)}})
	b.add(Row{Work: fmt.Sprintf("memory (PSS) with %d networks", n), Ours: ourPSS, Peer: p.pss, Target: smaller(6),
		Notes: []string{fmt.Sprintf("the peer's %d processes share most of theirs; without a network our daemon has %s; of the program's file counts what is mapped, and ours let go of it at rest: "+
			"it stays in the page cache", p.processes, figure(alone, MiB))}})
	b.add(Row{Work: fmt.Sprintf("memory (sum of RSS) with %d networks", n), Ours: ourRSS, Peer: p.rss, Target: smaller(6)})
	return b.bareGroup(ctx, n)
}

type peerFleet struct {
	startLoop, stopLoop, startOne, stopOne, pss, rss Series
	processes                                        int
}

func best(a, b Series) Series {
	if b.Median() < a.Median() {
		return b
	}
	return a
}

func (p peerFleet) startBest() Series { return best(p.startLoop, p.startOne) }
func (p peerFleet) stopBest() Series  { return best(p.stopLoop, p.stopOne) }

func peerMany(ctx context.Context, b *Bench, h *Host, n int) (peerFleet, error) {
	var p peerFleet
	if err := h.define(ctx, n); err != nil {
		return p, err
	}
	one := func(verb string, s *Series) error {
		var lines strings.Builder
		for i := range n {
			fmt.Fprintf(&lines, "%s n%d\n", verb, i)
		}
		took, err := h.feed(ctx, lines.String())
		s.Took(took)
		return err
	}
	for range b.runs(2, 1) {
		b.say("the peer: %d networks by one virsh", n)
		if err := one("net-start", &p.startOne); err != nil {
			return p, err
		}
		if err := sleep(ctx, rest); err != nil {
			return p, err
		}
		pss, rss, processes, err := h.memory()
		if err != nil {
			return p, err
		}
		p.pss.Counted(MiB, pss)
		p.rss.Counted(MiB, rss)
		p.processes = processes
		if err := one("net-destroy", &p.stopOne); err != nil {
			return p, err
		}
	}
	b.say("the peer: %d networks by a loop of commands", n)
	began := time.Now()
	for i := range n {
		if _, err := h.run(ctx, "net-start", fmt.Sprintf("n%d", i)); err != nil {
			return p, err
		}
	}
	p.startLoop.Took(time.Since(began))
	began = time.Now()
	for i := range n {
		if _, err := h.run(ctx, "net-destroy", fmt.Sprintf("n%d", i)); err != nil {
			return p, err
		}
	}
	p.stopLoop.Took(time.Since(began))
	return p, nil
}

// bareGroup measures what the kernel alone takes to delete as many bridges in one message.
func (b *Bench) bareGroup(ctx context.Context, n int) (err error) {
	h, err := newOurs(ctx, b, "ours-bare")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	var s Series
	for range b.runs(5, 2) {
		var lines []string
		for i := range n {
			lines = append(lines, fmt.Sprintf("link add name bare%d group 77 type bridge forward_delay 0", i),
				fmt.Sprintf("addr add 10.80.%d.1/24 dev bare%d", i, i), fmt.Sprintf("link set bare%d up", i))
		}
		if err := h.node.IP(ctx, lines...); err != nil {
			return err
		}
		if err := h.node.Do(func() error { return deleteGroup(77, &s) }); err != nil {
			return err
		}
	}
	b.add(Row{Work: fmt.Sprintf("one RTM_DELLINK of %d bridges, nothing else", n), Ours: s, Notes: []string{"the kernel's share of stopping them: it waits for a grace period for each (rcu_barrier in br_multicast_dev_del), " +
		"and no less when they are first set down or emptied, have no multicast snooping, or are deleted by several sockets at the same time"}})
	return nil
}

// deleteLink deletes a link by name with one netlink message and times it.
func deleteLink(name string, s *Series) error {
	return deleteBy(unix.IFLA_IFNAME, append([]byte(name), 0), s)
}

// deleteGroup deletes all links of a link group with one netlink message and times it.
func deleteGroup(group byte, s *Series) error {
	return deleteBy(unix.IFLA_GROUP, []byte{group, 0, 0, 0}, s)
}
