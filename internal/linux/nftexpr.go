package linux

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"drawbridge/internal/ruleset"
)

// Numbers that golang.org/x/sys/unix lacks; include/uapi/linux/netfilter/nf_tables.h.
const (
	nftaBitwiseOp    = 6
	nftaBitwiseData  = 7
	nftaBitwiseSreg2 = 8
	nftaTableHandle  = 4
)

// fields are the attributes of one expression, by number.
type fields [32][]byte

func fieldsOf(b []byte) (f fields) {
	f.fill(b)
	return f
}

// fill reads attributes in place of those that were read before. A copy of all
// fields is 768 bytes, which counts with a hundred thousand expressions.
func (f *fields) fill(b []byte) {
	clear(f[:])
	for a := range nftAttrs(b) {
		if int(a.kind) < len(f) {
			f[a.kind] = a.data
		}
	}
}

func (f *fields) u32(i int) uint32  { return attr{data: f[i]}.u32() }
func (f *fields) u64(i int) uint64  { return attr{data: f[i]}.u64() }
func (f *fields) text(i int) string { return cString(f[i]) }
func (f *fields) num(i int) int     { return int(f.u32(i)) }

func (f *fields) u16(i int) uint16 {
	if len(f[i]) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(f[i])
}

// value is the bytes of a struct nft_data.
func (f *fields) value(i int) []byte {
	v, _ := find(f[i], unix.NFTA_DATA_VALUE)
	return v.data
}

// reg is the offset of a register: NFT_REG_1 to 4 are of 16 bytes, NFT_REG32_00
// and on of 4.
func (f *fields) reg(i int) int {
	n := f.num(i)
	switch {
	case f[i] == nil, n < unix.NFT_REG_1:
		return ruleset.NoRegister
	case n < unix.NFT_REG32_00:
		return (n - unix.NFT_REG_1) * 16
	}
	return (n - unix.NFT_REG32_00) * 4
}

func decodeVerdict(b []byte) ruleset.Verdict {
	code, _ := find(b, unix.NFTA_VERDICT_CODE)
	chain, _ := find(b, unix.NFTA_VERDICT_CHAIN)
	return ruleset.Verdict{Kind: ruleset.VerdictKind(int32(code.u32())), Chain: chain.text()}
}

// decodeExprs reads the expressions of a rule; sets finds those that it names.
func decodeExprs(b []byte, sets map[string]*ruleset.Set) []ruleset.Expr {
	out := make([]ruleset.Expr, 0, 8)
	var f fields
	for one := range nftAttrs(b) {
		out = append(out, decodeExpr(one.data, &f, sets))
	}
	return out
}

// decodeExpr reads one; f is room for its attributes.
func decodeExpr(b []byte, f *fields, sets map[string]*ruleset.Set) ruleset.Expr {
	name, _ := find(b, unix.NFTA_EXPR_NAME)
	data, _ := find(b, unix.NFTA_EXPR_DATA)
	f.fill(data.data)
	e := decodeLoad(name.text(), f)
	if e == nil {
		e = decodeTest(name.text(), f, sets)
	}
	if e == nil {
		e = decodeAction(name.text(), f)
	}
	return e
}

