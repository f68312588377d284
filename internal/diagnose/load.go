package diagnose

import (
	"encoding/binary"
	"net/netip"

	"drawbridge/internal/ruleset"
)

func ifname(s string) []byte {
	b := make([]byte, 16)
	copy(b[:15], s)
	return b
}

// meta loads what is known beside a packet's bytes (nft_meta_get_eval).
func (m *machine) meta(e ruleset.Meta) truth {
	p := &m.s.packet
	load := func(b []byte) truth { m.regs.load(e.Dst, b, nil); return yes }
	switch e.Key {
	case ruleset.MetaProtocol:
		return load(binary.BigEndian.AppendUint16(nil, etherTypeOf(*p)))
	case ruleset.MetaNFProto:
		return load([]byte{m.protocolFamily()})
	case ruleset.MetaL4Proto:
		if m.s.transport.absent {
			return no
		}
		if p.Protocol == 0 {
			m.regs.unknown(e.Dst, 1)
			return yes
		}
		return load([]byte{p.Protocol})
	case ruleset.MetaMark:
		m.regs.load(e.Dst, native32(m.s.mark.value), native32(m.s.mark.known))
		return yes
	case ruleset.MetaIIFName, ruleset.MetaSecondIIName:
		if e.Key == ruleset.MetaSecondIIName && p.In != "" {
			m.regs.unknown(e.Dst, 16)
			return yes
		}
		return load(ifname(p.In))
	case ruleset.MetaOIFName:
		return load(ifname(p.Out))
	case ruleset.MetaPacketType:
		kind := byte(0)
		if p.Broadcast {
			kind = 1
		} else if p.Multicast {
			kind = 2
		}
		return load([]byte{kind})
	case ruleset.MetaBridgeIn, ruleset.MetaBridgeOut:
		port := p.In
		if e.Key == ruleset.MetaBridgeOut {
			port = p.Out
		}
		l, known := m.walk.host.Links[port]
		if !known || m.walk.at.Layer != Switched {
			m.regs.unknown(e.Dst, 16)
			return maybe
		}
		if l.Master == "" {
			return no
		}
		return load(ifname(l.Master))
	case ruleset.MetaSkUID, ruleset.MetaSkGID:
		return m.owner(e)
	case ruleset.MetaIIF, ruleset.MetaIIFType, ruleset.MetaIIFGroup, ruleset.MetaIIFKind:
		return m.linkKey(e.Key, p.In, e.Dst)
	case ruleset.MetaOIF:
		return m.linkKey(ruleset.MetaIIF, p.Out, e.Dst)
	case ruleset.MetaOIFType:
		return m.linkKey(ruleset.MetaIIFType, p.Out, e.Dst)
	case ruleset.MetaOIFGroup:
		return m.linkKey(ruleset.MetaIIFGroup, p.Out, e.Dst)
	case ruleset.MetaOIFKind:
		return m.linkKey(ruleset.MetaIIFKind, p.Out, e.Dst)
	case ruleset.MetaLen, ruleset.MetaPriority, ruleset.MetaTrace:
		m.regs.unknown(e.Dst, 4)
		return yes
	}
	m.regs.unknown(e.Dst, 16)
	return maybe
}

// linkKey loads something about an interface; without one the rule ends, but
// for the index, which is 0 then.
func (m *machine) linkKey(key uint32, name string, dst int) truth {
	if name == "" {
		if key == ruleset.MetaIIF {
			m.regs.load(dst, native32(0), nil)
			return yes
		}
		return no
	}
	l, known := m.walk.host.Links[name]
	if !known {
		m.regs.unknown(dst, 16)
		return maybe
	}
	switch key {
	case ruleset.MetaIIF:
		m.regs.load(dst, native32(uint32(l.Index)), nil)
	case ruleset.MetaIIFType:
		m.regs.load(dst, native16(l.Type), nil)
	case ruleset.MetaIIFGroup:
		m.regs.load(dst, native32(l.Group), nil)
	case ruleset.MetaIIFKind:
		if l.Kind == "" {
			return no
		}
		m.regs.load(dst, ifname(l.Kind), nil)
	}
	return yes
}

// owner loads the user of the socket that sends; what passes through has none.
func (m *machine) owner(e ruleset.Meta) truth {
	p := m.s.packet
	if p.In != "" && m.walk.at.Hook != "input" && m.walk.at.Hook != "prerouting" {
		return no
	}
	if e.Key == ruleset.MetaSkUID && p.UID != nil && p.In == "" {
		m.regs.load(e.Dst, native32(*p.UID), nil)
		return yes
	}
	m.regs.unknown(e.Dst, 4)
	return maybe
}

// protocolFamily is NFPROTO_IPV4 (2), IPV6 (10), ARP (3), BRIDGE (7) or NETDEV (5).
func (m *machine) protocolFamily() byte {
	switch m.walk.at.Layer {
	case Switched:
		return 7
	case Device:
		return 5
	case ARP:
		return 3
	}
	if etherTypeOf(m.s.packet) == etherIP6 {
		return 10
	}
	return 2
}

// early says whether a hook's chain runs before connection tracking.
func (w *walk) early() bool {
	const priorityConntrack = -200
	if w.at.Layer == Device {
		return true
	}
	return (w.at.Hook == "prerouting" || w.at.Hook == "output") && w.priority <= priorityConntrack && w.at.Layer != Switched
}

