package diagnose

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"drawbridge/internal/ruleset"
)

// truth is whether something is so.
type truth int8

const (
	no truth = iota
	maybe
	yes
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// perhaps is maybe where b holds, else no.
func perhaps(b bool) truth {
	if b {
		return maybe
	}
	return no
}

func (t truth) not() truth { return yes - t }

// registers are the machine's data registers, of which the bits set in known
// are known.
type registers struct{ bytes, known [64]byte }

// load puts b into a register, padded with zeros to whole words as the kernel
// does. A nil known means all of it.
func (r *registers) load(dst int, b, known []byte) {
	n := (len(b) + 3) &^ 3
	if dst < 0 || dst+n > len(r.bytes) {
		return
	}
	clear(r.bytes[dst : dst+n])
	copy(r.bytes[dst:], b)
	for i := range n {
		r.known[dst+i] = 0xff
		if known != nil && i < len(b) {
			r.known[dst+i] = known[i]
		}
	}
}

func (r *registers) unknown(dst, n int) {
	r.load(dst, make([]byte, n), make([]byte, n))
}

// get reads n bytes of a register and which bits of them are known.
func (r *registers) get(src, n int) (b, known []byte) {
	if src < 0 || n < 0 || src+n > len(r.bytes) {
		return make([]byte, max(n, 0)), make([]byte, max(n, 0))
	}
	return r.bytes[src : src+n], r.known[src : src+n]
}

func whole(known []byte) bool {
	for _, k := range known {
		if k != 0xff {
			return false
		}
	}
	return true
}

// equals compares bytes of which some bits are not known with constant ones.
func equals(b, known, with []byte) truth {
	if len(b) != len(with) {
		return maybe
	}
	for i := range b {
		if (b[i]^with[i])&known[i] != 0 {
			return no
		}
	}
	return truthOf(whole(known))
}

// extremes are the least and greatest values that unknown bits allow.
func extremes(b, known []byte) (least, greatest []byte) {
	least, greatest = make([]byte, len(b)), make([]byte, len(b))
	for i := range b {
		least[i], greatest[i] = b[i]&known[i], b[i]|^known[i]
	}
	return least, greatest
}

// within says whether a value lies between two, both included.
func within(b, known, from, to []byte) truth {
	if len(b) != len(from) || len(b) != len(to) {
		return maybe
	}
	if whole(known) {
		return truthOf(bytes.Compare(b, from) >= 0 && bytes.Compare(b, to) <= 0)
	}
	least, greatest := extremes(b, known)
	switch {
	case bytes.Compare(greatest, from) < 0, bytes.Compare(least, to) > 0:
		return no
	case bytes.Compare(least, from) >= 0 && bytes.Compare(greatest, to) <= 0:
		return yes
	}
	return maybe
}

func compare(op uint32, b, known, with []byte) truth {
	switch op {
	case ruleset.Equal:
		return equals(b, known, with)
	case ruleset.NotEqual:
		return equals(b, known, with).not()
	}
	zero, ones := make([]byte, len(b)), bytes.Repeat([]byte{0xff}, len(b))
	least, greatest := extremes(b, known)
	switch op {
	case ruleset.LessOrEqual:
		return within(b, known, zero, with)
	case ruleset.GreaterOrEqual:
		return within(b, known, with, ones)
	case ruleset.Less:
		if bytes.Compare(greatest, with) < 0 {
			return yes
		} else if bytes.Compare(least, with) >= 0 {
			return no
		}
	case ruleset.Greater:
		if bytes.Compare(least, with) > 0 {
			return yes
		} else if bytes.Compare(greatest, with) <= 0 {
			return no
		}
	}
	return maybe
}

// machine carries one rule out on one state.
type machine struct {
	walk *walk
	s    *state
	regs registers
	rule *ruleset.Rule
	// why says what made the last answer maybe.
	why string
	// verdicts are what the rule decides: several if a look-up of something unknown
	// may yield several.
	verdicts []ruleset.Verdict
	rejects  bool
}

// step carries out one expression: no ends the rule.
func (m *machine) step(e ruleset.Expr) truth {
	switch e := e.(type) {
	case ruleset.Payload:
		return m.payload(e)
	case ruleset.Meta:
		return m.meta(e)
	case ruleset.Ct:
		return m.ct(e)
	case ruleset.Cmp:
		b, known := m.regs.get(e.Src, len(e.Data))
		return compare(e.Op, b, known, e.Data)
	case ruleset.Range:
		b, known := m.regs.get(e.Src, len(e.From))
		if in := within(b, known, e.From, e.To); e.Invert {
			return in.not()
		} else {
			return in
		}
	case ruleset.Bitwise:
		m.bitwise(e)
	case ruleset.Byteorder:
		m.byteorder(e)
	case ruleset.Immediate:
		m.regs.load(e.Dst, e.Data, nil)
	case ruleset.Decide:
		m.verdicts = append(m.verdicts, e.Verdict)
	case ruleset.Lookup:
		return m.lookup(e)
	case ruleset.Fib:
		return m.fib(e)
	default:
		return m.act(e)
	}
	return yes
}

// act carries out what changes a packet, and what is not evaluated.
func (m *machine) act(e ruleset.Expr) truth {
	switch e := e.(type) {
	case ruleset.PayloadSet:
		m.payloadSet(e)
	case ruleset.MetaSet:
		if e.Key == ruleset.MetaMark {
			b, known := m.regs.get(e.Src, 4)
			m.s.mark = bits{binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint32(known)}
		}
	case ruleset.CtSet:
		if e.Key == ruleset.CtMark && m.s.tracked != no {
			b, known := m.regs.get(e.Src, 4)
			m.s.ctMark = bits{binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint32(known)}
		}
	case ruleset.NAT:
		return m.nat(e)
	case ruleset.Reject:
		m.rejects = true
		m.verdicts = append(m.verdicts, ruleset.Verdict{Kind: ruleset.Drop})
	case ruleset.Notrack:
		m.notrack()
	case ruleset.QueueTo:
		m.why = fmt.Sprintf("a program decides (queue %d)", e.Number)
		m.verdicts = append(m.verdicts, ruleset.Verdict{Kind: ruleset.Queue})
	case ruleset.Match:
		t := m.match(e)
		if t == maybe && m.why == "" {
			m.why = "match " + e.Name + " of iptables"
		}
		return t
	case ruleset.Target:
		return m.xtarget(e)
	case ruleset.Limit:
		m.why = "a limit, whose level is not known"
		return maybe
	case ruleset.Dynset:
		if e.Limited || e.Invert {
			m.why = "a limit in set @" + e.Name
			return maybe
		}
	case ruleset.Object:
		// Counters (1), helpers (3), timeouts (7), security marks (8), expectations
		// (9) let a packet pass; a quota (2), a limit (4) and others may not.
		switch e.Type {
		case 1, 3, 7, 8, 9:
		default:
			m.why = "object " + e.Name
			return maybe
		}
	case ruleset.Other:
		m.why = "expression " + e.Name
		if e.Dst != ruleset.NoRegister {
			m.regs.unknown(e.Dst, e.Len)
		}
		if e.Name == "fwd" || e.Name == "tproxy" || e.Name == "synproxy" {
			m.verdicts = append(m.verdicts, ruleset.Verdict{Kind: ruleset.Queue})
			return yes
		}
		return maybe
	}
	return yes
}

// notrack leaves the packet alone if conntrack has not seen it yet.
func (m *machine) notrack() {
	if m.walk.early() {
		m.s.tracked, m.s.ctState, m.s.ctStatus = no, sure(uint32(Untracked)), sure(0)
	}
}

func (m *machine) payload(e ruleset.Payload) truth {
	h := m.header(e.Base)
	if h == nil || e.Offset < 0 || e.Len < 0 || e.Len > headerRoom {
		m.regs.unknown(e.Dst, min(max(e.Len, 0), headerRoom))
		return maybe
	}
	if h.absent {
		return no
	}
	if e.Offset+e.Len > h.size {
		// Options and payload: what is there is not known, nor whether.
		m.regs.unknown(e.Dst, e.Len)
		return maybe
	}
	m.regs.load(e.Dst, h.bytes[e.Offset:e.Offset+e.Len], h.known[e.Offset:e.Offset+e.Len])
	return yes
}

func (m *machine) header(which int) *header {
	switch which {
	case ruleset.LinkHeader:
		return &m.s.link
	case ruleset.NetworkHeader:
		return &m.s.network
	case ruleset.TransportHeader:
		return &m.s.transport
	}
	return nil
}

func (m *machine) payloadSet(e ruleset.PayloadSet) {
	h := m.header(e.Base)
	if h == nil || e.Offset < 0 || e.Len < 0 || e.Offset+e.Len > h.size {
		return
	}
	b, known := m.regs.get(e.Src, e.Len)
	copy(h.bytes[e.Offset:], b)
	copy(h.known[e.Offset:], known)
}

func (m *machine) bitwise(e ruleset.Bitwise) {
	b, known := m.regs.get(e.Src, e.Len)
	out, outKnown := make([]byte, len(b)), bytes.Clone(known)
	switch {
	case e.Op == 0 && len(e.Mask) == len(b) && len(e.Xor) == len(b):
		for i := range b {
			out[i] = b[i]&e.Mask[i] ^ e.Xor[i]
			outKnown[i] |= ^e.Mask[i]
		}
	case (e.Op == 1 || e.Op == 2) && whole(known) && len(b) == 4:
		v := binary.NativeEndian.Uint32(b)
		if e.Op == 1 {
			v <<= e.Shift
		} else {
			v >>= e.Shift
		}
		out = native32(v)
	case e.Op >= 3 && e.Op <= 5 && e.Src2 != ruleset.NoRegister:
		c, cKnown := m.regs.get(e.Src2, e.Len)
		for i := range b {
			out[i] = [3]byte{b[i] & c[i], b[i] | c[i], b[i] ^ c[i]}[e.Op-3]
			outKnown[i] &= cKnown[i]
		}
	default:
		clear(outKnown)
	}
	m.regs.load(e.Dst, out, outKnown)
}

func (m *machine) byteorder(e ruleset.Byteorder) {
	b, known := m.regs.get(e.Src, e.Len)
	out, outKnown := bytes.Clone(b), bytes.Clone(known)
	if e.Size > 1 && native16(1)[0] == 1 {
		for at := 0; at+e.Size <= len(out); at += e.Size {
			reverse(out[at : at+e.Size])
			reverse(outKnown[at : at+e.Size])
		}
	}
	// Words of two bytes lie four apart.
	m.regs.load(e.Dst, out, outKnown)
}

func reverse(b []byte) {
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
}
