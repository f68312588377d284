package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"drawbridge/internal/nettest/dhcpload"
)

// paced is what guests saw of a server that is given a number of exchanges a second.
type paced struct{ rate, p50, p90, p99, retries Series }

// relaxed is the share of its best rate that the peer is given: at all of it, evenly spaced, guests
// would queue up before it without end.
const relaxed = 0.8

// mostWaiting bounds how many guests wait for an answer while exchanges begin at a rate.
const mostWaiting = 64

// equalLoads measures how long exchanges take when both sides are given what the peer can do at ease,
// new and known guests, and ours also ten times what the peer can do at best.
func (b *Bench) equalLoads(ctx context.Context, fresh, known float64) error {
	var same [2][2]paced // new and known, ours and the peer's
	var ten [2]paced
	for round := range b.runs(3, 1) {
		sides, err := newServers(ctx, b, fmt.Sprintf("pace%d", round))
		if err != nil {
			return err
		}
		for i, s := range []*server{sides.ours, sides.peer} {
			next := 0
			run := func(rate float64, again bool, into *paced) {
				if err == nil {
					next, err = b.pace(ctx, s, rate, next, again, into)
				}
			}
			run(200, false, new(paced)) // a warm-up, and a thousand that are known
			run(relaxed*fresh, false, &same[0][i])
			run(relaxed*known, true, &same[1][i])
			if i == 0 {
				run(10*fresh, false, &ten[0])
				run(10*known, true, &ten[1])
			}
		}
		if err := errors.Join(err, sides.Close()); err != nil {
			return err
		}
	}
	about := []string{"before ours offers an address that nobody had it asks by ARP who has it and waits 200 ms, for ten of them a second and 32 at once; " +
		"dnsmasq was told not to (--no-ping): by default it waits 3 s for each of the first six", "nobody is probed for; every renewal of ours is on the disk before its ACK leaves"}
	for k, name := range []string{"new clients", "known clients"} {
		ours, peer := same[k][0], same[k][1]
		b.add(Row{Work: "DHCP, " + name + ", 4/5 of the peer's best rate on both sides: p99 of an exchange", Ours: ours.p99, Peer: peer.p99, Target: noWorse(),
			Notes: []string{fmt.Sprintf("answered: ours %s, the peer %s; p50: %s, %s; p90: %s, %s; sent again: %.0f, %.0f",
				ours.rate, peer.rate, ours.p50, peer.p50, ours.p90, peer.p90, sum(ours.retries.Values), sum(peer.retries.Values)), about[k]}})
		b.add(Row{Work: "DHCP, " + name + ", ours at ten times the peer's best rate, the peer at 4/5 of it: p99", Ours: ten[k].p99, Peer: peer.p99,
			Notes: []string{fmt.Sprintf("answered: ours %s; p50 %s; sent again: %.0f", ten[k].rate, ten[k].p50, sum(ten[k].retries.Values))}})
	}
	return nil
}

// pace has new guests come at a rate for a while, from number next on, or the first thousand again.
func (b *Bench) pace(ctx context.Context, s *server, rate float64, next int, again bool, into *paced) (int, error) {
	var c *dhcpload.Client
	if err := s.guest.Do(func() (err error) {
		c, err = dhcpload.Open("eth0")
		return err
	}); err != nil {
		return next, err
	}
	defer c.Close()
	load := dhcpload.Load{First: next, Clients: 45000 - next, Rate: rate, InFlight: mostWaiting, Broadcast: true, Duration: 1500 * time.Millisecond}
	if next == 0 {
		load.Exchanges, load.Duration = 200, 5*time.Second
	}
	if again {
		load.First, load.Clients = 0, min(200, next-mostWaiting)
	}
	r, err := c.Run(ctx, load)
	if err != nil {
		return next, err
	}
	if r.Exchanges == 0 || r.Twice > 0 {
		return next, fmt.Errorf("%s: %s", s.node.Name, r)
	}
	b.say("%s: %.0f/s begun: %s", s.node.Name, rate, r)
	into.rate.Counted(Rate, r.PerSecond)
	into.p50.Took(r.P50)
	into.p90.Took(r.P90)
	into.p99.Took(r.P99)
	into.retries.Counted("messages", float64(r.Retries))
	if !again {
		next += r.Exchanges + mostWaiting
	}
	return next, nil
}
