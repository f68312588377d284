package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/host"
	"drawbridge/internal/ruleset"
)

// Attributes of NFT_MSG_TRACE (enum nft_trace_attributes) and types of events
// (enum nft_trace_types), from include/uapi/linux/netfilter/nf_tables.h.
const (
	nftaTraceTable     = 1
	nftaTraceChain     = 2
	nftaTraceHandle    = 3
	nftaTraceType      = 4
	nftaTraceVerdict   = 5
	nftaTraceID        = 6
	nftaTraceNetwork   = 8
	nftaTraceTransport = 9
	nftaTracePolicy    = 16

	traceByPolicy = 1
	traceByRule   = 3

	groupTrace = 9  // NFNLGRP_NFTRACE
	msgTrace   = 17 // NFT_MSG_TRACE

	tableDiesWithUs = 2 // NFT_TABLE_F_OWNER: the kernel deletes it with the socket
)

// traceTable is where packets are marked for tracing. priorityFirst is before
// everything but defragmentation (-400).
const (
	traceTable    = "drawbridge-probe"
	priorityFirst = -350
)

// tracePatience is how long a packet's first event is waited for, traceQuiet how
// long after its last one.
const (
	tracePatience = 1500 * time.Millisecond
	traceQuiet    = 150 * time.Millisecond
)

// tracer marks packets of one connection for nftables' tracing, and reads what
// the kernel tells about them.
type tracer struct {
	rules  *nftSocket
	events *netlink.Conn
	of     diagnose.Packet
}

// newTracer begins to trace. The table that marks belongs to the socket: the
// kernel deletes it when that is closed, however this process ends.
func newTracer(p diagnose.Packet) (t *tracer, err error) {
	t = &tracer{of: p}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	if t.events, err = netlink.Dial(unix.NETLINK_NETFILTER, nil); err != nil {
		return t, fmt.Errorf("open netfilter netlink socket: %w", err)
	}
	if err = t.events.JoinGroup(groupTrace); err != nil {
		return t, fmt.Errorf("subscribe to nftables traces: %w", err)
	}
	if t.rules, err = dialNFT(); err != nil {
		return t, err
	}
	b := &nftBatch{tableFlags: tableDiesWithUs}
	for _, where := range []struct {
		family host.Family
		hooks  []string
	}{{host.FamilyInet, []string{"prerouting", "output"}}, {host.FamilyBridge, []string{"prerouting"}}} {
		table := host.Table{Family: where.family, Name: traceTable}
		b.newTable(table)
		for _, hook := range where.hooks {
			if err = b.traceChain(table, hook, p); err != nil {
				return t, err
			}
		}
	}
	if err = t.rules.transact(b.msgs); err != nil {
		return t, fmt.Errorf("trace a packet: %w", err)
	}
	return t, nil
}

func (t *tracer) close() {
	if t.rules != nil {
		_ = t.rules.close()
	}
	if t.events != nil {
		_ = t.events.Close()
	}
}

// traceChain marks the packet's connection at a hook.
func (b *nftBatch) traceChain(table host.Table, hook string, p diagnose.Packet) error {
	c := host.Chain{Table: table, Name: hook, Type: "filter", Hook: hook, Priority: priorityFirst}
	base := putNest(nil, unix.NFTA_CHAIN_HOOK, putU32(putU32(nil, unix.NFTA_HOOK_HOOKNUM, hookNumbers[hook]), unix.NFTA_HOOK_PRIORITY, uint32(int32(c.Priority))))
	base = putText(putU32(base, unix.NFTA_CHAIN_POLICY, policyAccept), unix.NFTA_CHAIN_TYPE, c.Type)
	b.onChain(unix.NFT_MSG_NEWCHAIN, c, base)
	ip := "ip"
	if p.Source.Is6() {
		ip = "ip6"
	}
	rule, err := compileRule(table.Family, fmt.Sprintf("%s saddr %s %s daddr %s counter", ip, p.Source, ip, p.Target), func(string) (*nftSet, error) { return nil, errors.New("no sets") })
	if err != nil {
		return err
	}
	rule.exprs = append(rule.exprs, &expr.Immediate{Register: 1, Data: []byte{1}}, &expr.Meta{Key: expr.MetaKeyNFTRACE, SourceRegister: true, Register: 1})
	exprs, err := rule.expressions(table.Family)
	if err != nil {
		return err
	}
	attrs := putText(putText(nil, unix.NFTA_RULE_TABLE, table.Name), unix.NFTA_RULE_CHAIN, c.Name)
	b.add(unix.NFT_MSG_NEWRULE, table.Family, netlink.Create|netlink.Append, putNest(attrs, unix.NFTA_RULE_EXPRESSIONS, exprs), "mark a packet for tracing")
	return nil
}