// decodeLoad reads what moves data into registers or out of them.
func decodeLoad(name string, f *fields) ruleset.Expr {
	switch name {
	case "payload":
		if f[unix.NFTA_PAYLOAD_SREG] != nil {
			return ruleset.PayloadSet{Base: f.num(unix.NFTA_PAYLOAD_BASE), Offset: f.num(unix.NFTA_PAYLOAD_OFFSET), Len: f.num(unix.NFTA_PAYLOAD_LEN), Src: f.reg(unix.NFTA_PAYLOAD_SREG)}
		}
		return ruleset.Payload{Base: f.num(unix.NFTA_PAYLOAD_BASE), Offset: f.num(unix.NFTA_PAYLOAD_OFFSET), Len: f.num(unix.NFTA_PAYLOAD_LEN), Dst: f.reg(unix.NFTA_PAYLOAD_DREG)}
	case "meta":
		if f[unix.NFTA_META_SREG] != nil {
			return ruleset.MetaSet{Key: f.u32(unix.NFTA_META_KEY), Src: f.reg(unix.NFTA_META_SREG)}
		}
		return ruleset.Meta{Key: f.u32(unix.NFTA_META_KEY), Dst: f.reg(unix.NFTA_META_DREG)}
	case "ct":
		if f[unix.NFTA_CT_SREG] != nil {
			return ruleset.CtSet{Key: f.u32(unix.NFTA_CT_KEY), Src: f.reg(unix.NFTA_CT_SREG)}
		}
		direction := -1
		if d := f[unix.NFTA_CT_DIRECTION]; len(d) > 0 {
			direction = int(d[0])
		}
		return ruleset.Ct{Key: f.u32(unix.NFTA_CT_KEY), Direction: direction, Dst: f.reg(unix.NFTA_CT_DREG)}
	case "bitwise":
		src2 := f.reg(nftaBitwiseSreg2)
		shift := uint32(0)
		if v := f.value(nftaBitwiseData); len(v) == 4 {
			shift = binary.NativeEndian.Uint32(v)
		}
		return ruleset.Bitwise{
			Op: f.u32(nftaBitwiseOp), Src: f.reg(unix.NFTA_BITWISE_SREG), Src2: src2, Dst: f.reg(unix.NFTA_BITWISE_DREG),
			Len: f.num(unix.NFTA_BITWISE_LEN), Mask: f.value(unix.NFTA_BITWISE_MASK), Xor: f.value(unix.NFTA_BITWISE_XOR), Shift: shift,
		}
	case "byteorder":
		return ruleset.Byteorder{Src: f.reg(unix.NFTA_BYTEORDER_SREG), Dst: f.reg(unix.NFTA_BYTEORDER_DREG), Len: f.num(unix.NFTA_BYTEORDER_LEN), Size: f.num(unix.NFTA_BYTEORDER_SIZE)}
	case "immediate":
		if f.u32(unix.NFTA_IMMEDIATE_DREG) == unix.NFT_REG_VERDICT {
			v, _ := find(f[unix.NFTA_IMMEDIATE_DATA], unix.NFTA_DATA_VERDICT)
			return ruleset.Decide{Verdict: decodeVerdict(v.data)}
		}
		return ruleset.Immediate{Dst: f.reg(unix.NFTA_IMMEDIATE_DREG), Data: f.value(unix.NFTA_IMMEDIATE_DATA)}
	case "fib":
		return ruleset.Fib{Result: f.u32(unix.NFTA_FIB_RESULT), Flags: f.u32(unix.NFTA_FIB_FLAGS), Dst: f.reg(unix.NFTA_FIB_DREG)}
	}
	return nil
}

// decodeTest reads what may end a rule.
func decodeTest(name string, f *fields, sets map[string]*ruleset.Set) ruleset.Expr {
	switch name {
	case "cmp":
		return ruleset.Cmp{Op: f.u32(unix.NFTA_CMP_OP), Src: f.reg(unix.NFTA_CMP_SREG), Data: f.value(unix.NFTA_CMP_DATA)}
	case "range":
		return ruleset.Range{Invert: f.u32(unix.NFTA_RANGE_OP) == 1, Src: f.reg(unix.NFTA_RANGE_SREG), From: f.value(unix.NFTA_RANGE_FROM_DATA), To: f.value(unix.NFTA_RANGE_TO_DATA)}
	case "lookup":
		name := f.text(unix.NFTA_LOOKUP_SET)
		return ruleset.Lookup{Set: sets[name], Name: name, Src: f.reg(unix.NFTA_LOOKUP_SREG), Dst: f.reg(unix.NFTA_LOOKUP_DREG), Invert: f.u32(unix.NFTA_LOOKUP_FLAGS)&1 != 0}
	case "dynset":
		limited := harmful(f[unix.NFTA_DYNSET_EXPR])
		for e := range nftAttrs(f[10 /* NFTA_DYNSET_EXPRESSIONS */]) {
			limited = limited || harmful(e.data)
		}
		return ruleset.Dynset{Name: f.text(unix.NFTA_DYNSET_SET_NAME), Src: f.reg(unix.NFTA_DYNSET_SREG_KEY), Invert: f.u32(unix.NFTA_DYNSET_FLAGS)&1 != 0, Limited: limited}
	case "limit":
		return ruleset.Limit{
			Rate: f.u64(unix.NFTA_LIMIT_RATE), Seconds: f.u64(unix.NFTA_LIMIT_UNIT), Burst: f.u32(unix.NFTA_LIMIT_BURST),
			Bytes: f.u32(unix.NFTA_LIMIT_TYPE) == unix.NFT_LIMIT_PKT_BYTES, Over: f.u32(unix.NFTA_LIMIT_FLAGS)&unix.NFT_LIMIT_F_INV != 0,
		}
	case "match":
		return ruleset.Match{Name: f.text(unix.NFTA_MATCH_NAME), Revision: f.u32(unix.NFTA_MATCH_REV), Info: f[unix.NFTA_MATCH_INFO]}
	}
	return nil
}

// harmful says whether a statement of an element can refuse a packet: counters
// and the time of last use cannot.
func harmful(b []byte) bool {
	name, ok := find(b, unix.NFTA_EXPR_NAME)
	return ok && name.text() != "counter" && name.text() != "last"
}

