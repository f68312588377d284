package linux

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// nftEvent says that somebody else changed nftables, ours or not: look again.
type nftEvent struct {
	// Generation is the number of the transaction.
	Generation uint32
	// PID is the thread that sent the transaction, 0 if unknown; Process is its
	// name, at most 15 bytes ("nft", "dockerd", "firewalld").
	PID     uint32
	Process string
	// Lost says that there were changes that nothing is known of, because they
	// came faster than they were read.
	Lost bool
}

// watchBuffer is how many events wait for a slow reader.
const watchBuffer = 64

// watch announces transactions of others until ctx ends; then the channel is
// closed. Our own, those of this adapter, are left out. Reading from the kernel
// never waits for the receiver: what it does not take in time becomes one event
// with Lost.
func (a *nftAdapter) watch(ctx context.Context) (<-chan nftEvent, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink socket: %w", err)
	}
	if err := onlyGenerations(conn); err != nil {
		_ = conn.Close()
		return nil, err
	}
	events := make(chan nftEvent, watchBuffer)
	stop := context.AfterFunc(ctx, sync.OnceFunc(func() { _ = conn.Close() }))
	go func() {
		defer close(events)
		defer stop()
		a.pump(ctx, conn, events)
	}()
	return events, nil
}

// onlyGenerations subscribes to the end of each transaction and to nothing
// else: 30 000 new elements are then one message and not 30 000.
func onlyGenerations(conn *netlink.Conn) error {
	filter, err := bpf.Assemble([]bpf.Instruction{
		// nlmsg_type, which is in the processor's byte order while BPF loads
		// big endian: compare the two bytes one by one.
		bpf.LoadAbsolute{Off: 4, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: swapped(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN), SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 0xffffffff},
	})
	if err != nil {
		return fmt.Errorf("assemble filter for nftables events: %w", err)
	}
	if err := conn.SetBPF(filter); err != nil {
		return fmt.Errorf("filter nftables events: %w", err)
	}
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("subscribe to nftables events: %w", err)
	}
	return nil
}

// swapped is v as BPF sees it after a two byte load.
func swapped(v uint16) uint32 {
	if isLittleEndian {
		v = v<<8 | v>>8
	}
	return uint32(v)
}

// pump reads events until ctx ends or the socket breaks, which is one last
// event with Lost.
func (a *nftAdapter) pump(ctx context.Context, conn *netlink.Conn, events chan<- nftEvent) {
	mine := a.sock.port()
	lost := false
	offer := func(e nftEvent) {
		e.Lost = e.Lost || lost
		select {
		case events <- e:
			lost = false
		default:
			// The receiver has watchBuffer events to take, and looks again after
			// each of them: it misses nothing but the name.
			lost = true
		}
	}
	for {
		msgs, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, unix.ENOBUFS):
			offer(nftEvent{Lost: true})
			continue
		case err != nil:
			offer(nftEvent{Lost: true})
			_ = conn.Close()
			return
		}
		for _, m := range msgs {
			if m.Header.Type == nftType(unix.NFT_MSG_NEWGEN) && m.Header.PID != mine {
				offer(decodeGeneration(m.Data))
			}
		}
	}
}

func decodeGeneration(b []byte) nftEvent {
	var e nftEvent
	if len(b) < 4 {
		return nftEvent{Lost: true}
	}
	for at := range nftAttrs(b[4:]) {
		switch at.kind {
		case unix.NFTA_GEN_ID:
			e.Generation = at.u32()
		case unix.NFTA_GEN_PROC_PID:
			e.PID = at.u32()
		case unix.NFTA_GEN_PROC_NAME:
			e.Process = at.text()
		}
	}
	return e
}