// follow reads what the kernel tells, until it tells no more.
func (t *tracer) follow(ctx context.Context) ([]diagnose.TraceStep, error) {
	var steps []diagnose.TraceStep
	deadline := time.Now().Add(tracePatience)
	var id uint32
	for ctx.Err() == nil {
		if err := t.events.SetReadDeadline(deadline); err != nil {
			return steps, err
		}
		msgs, err := t.events.Receive()
		if err != nil {
			var timeout interface{ Timeout() bool }
			if errors.As(err, &timeout) && timeout.Timeout() {
				return steps, nil
			}
			return steps, fmt.Errorf("read nftables traces: %w", err)
		}
		for _, m := range msgs {
			if m.Header.Type != nftType(msgTrace) || len(m.Data) < 4 {
				continue
			}
			f := fieldsOf(m.Data[4:])
			// One packet, by its ports: others between the same two may pass by. The
			// first: who gets an answer to what it never asked for resets the connection.
			if id == 0 && len(f[nftaTraceTransport]) >= 4 && hasProbe(f[nftaTraceTransport], t.of) {
				id = f.u32(nftaTraceID)
			}
			if id == 0 || f.u32(nftaTraceID) != id || f.text(nftaTraceTable) == traceTable {
				continue
			}
			if step, ok := decodeTrace(m.Data[0], &f); ok {
				steps = append(steps, step)
			}
			deadline = time.Now().Add(traceQuiet)
		}
	}
	return steps, ctx.Err()
}

// hasProbe says whether a transport header is the probe's: by its ports, or by
// the identifier of a ping.
func hasProbe(b []byte, p diagnose.Packet) bool {
	switch p.Protocol {
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return len(b) >= 8 && binary.BigEndian.Uint16(b[4:]) == probeID
	}
	return binary.BigEndian.Uint16(b) == p.SourcePort && binary.BigEndian.Uint16(b[2:]) == p.TargetPort
}

func decodeTrace(family byte, f *fields) (diagnose.TraceStep, bool) {
	verdict, _ := find(f[nftaTraceVerdict], unix.NFTA_VERDICT_CODE)
	step := diagnose.TraceStep{
		Family: familyWords[family], Table: f.text(nftaTraceTable), Chain: f.text(nftaTraceChain), Handle: f.u64(nftaTraceHandle),
		Verdict: ruleset.VerdictKind(int32(verdict.u32())),
	}
	switch f.u32(nftaTraceType) {
	case traceByPolicy:
		step.Verdict, step.Policy = ruleset.VerdictKind(int32(f.u32(nftaTracePolicy))), true
	case traceByRule:
	default:
		return step, false // the end of a chain that was jumped to
	}
	if b := f[nftaTraceNetwork]; len(b) >= 20 && b[0]>>4 == 4 {
		step.Source, _ = netip.AddrFromSlice(b[12:16])
		step.Target, _ = netip.AddrFromSlice(b[16:20])
	} else if len(b) >= 40 && b[0]>>4 == 6 {
		step.Source, _ = netip.AddrFromSlice(b[8:24])
		step.Target, _ = netip.AddrFromSlice(b[24:40])
	}
	return step, true
}
