package diagnose

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"drawbridge/internal/ruleset"
)

// Extensions of iptables carry their parameters as C structures, in the
// processor's byte order but for what comes from packets. The layouts are those
// of include/uapi/linux/netfilter/xt_*.h; info that is too short is not
// evaluated.

// cstruct reads a C structure.
type cstruct []byte

func (c cstruct) has(n int) bool    { return len(c) >= n }
func (c cstruct) u16(at int) int    { return int(binary.NativeEndian.Uint16(c[at:])) }
func (c cstruct) be16(at int) int   { return int(binary.BigEndian.Uint16(c[at:])) }
func (c cstruct) u32(at int) uint32 { return binary.NativeEndian.Uint32(c[at:]) }

// invert turns an answer round if a rule says "!".
func (t truth) invert(inv bool) truth {
	if inv {
		return t.not()
	}
	return t
}

// match evaluates a match of iptables; maybe for what is not known here.
func (m *machine) match(e ruleset.Match) truth {
	c, p := cstruct(e.Info), m.s.packet
	switch {
	case e.Name == "comment":
		return yes
	case e.Name == "tcp" && c.has(12):
		if p.Protocol == 0 {
			return maybe
		}
		return min(truthOf(p.Protocol == protoTCP), portIn(p.SourcePort, c.u16(0), c.u16(2)).invert(c[11]&1 != 0),
			portIn(p.TargetPort, c.u16(4), c.u16(6)).invert(c[11]&2 != 0), m.tcpFlags(c), max(maybe, truthOf(c[8] == 0)))
	case e.Name == "udp" && c.has(9):
		if p.Protocol == 0 {
			return maybe
		}
		return min(truthOf(p.Protocol == protoUDP || p.Protocol == protoUDPLite), portIn(p.SourcePort, c.u16(0), c.u16(2)).invert(c[8]&1 != 0),
			portIn(p.TargetPort, c.u16(4), c.u16(6)).invert(c[8]&2 != 0))
	case (e.Name == "icmp" || e.Name == "icmp6") && c.has(4):
		if p.Protocol != protoICMP && p.Protocol != protoICMP6 {
			return perhaps(p.Protocol == 0)
		}
		fits := e.Name == "icmp" && c[0] == 0xff || p.ICMPType == c[0] && p.ICMPCode >= c[1] && p.ICMPCode <= c[2]
		return truthOf(fits).invert(c[3]&1 != 0)
	case e.Name == "multiport":
		return multiport(c, e.Revision, p)
	case e.Name == "conntrack":
		return m.xconntrack(c, e.Revision)
	case e.Name == "state" && c.has(4):
		return m.stateIn(c.u32(0))
	case e.Name == "addrtype":
		return m.addrtype(c, e.Revision)
	case e.Name == "physdev" && c.has(66):
		return physdev(c, p)
	case e.Name == "mark" && e.Revision == 1 && c.has(9):
		return m.s.mark.masked(c.u32(0), c.u32(4)).invert(c[8] != 0)
	case e.Name == "connmark" && e.Revision == 1 && c.has(9):
		if m.s.tracked == no || m.walk.early() {
			return no
		}
		return m.s.ctMark.masked(c.u32(0), c.u32(4)).invert(c[8] != 0)
	}
	return m.lessUsual(e)
}

// lessUsual are matches on addresses, users and kinds of packets.
func (m *machine) lessUsual(e ruleset.Match) truth {
	c, p := cstruct(e.Info), m.s.packet
	switch {
	case e.Name == "iprange" && e.Revision == 1 && c.has(65):
		return min(max(addrIn(p.Source, c, 0).invert(c[64]&0x10 != 0), truthOf(c[64]&1 == 0)),
			max(addrIn(p.Target, c, 32).invert(c[64]&0x20 != 0), truthOf(c[64]&2 == 0)))
	case e.Name == "mac" && c.has(12):
		if m.s.link.absent {
			return no
		}
		return equals(m.s.link.bytes[6:12], m.s.link.known[6:12], c[:6]).invert(c.u32(8) != 0)
	case e.Name == "pkttype" && c.has(8):
		kind := uint32(0)
		if p.Broadcast {
			kind = 1
		} else if p.Multicast {
			kind = 2
		}
		return truthOf(kind == c.u32(0)).invert(c.u32(4) != 0)
	case e.Name == "devgroup" && c.has(20):
		return m.devgroup(c)
	case e.Name == "owner" && c.has(18):
		if p.In != "" {
			return no
		}
		if p.UID == nil || c[16] != 1 {
			return maybe
		}
		return truthOf(*p.UID >= c.u32(0) && *p.UID <= c.u32(4)).invert(c[17]&1 != 0)
	}
	return maybe
}