// decodeAction reads what acts on a packet, and everything else.
func decodeAction(name string, f *fields) ruleset.Expr {
	none := ruleset.NoRegister
	switch name {
	case "nat":
		kind, family := "snat", ruleset.IP
		if f.u32(unix.NFTA_NAT_TYPE) == unix.NFT_NAT_DNAT {
			kind = "dnat"
		}
		switch f.u32(unix.NFTA_NAT_FAMILY) {
		case unix.NFPROTO_IPV6:
			family = ruleset.IP6
		case unix.NFPROTO_INET:
			family = ""
		}
		return ruleset.NAT{
			Kind: kind, Family: family, AddrMin: f.reg(unix.NFTA_NAT_REG_ADDR_MIN), AddrMax: f.reg(unix.NFTA_NAT_REG_ADDR_MAX),
			PortMin: f.reg(unix.NFTA_NAT_REG_PROTO_MIN), PortMax: f.reg(unix.NFTA_NAT_REG_PROTO_MAX), Flags: f.u32(unix.NFTA_NAT_FLAGS),
		}
	case "masq":
		return ruleset.NAT{Kind: "masquerade", AddrMin: none, AddrMax: none, PortMin: f.reg(unix.NFTA_MASQ_REG_PROTO_MIN), PortMax: f.reg(unix.NFTA_MASQ_REG_PROTO_MAX), Flags: f.u32(unix.NFTA_MASQ_FLAGS)}
	case "redir":
		return ruleset.NAT{Kind: "redirect", AddrMin: none, AddrMax: none, PortMin: f.reg(unix.NFTA_REDIR_REG_PROTO_MIN), PortMax: f.reg(unix.NFTA_REDIR_REG_PROTO_MAX), Flags: f.u32(unix.NFTA_REDIR_FLAGS)}
	case "reject":
		code := uint32(0)
		if c := f[unix.NFTA_REJECT_ICMP_CODE]; len(c) > 0 {
			code = uint32(c[0])
		}
		return ruleset.Reject{Type: f.u32(unix.NFTA_REJECT_TYPE), Code: code}
	case "counter":
		return ruleset.Counter{Packets: f.u64(unix.NFTA_COUNTER_PACKETS), Bytes: f.u64(unix.NFTA_COUNTER_BYTES)}
	case "log":
		group := -1
		if f[unix.NFTA_LOG_GROUP] != nil {
			group = int(f.u16(unix.NFTA_LOG_GROUP))
		}
		return ruleset.Log{Prefix: f.text(unix.NFTA_LOG_PREFIX), Group: group}
	case "notrack":
		return ruleset.Notrack{}
	case "queue":
		return ruleset.QueueTo{Number: f.u16(unix.NFTA_QUEUE_NUM), Total: f.u16(unix.NFTA_QUEUE_TOTAL), Bypass: f.u16(unix.NFTA_QUEUE_FLAGS)&1 != 0}
	case "target":
		return ruleset.Target{Name: f.text(unix.NFTA_TARGET_NAME), Revision: f.u32(unix.NFTA_TARGET_REV), Info: f[unix.NFTA_TARGET_INFO]}
	case "objref":
		if f[unix.NFTA_OBJREF_SET_NAME] != nil {
			return ruleset.Other{Name: "object of map @" + f.text(unix.NFTA_OBJREF_SET_NAME), Dst: none}
		}
		return ruleset.Object{Type: f.u32(unix.NFTA_OBJREF_IMM_TYPE), Name: f.text(unix.NFTA_OBJREF_IMM_NAME)}
	case "dup", "flow_offload", "last":
		return ruleset.Harmless{Name: name}
	}
	return decodeOther(name, f)
}

// decodeOther keeps the register that an expression loads, by the number of that
// attribute: 1, or 2 where the kernel's enum has something else in front.
func decodeOther(name string, f *fields) ruleset.Expr {
	switch name {
	case "numgen", "rt", "osf", "xfrm":
		return ruleset.Other{Name: name, Dst: f.reg(1), Len: 16}
	case "exthdr":
		if f[unix.NFTA_EXTHDR_SREG] != nil {
			return ruleset.Harmless{Name: name}
		}
		return ruleset.Other{Name: name, Dst: f.reg(unix.NFTA_EXTHDR_DREG), Len: max(4, f.num(unix.NFTA_EXTHDR_LEN))}
	case "hash", "socket", "tunnel":
		return ruleset.Other{Name: name, Dst: f.reg(2), Len: 16}
	}
	return ruleset.Other{Name: name, Dst: ruleset.NoRegister}
}