// ct loads what connection tracking knows (nft_ct_get_eval).
func (m *machine) ct(e ruleset.Ct) truth {
	if e.Key == ruleset.CtState {
		state := m.s.ctState
		if m.walk.early() && state.value != uint32(Untracked) {
			state = sure(uint32(Invalid))
		}
		if m.walk.at.Layer == Switched {
			// Bridges track connections only where somebody asks them to, which
			// depends on the kernel's modules.
			state = bits{}
		}
		m.regs.load(e.Dst, native32(state.value), native32(state.known))
		return yes
	}
	if m.walk.early() || m.s.tracked == no {
		return no
	}
	if m.walk.at.Layer == Switched || m.s.packet.Connection.State == 0 || m.s.tracked == maybe {
		m.regs.unknown(e.Dst, 16)
		return maybe
	}
	c := m.s.packet.Connection
	switch e.Key {
	case ruleset.CtDirection:
		direction := byte(0)
		if c.Reply {
			direction = 1
		}
		m.regs.load(e.Dst, []byte{direction}, nil)
	case ruleset.CtStatus:
		m.regs.load(e.Dst, native32(m.s.ctStatus.value), native32(m.s.ctStatus.known))
	case ruleset.CtMark:
		m.regs.load(e.Dst, native32(m.s.ctMark.value), native32(m.s.ctMark.known))
	case ruleset.CtL3Proto:
		m.regs.load(e.Dst, []byte{m.protocolFamily()}, nil)
	case ruleset.CtProtocol:
		if m.s.packet.Protocol == 0 {
			m.regs.unknown(e.Dst, 1)
		} else {
			m.regs.load(e.Dst, []byte{m.s.packet.Protocol}, nil)
		}
	case ruleset.CtSource, ruleset.CtTarget, ruleset.CtSource4, ruleset.CtTarget4, ruleset.CtSource6, ruleset.CtTarget6, ruleset.CtPortFrom, ruleset.CtPortTo:
		return m.ctTuple(e)
	case ruleset.CtZone:
		m.regs.load(e.Dst, native16(0), nil)
	default:
		m.regs.unknown(e.Dst, 16)
		return maybe
	}
	return yes
}

func (m *machine) ctTuple(e ruleset.Ct) truth {
	answer := e.Direction == 1
	t, ok := m.s.tuple(answer)
	addr, port := t.Source, t.SourcePort
	switch e.Key {
	case ruleset.CtTarget, ruleset.CtTarget4, ruleset.CtTarget6:
		addr = t.Target
	case ruleset.CtPortTo:
		port = t.TargetPort
	}
	v6 := etherTypeOf(m.s.packet) == etherIP6
	switch e.Key {
	case ruleset.CtPortFrom, ruleset.CtPortTo:
		if !ok || port == 0 {
			m.regs.unknown(e.Dst, 2)
			return yes
		}
		m.regs.load(e.Dst, binary.BigEndian.AppendUint16(nil, port), nil)
		return yes
	case ruleset.CtSource4, ruleset.CtTarget4:
		if v6 {
			return no
		}
	case ruleset.CtSource6, ruleset.CtTarget6:
		if !v6 {
			return no
		}
	}
	if !ok || !addr.IsValid() {
		m.regs.unknown(e.Dst, 16)
		return yes
	}
	m.regs.load(e.Dst, addr.AsSlice(), nil)
	return yes
}

// fib asks for the type of an address, or for the way to it.
func (m *machine) fib(e ruleset.Fib) truth {
	p := m.s.packet
	addr, other := p.Target, p.Source
	if e.Flags&ruleset.FibSource != 0 {
		addr, other = p.Source, p.Target
	}
	dev := ""
	if e.Flags&ruleset.FibIIF != 0 {
		dev = p.In
	} else if e.Flags&ruleset.FibOIF != 0 {
		dev = p.Out
	}
	unknown := func(n int) truth {
		m.why = "fib: the host's routes do not tell"
		m.regs.unknown(e.Dst, n)
		return yes
	}
	if m.walk.at.Layer == Switched || !addr.IsValid() {
		return unknown(16)
	}
	if e.Result == ruleset.FibResultType {
		kind, ok := m.walk.host.addressType(addr, dev)
		if !ok {
			return unknown(4)
		}
		m.regs.load(e.Dst, native32(kind), nil)
		return yes
	}
	return m.fibWay(e, addr, other, dev, unknown)
}

func (m *machine) fibWay(e ruleset.Fib, addr, other netip.Addr, dev string, unknown func(int) truth) truth {
	n := 4
	if e.Result == ruleset.FibResultName {
		n = 16
	}
	if m.walk.host.Route == nil || !other.IsValid() {
		return unknown(n)
	}
	q := RouteQuery{Target: addr}
	if e.Flags&ruleset.FibMark != 0 {
		if m.s.mark.known != ^uint32(0) {
			return unknown(n)
		}
		q.Mark = m.s.mark.value
	}
	r, ok := m.walk.host.Route(q)
	if !ok {
		return unknown(n)
	}
	out := ""
	if r.Type == typeUnicast && (dev == "" || r.Out == dev) {
		out = r.Out
	}
	switch {
	case e.Flags&ruleset.FibPresent != 0:
		there := []byte{0}
		if out != "" {
			there[0] = 1
		}
		m.regs.load(e.Dst, there, nil)
	case e.Result == ruleset.FibResultName:
		m.regs.load(e.Dst, ifname(out), nil)
	default:
		m.regs.load(e.Dst, native32(uint32(m.walk.host.Links[out].Index)), nil)
	}
	return yes
}