func (m *machine) devgroup(c cstruct) truth {
	t := yes
	for _, side := range []struct {
		name  string
		at    int
		flags uint32
	}{{m.s.packet.In, 4, 1}, {m.s.packet.Out, 12, 4}} {
		if c.u32(0)&side.flags == 0 {
			continue
		}
		l, known := m.walk.host.Links[side.name]
		if !known && side.name != "" {
			t = min(t, maybe)
			continue
		}
		t = min(t, truthOf(l.Group&c.u32(side.at+4) == c.u32(side.at)).invert(c.u32(0)&(side.flags<<1) != 0))
	}
	return t
}

// portIn says whether a port, which may not be known (0), lies in a range.
func portIn(port uint16, first, last int) truth {
	switch {
	case first == 0 && last == 0xffff:
		return yes
	case port == 0:
		return maybe
	}
	return truthOf(int(port) >= first && int(port) <= last)
}

func (m *machine) tcpFlags(c cstruct) truth {
	mask, want := c[9], c[10]
	h := &m.s.transport
	t := equals([]byte{h.bytes[13] & mask}, []byte{h.known[13] | ^mask}, []byte{want})
	return t.invert(c[11]&4 != 0)
}

func multiport(c cstruct, revision uint32, p Packet) truth {
	const ports, flags, inverted = 2, 32, 47
	if revision != 1 || !c.has(inverted+1) {
		return maybe
	}
	if !hasPorts(p.Protocol) {
		return perhaps(p.Protocol == 0)
	}
	t := no
	for i := 0; i < int(c[1]) && i < 15; i++ {
		first := c.u16(ports + 2*i)
		last := first
		if c[flags+i] != 0 && i+1 < 15 {
			i++
			last = c.u16(ports + 2*i)
		}
		source, target := portIn(p.SourcePort, first, last), portIn(p.TargetPort, first, last)
		switch c[0] {
		case 0:
			t = max(t, source)
		case 1:
			t = max(t, target)
		default:
			t = max(t, source, target)
		}
	}
	return t.invert(c[inverted] != 0)
}

// masked compares the known bits of a number under a mask.
func (b bits) masked(want, mask uint32) truth {
	return equals(native32(b.value&mask), native32(b.known|^mask), native32(want))
}

// any says whether one of the bits in mask is set.
func (b bits) any(mask uint32) truth {
	if b.value&b.known&mask != 0 {
		return yes
	}
	return perhaps(mask&^b.known != 0)
}

// stateIn says whether the connection's state is one of those in mask.
func (m *machine) stateIn(mask uint32) truth {
	if m.walk.early() && m.s.ctState.value != uint32(Untracked) {
		return truthOf(mask&uint32(Invalid) != 0)
	}
	return m.s.ctState.any(mask)
}

// xconntrack is the match conntrack, revisions 1 to 3.
func (m *machine) xconntrack(c cstruct, revision uint32) truth {
	const (
		wantsState, wantsProto, wantsStatus, wantsDirection = 1 << 0, 1 << 1, 1 << 6, 1 << 12
		proto, ports, flags, inverted, masks                = 136, 138, 146, 148, 150
	)
	if revision < 1 || revision > 3 || !c.has(156) {
		return maybe
	}
	asks, inverts := c.u16(flags), c.u16(inverted)
	states, status := uint32(c.u16(masks)), uint32(c.u16(masks+2))
	if revision == 1 {
		states, status = uint32(c[masks]), uint32(c[masks+1])
	}
	t := yes
	if asks&wantsState != 0 {
		// XT_CONNTRACK_STATE_SNAT is 64, DNAT 128, UNTRACKED 256.
		mask := states & 15
		if states&256 != 0 {
			mask |= uint32(Untracked)
		}
		in := m.stateIn(mask)
		if m.s.tracked != no && !m.walk.early() {
			if states&64 != 0 {
				in = max(in, m.s.ctStatus.any(StatusSNAT))
			}
			if states&128 != 0 {
				in = max(in, m.s.ctStatus.any(StatusDNAT))
			}
		}
		t = in.invert(inverts&wantsState != 0)
	}
	if asks == wantsState {
		return t
	}
	if m.s.tracked == no || m.walk.early() {
		return truthOf(asks&wantsState != 0 && t == yes)
	}
	if m.s.packet.Connection.State == 0 || m.s.tracked == maybe {
		return min(t, maybe)
	}
	if asks&wantsDirection != 0 {
		t = min(t, truthOf(!m.s.packet.Connection.Reply).invert(inverts&wantsDirection != 0))
	}
	if asks&wantsProto != 0 {
		t = min(t, truthOf(int(m.s.packet.Protocol) == c.u16(proto)).invert(inverts&wantsProto != 0))
	}
	if asks&wantsStatus != 0 {
		t = min(t, m.s.ctStatus.any(status).invert(inverts&wantsStatus != 0))
	}
	for i := range 4 {
		t = min(t, m.tupleMatch(c, revision, i, asks, inverts))
	}
	if asks&(1<<7) != 0 { // when it expires
		t = min(t, maybe)
	}
	return t
}

