package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

func flushGroup() Group {
	return Group{"flush", "Rules after `nft flush ruleset`", `
` + "`nft -s list ruleset`" + ` is taken, the ruleset flushed by nft, and listed by nft again and again until it is what it was. The time is
from starting the flush to the end of the first listing that is equal, so it contains both processes' own time. On kernels that have tables
which belong to a process and outlive it (6.9) ours pass the flush by; the rows without "as installed" are of a daemon that was told to leave its
tables open, as they are on older kernels.`, runFlush}
}

func runFlush(ctx context.Context, b *Bench) (err error) {
	peer, err := newPeer(ctx, b, "peer-flush", "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, peer.Close()) }()
	if err := peer.define(ctx, 1); err != nil {
		return err
	}
	if _, err := peer.run(ctx, "net-start", "n0"); err != nil {
		return err
	}
	const patience = 5 * time.Second
	took, back, err := flushed(ctx, peer, patience)
	if err != nil {
		return err
	}
	said, theirs := fmt.Sprintf("not within %s", patience), Series{}
	if back {
		theirs.Took(took)
	}
	peerRow := Row{Peer: theirs, PeerSaid: said, Target: below(100, Millis)}
	return errors.Join(
		flushOurs(ctx, b, "put back after a flush, %d networks", peerRow, "--own-tables=false"),
		flushOurs(ctx, b, "the same as installed, %d networks", peerRow),
	)
}

// flushOurs adds a row like the given one for few and for many networks.
func flushOurs(ctx context.Context, b *Bench, work string, row Row, flags ...string) (err error) {
	ours, err := newOurs(ctx, b, "ours-flush", flags...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.Close()) }()
	for _, n := range []int{1, b.runs(fleet, 5)} {
		if _, err := ours.feed(ctx, document(n), "apply", "-f", "-"); err != nil {
			return err
		}
		var s Series
		for range b.runs(9, 2) {
			took, back, err := flushed(ctx, ours, 20*time.Second)
			if err != nil {
				return err
			}
			if !back {
				return errors.New("the rules did not come back within 20 s")
			}
			s.Took(took)
			// A program that flushes again and again is met by waiting; here it is to be a new event.
			if err := sleep(ctx, 2*time.Second); err != nil {
				return err
			}
		}
		row.Work, row.Ours = fmt.Sprintf(work, n), s
		b.add(row)
	}
	return nil
}

func flushed(ctx context.Context, h *Host, patience time.Duration) (took time.Duration, back bool, err error) {
	list := func() (string, error) { return h.node.Run(ctx, "nft", "-s", "list", "ruleset") }
	before, err := list()
	if err != nil {
		return 0, false, err
	}
	if len(strings.Fields(before)) < 20 {
		return 0, false, fmt.Errorf("there are no rules before the flush: %q", before)
	}
	began := time.Now()
	if _, err := h.node.Run(ctx, "nft", "flush", "ruleset"); err != nil {
		return 0, false, err
	}
	for time.Since(began) < patience {
		now, err := list()
		if err != nil {
			return 0, false, err
		}
		if now == before {
			return time.Since(began), true, nil
		}
	}
	return 0, false, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
