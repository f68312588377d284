package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

func networkGroup() Group {
	return Group{"network", "One NAT network", `
Ours is ` + "`drawbridge network create lab`" + `, which chooses a free subnet and a bridge name, defines and starts; the peer's network
is defined already, so that ` + "`virsh net-start`" + ` only starts it. Then both are stopped. The hosts have no other networks and no
other rules. Debian 12's libvirt knows iptables only; it is measured with Debian's default, iptables on nf_tables, and with
iptables-legacy, where the kernel has that.`, runNetwork}
}

const legacyIptables = "/usr/sbin/xtables-legacy-multi"

func runNetwork(ctx context.Context, b *Bench) (err error) {
	ours, err := newOurs(ctx, b, "ours-network")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.Close()) }()
	peer, err := newPeer(ctx, b, "peer-network", "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, peer.Close()) }()
	peers := []*Host{peer}
	if _, err := os.Stat(legacyIptables); err == nil {
		legacy, err := newPeer(ctx, b, "legacy-network", legacyIptables)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, legacy.Close()) }()
		if out, err := legacy.node.Run(ctx, "iptables", "-V"); err == nil {
			b.say("a second peer uses %s", strings.TrimSpace(out))
			peers = append(peers, legacy)
		}
	}
	for _, p := range peers {
		if err := p.define(ctx, 1); err != nil {
			return err
		}
	}
	var create, again, stop Series
	start, destroy := make([]Series, len(peers)), make([]Series, len(peers))
	for round := range 1 + b.runs(15, 2) {
		if round == 1 { // the first warms caches
			create, again, stop = Series{}, Series{}, Series{}
			clear(start)
			clear(destroy)
		}
		for i, p := range peers {
			if err := timed(ctx, p, []string{"net-start", "n0"}, &start[i]); err != nil {
				return err
			}
			if err := timed(ctx, p, []string{"net-destroy", "n0"}, &destroy[i]); err != nil {
				return err
			}
		}
		err := errors.Join(
			timed(ctx, ours, []string{"network", "create", "lab"}, &create),
			timed(ctx, ours, []string{"network", "stop", "lab"}, &stop),
			timed(ctx, ours, []string{"network", "start", "lab"}, &again),
			timed(ctx, ours, []string{"network", "stop", "lab"}, &stop),
			timed(ctx, ours, []string{"network", "rm", "lab"}, new(Series)))
		if err != nil {
			return err
		}
	}
	b.add(Row{Work: "create and start a network", Ours: create, Peer: start[0], Target: faster(10)})
	b.add(Row{Work: "start a network that is defined", Ours: again, Peer: start[0]})
	b.add(Row{Work: "stop it", Ours: stop, Peer: destroy[0], Target: faster(4),
		Notes: []string{"deleting one bridge takes the kernel 44–53 ms, which neither side can avoid"}})
	if len(peers) > 1 {
		b.add(Row{Work: "create and start, peer with iptables-legacy", Ours: create, Peer: start[1]})
		b.add(Row{Work: "stop it, peer with iptables-legacy", Ours: stop, Peer: destroy[1]})
	}
	return b.bareBridge(ctx, ours)
}

// bareBridge measures what the kernel alone takes to delete a bridge that is up.
func (b *Bench) bareBridge(ctx context.Context, h *Host) error {
	var s Series
	for range b.runs(15, 2) {
		err := h.node.IP(ctx, "link add name bare type bridge forward_delay 0", "addr add 10.255.0.1/24 dev bare", "link set bare up")
		if err != nil {
			return err
		}
		err = h.node.Do(func() error { return deleteLink("bare", &s) })
		if err != nil {
			return err
		}
	}
	b.add(Row{Work: "one RTM_DELLINK of a bridge, nothing else", Ours: s, Notes: []string{"the kernel's share of stopping a network"}})
	return nil
}

func timed(ctx context.Context, h *Host, args []string, into *Series) error {
	took, err := h.run(ctx, args...)
	if err != nil {
		return fmt.Errorf("%s: %w", h.node.Name, err)
	}
	into.Took(took)
	return nil
}