// tupleMatch compares one of the four addresses and ports of a connection:
// original source and target, the answer's source and target.
func (m *machine) tupleMatch(c cstruct, revision uint32, i, asks, inverts int) truth {
	const high = 154
	t := yes
	tuple, known := m.s.tuple(i >= 2)
	addr, port := tuple.Source, tuple.SourcePort
	if i%2 == 1 {
		addr, port = tuple.Target, tuple.TargetPort
	}
	if bit := 4 << i; asks&bit != 0 {
		if !known || !addr.IsValid() {
			t = maybe
		} else {
			a, same := addr.AsSlice(), true
			for k := range a {
				same = same && (a[k]^c[32*i+k])&c[32*i+16+k] == 0
			}
			t = truthOf(same).invert(inverts&bit != 0)
		}
	}
	if bit := 256 << i; asks&bit != 0 {
		first := c.be16(138 + 2*i)
		last := first
		if revision == 3 {
			first = c.u16(138 + 2*i)
			if !c.has(high + 8) {
				return min(t, maybe)
			}
			last = c.u16(high + 2*i)
		}
		in := maybe
		if known {
			in = portIn(port, first, last)
		}
		t = min(t, in.invert(inverts&bit != 0))
	}
	return t
}

// addrtype asks for the type of source and target.
func (m *machine) addrtype(c cstruct, revision uint32) truth {
	var sourceInverted, targetInverted bool
	dev := ""
	switch {
	case revision == 1 && c.has(8):
		flags := c.u32(4)
		sourceInverted, targetInverted = flags&1 != 0, flags&2 != 0
		if flags&4 != 0 {
			dev = m.s.packet.In
		} else if flags&8 != 0 {
			dev = m.s.packet.Out
		}
	case revision == 0 && c.has(12):
		sourceInverted, targetInverted = c.u32(4) != 0, c.u32(8) != 0
	default:
		return maybe
	}
	is := func(mask int, a netip.Addr) truth {
		if a.Is6() {
			return m.addrtype6(mask, a, dev)
		}
		kind, ok := m.walk.host.addressType(a, dev)
		if !ok {
			return maybe
		}
		return truthOf(mask&(1<<kind) != 0)
	}
	t := yes
	if mask := c.u16(0); mask != 0 {
		t = min(t, is(mask, m.s.packet.Source).invert(sourceInverted))
	}
	if mask := c.u16(2); mask != 0 {
		t = min(t, is(mask, m.s.packet.Target).invert(targetInverted))
	}
	return t
}

// addrtype6: in IPv6 every address that is not of a group counts as unicast, and
// what is asked for must all be so (match_type6 in xt_addrtype.c).
func (m *machine) addrtype6(mask int, a netip.Addr, dev string) truth {
	const routed = 1<<typeLocal | 1<<typeAnycast | 1<<typeUnreachable
	switch {
	case mask&(1<<typeMulticast) != 0 && !a.IsMulticast(), mask&(1<<typeUnicast) != 0 && (a.IsMulticast() || a.IsUnspecified()), mask&1 != 0 && !a.IsUnspecified():
		return no
	case mask&routed == 0:
		return yes
	}
	kind, ok := m.walk.host.addressType(a, dev)
	if !ok {
		return maybe
	}
	return truthOf(mask&(1<<kind) != 0)
}

