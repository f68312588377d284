package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"drawbridge/internal/nettest"
)

// bridgedFloor has iproute2 move the NIC with as few steps as there can be: what the kernel, and
// the start of a process, take of a command.
func bridgedFloor(ctx context.Context, b *Bench) (row Row, err error) {
	row = Row{Work: "the kernel's steps by one ip -batch, nothing else"}
	lan, err := newLAN(ctx)
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, lan.Close()) }()
	mac, err := lan.HostA.Run(ctx, "cat", "/sys/class/net/"+nettest.HostANIC+"/address")
	if err != nil {
		return row, err
	}
	// Addresses and routes come to one link and then go from the other.
	carry := func(from, to string) []string {
		const v4, v6 = nettest.HostA4 + "/24 dev ", nettest.HostA6 + "/64 dev "
		return []string{
			"addr add " + v4 + to, "addr add " + v6 + to + " nodad",
			"route replace 0.0.0.0/0 via " + nettest.Router4 + " dev " + to, "route replace ::/0 via " + nettest.Router6 + " dev " + to,
			"addr del " + v4 + from, "addr del " + v6 + from,
		}
	}
	in := []string{"link add br0 address " + strings.TrimSpace(mac) + " type bridge stp_state 0 forward_delay 0", "link set br0 up", "link set " + nettest.HostANIC + " master br0"}
	in = append(in, carry(nettest.HostANIC, "br0")...)
	out := append(carry("br0", nettest.HostANIC), "link set "+nettest.HostANIC+" nomaster", "link del br0")
	least, most := 0, 0
	for i := range b.runs(10, 1) {
		began := time.Now()
		if err := lan.HostA.IP(ctx, in...); err != nil {
			return row, err
		}
		row.Ours.Took(time.Since(began))
		if err := errors.Join(lan.HostA.IP(ctx, out...), settled(ctx, lan, nettest.HostANIC)); err != nil {
			return row, err
		}
		lost, err := lossless(ctx, lan, pingsEach, func() error { return lan.HostA.IP(ctx, in...) })
		if err != nil {
			return row, err
		}
		if i == 0 {
			least, most = lost, lost
		}
		least, most = min(least, lost), max(most, lost)
		if err := errors.Join(lan.HostA.IP(ctx, out...), settled(ctx, lan, nettest.HostANIC)); err != nil {
			return row, err
		}
	}
	row.Notes = append(row.Notes, fmt.Sprintf("it loses %d–%d packets of %d, has no way back and checks nothing", least, most, 4*pingsEach))
	return row, nil
}
