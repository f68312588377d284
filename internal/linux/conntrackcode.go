package linux

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Numbers of linux/netfilter/nfnetlink_conntrack.h and nf_conntrack_common.h.
const (
	ctNew    = 0 // IPCTNL_MSG_CT_NEW
	ctGet    = 1 // IPCTNL_MSG_CT_GET
	ctDelete = 2 // IPCTNL_MSG_CT_DELETE

	ctGroupNew     = 1 // NFNLGRP_CONNTRACK_NEW
	ctGroupDestroy = 3 // NFNLGRP_CONNTRACK_DESTROY

	ctaTupleOrig     = 1
	ctaTupleReply    = 2
	ctaStatus        = 3
	ctaCountersOrig  = 9
	ctaCountersReply = 10
	ctaMark          = 8
	ctaID            = 12
	ctaZone          = 18
	ctaFilter        = 25
	ctaStatusMask    = 26

	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaTupleZone  = 3

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3
	ctaProtoICMP    = 4 // CTA_PROTO_ICMP_ID, then _TYPE and _CODE
	ctaProtoICMPv6  = 7 // the same

	ctaCountersPackets = 1
	ctaCountersBytes   = 2

	statusDNAT = 1 << 5 // IPS_DST_NAT
)

// Flags of CTA_FILTER_ORIG_FLAGS and _REPLY_FLAGS: which parts of a tuple count
// (net/netfilter/nf_internals.h).
const (
	filterSrc     = 1 << 0
	filterDst     = 1 << 1
	filterProto   = 1 << 3
	filterDstPort = 1 << 5
)

func ctType(kind uint16) netlink.HeaderType {
	return netlink.HeaderType(unix.NFNL_SUBSYS_CTNETLINK<<8 | kind)
}

// errnoOf reads the number that an error message or the end of a listing begins
// with.
func errnoOf(b []byte) error {
	if len(b) < 4 {
		return errCut
	}
	if n := int32(binary.NativeEndian.Uint32(b)); n < 0 {
		return unix.Errno(-n)
	}
	return nil
}

func nativeU32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// tupleFilter collects what one direction of a flow must have.
type tupleFilter struct {
	ip, proto []byte
	flags     uint32
}

func (t *tupleFilter) add(a netip.Addr, kind uint16, flag uint32) {
	if a.IsValid() && !a.IsUnspecified() {
		t.ip = put(t.ip, kind, a.AsSlice())
		t.flags |= flag
	}
}

func (t *tupleFilter) tuple() []byte {
	var b []byte
	if t.ip != nil {
		b = putNest(b, ctaTupleIP, t.ip)
	}
	if t.proto != nil {
		b = putNest(b, ctaTupleProto, t.proto)
	}
	return b
}

// encodeCut names a flow as IPCTNL_MSG_CT_DELETE wants it.
func encodeCut(f Flow) (family byte, attrs []byte) {
	src, dst := uint16(ctaIPv4Src), uint16(ctaIPv4Dst)
	if family = unix.AF_INET; !f.Src.Addr().Is4() {
		family, src, dst = unix.AF_INET6, ctaIPv6Src, ctaIPv6Dst
	}
	ip := put(put(nil, src, f.Src.Addr().AsSlice()), dst, f.Dst.Addr().AsSlice())
	proto := put(nil, ctaProtoNum, []byte{f.Proto})
	here, there := binary.BigEndian.AppendUint16(nil, f.Src.Port()), binary.BigEndian.AppendUint16(nil, f.Dst.Port())
	switch f.Proto {
	case unix.IPPROTO_ICMP:
		proto = put(put(put(proto, ctaProtoICMP, here), ctaProtoICMP+1, there[:1]), ctaProtoICMP+2, there[1:])
	case unix.IPPROTO_ICMPV6:
		proto = put(put(put(proto, ctaProtoICMPv6, here), ctaProtoICMPv6+1, there[:1]), ctaProtoICMPv6+2, there[1:])
	default:
		proto = put(put(proto, ctaProtoSrcPort, here), ctaProtoDstPort, there)
	}
	tuple := putNest(putNest(nil, ctaTupleIP, ip), ctaTupleProto, proto)
	return family, putU32(putNest(nil, ctaTupleOrig, tuple), ctaID, f.ID)
}

// decodeFlow reads a message about a flow; false for what is none, or of another
// zone than the default.
func decodeFlow(b []byte) (Flow, bool) {
	e, ok := decodeEntry(b)
	return e.Flow, ok
}

func decodeEntry(b []byte) (f entry, ok bool) {
	if len(b) < 4 {
		return f, false
	}
	ok = true
	for a := range nftAttrs(b[4:]) {
		switch a.kind {
		case ctaTupleOrig:
			f.Proto, f.Src, f.Dst, ok = decodeTuple(a.data)
		case ctaTupleReply:
			_, f.ReplySrc, f.ReplyDst, ok = decodeTuple(a.data)
		case ctaStatus:
			f.status = a.u32()
			f.DNAT = f.status&statusDNAT != 0
		case ctaMark:
			f.mark = a.u32()
		case ctaID:
			f.ID = a.u32()
		case ctaZone:
			return f, false
		case ctaCountersOrig, ctaCountersReply:
			for c := range nftAttrs(a.data) {
				switch c.kind {
				case ctaCountersPackets:
					f.Packets += c.u64()
				case ctaCountersBytes:
					f.Bytes += c.u64()
				}
			}
		}
		if !ok {
			return f, false
		}
	}
	return f, f.Src.IsValid() && f.ReplySrc.IsValid()
}

func decodeTuple(b []byte) (proto uint8, src, dst netip.AddrPort, ok bool) {
	var from, to netip.Addr
	var sport, dport uint16
	for a := range nftAttrs(b) {
		switch a.kind {
		case ctaTupleIP:
			for ip := range nftAttrs(a.data) {
				switch ip.kind {
				case ctaIPv4Src, ctaIPv6Src:
					from, _ = netip.AddrFromSlice(ip.data)
				case ctaIPv4Dst, ctaIPv6Dst:
					to, _ = netip.AddrFromSlice(ip.data)
				}
			}
		case ctaTupleProto:
			for p := range nftAttrs(a.data) {
				switch {
				case p.kind == ctaProtoNum && len(p.data) >= 1:
					proto = p.data[0]
				case len(p.data) >= 2 && (p.kind == ctaProtoSrcPort || p.kind == ctaProtoICMP || p.kind == ctaProtoICMPv6):
					sport = binary.BigEndian.Uint16(p.data)
				case len(p.data) >= 2 && p.kind == ctaProtoDstPort:
					dport = binary.BigEndian.Uint16(p.data)
				case len(p.data) >= 1 && (p.kind == ctaProtoICMP+1 || p.kind == ctaProtoICMPv6+1):
					dport |= uint16(p.data[0]) << 8
				case len(p.data) >= 1 && (p.kind == ctaProtoICMP+2 || p.kind == ctaProtoICMPv6+2):
					dport |= uint16(p.data[0])
				}
			}
		case ctaTupleZone:
			return 0, src, dst, false
		}
	}
	return proto, netip.AddrPortFrom(from, sport), netip.AddrPortFrom(to, dport), from.IsValid() && to.IsValid()
}