// physdev asks for the bridge's ports, where br_netfilter tells them.
func physdev(c cstruct, p Packet) truth {
	const isIn, isOut, bridged, hasIn, hasOut = 1, 2, 4, 8, 16
	inverts, asks := c[64], c[65]
	if p.PhysIn == "" && p.PhysOut == "" {
		// Not a bridged packet: only what is wanted not to be so can be true.
		return truthOf(asks&^inverts == 0)
	}
	t := yes
	for _, q := range []struct {
		bit byte
		is  truth
	}{
		{bridged, truthOf(p.PhysOut != "")}, {hasIn, truthOf(p.PhysIn != "")}, {hasOut, truthOf(p.PhysOut != "")},
		{isIn, maskedName(p.PhysIn, c[0:16], c[16:32])}, {isOut, maskedName(p.PhysOut, c[32:48], c[48:64])},
	} {
		if asks&q.bit != 0 {
			t = min(t, q.is.invert(inverts&q.bit != 0))
		}
	}
	return t
}

func maskedName(name string, want, mask []byte) truth {
	b := ifname(name)
	for i := range b {
		if (b[i]^want[i])&mask[i] != 0 {
			return no
		}
	}
	return yes
}

// addrIn says whether an address lies between two at an offset.
func addrIn(a netip.Addr, c cstruct, at int) truth {
	if !a.IsValid() {
		return maybe
	}
	b := a.AsSlice()
	return truthOf(bytes.Compare(b, c[at:at+len(b)]) >= 0 && bytes.Compare(b, c[at+16:at+16+len(b)]) <= 0)
}

// xtarget carries a target of iptables out.
func (m *machine) xtarget(e ruleset.Target) truth {
	c := cstruct(e.Info)
	switch e.Name {
	case "LOG", "NFLOG", "TRACE", "CHECKSUM", "TCPMSS", "TCPOPTSTRIP", "CLASSIFY", "AUDIT", "DSCP", "TOS", "TTL", "HL", "ECN",
		"SECMARK", "CONNSECMARK", "TEE", "IDLETIMER", "LED", "SET", "RATEEST", "ULOG":
		return yes
	case "REJECT":
		m.rejects = true
		m.verdicts = append(m.verdicts, ruleset.Verdict{Kind: ruleset.Drop})
		return yes
	case "MARK":
		if e.Revision == 2 && c.has(8) {
			mask := c.u32(4)
			m.s.mark = bits{m.s.mark.value&^mask ^ c.u32(0), m.s.mark.known | mask}
			return yes
		}
	case "CONNMARK":
		if m.connmark(c, e.Revision) {
			return yes
		}
	case "CT", "NOTRACK":
		if e.Name == "NOTRACK" || c.has(2) && c.u16(0)&1 != 0 {
			m.notrack()
		}
		return yes
	case "DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP":
		if m.xnat(e) {
			return yes
		}
	}
	m.why = "target " + e.Name + " of iptables"
	m.verdicts = append(m.verdicts, ruleset.Verdict{Kind: ruleset.Queue})
	return yes
}

// connmark sets, saves or restores a connection's mark.
func (m *machine) connmark(c cstruct, revision uint32) bool {
	if !c.has(16) || revision < 1 || revision > 2 {
		return false
	}
	ctMark, ctMask, nfMask := c.u32(0), c.u32(4), c.u32(8)
	mode := c[12]
	if revision == 2 {
		if mode = c[14]; c[13] != 0 {
			return false // shifted
		}
	}
	if m.s.tracked == no {
		return true
	}
	switch mode {
	case 0:
		m.s.ctMark = bits{m.s.ctMark.value&^ctMask ^ ctMark, m.s.ctMark.known | ctMask}
	case 1:
		saved := bits{m.s.mark.value & nfMask, m.s.mark.known | ^nfMask}
		m.s.ctMark = bits{m.s.ctMark.value&^ctMask ^ saved.value, (m.s.ctMark.known | ctMask) & saved.known}
	case 2:
		restored := bits{m.s.ctMark.value & ctMask, m.s.ctMark.known | ^ctMask}
		m.s.mark = bits{m.s.mark.value&^nfMask ^ restored.value, (m.s.mark.known | nfMask) & restored.known}
	}
	return true
}
