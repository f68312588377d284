package diagnose

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"drawbridge/internal/ruleset"
)

// Flags of a translation (include/uapi/linux/netfilter/nf_nat.h).
const (
	natAddrs  = 1 << 0
	natPorts  = 1 << 1
	natRandom = 1<<2 | 1<<4
)

// natWish is a translation as a rule asks for it.
type natWish struct {
	kind                   string
	first, last            netip.Addr
	firstPort, lastPort    uint16
	lostAddr, lostPort     bool // asked for, but to what is not known
	random, portsSpecified bool
}

// nat reads nft's own statement.
func (m *machine) nat(e ruleset.NAT) truth {
	wish := natWish{kind: e.Kind, random: e.Flags&natRandom != 0}
	if e.Family != "" && (e.Family == ruleset.IP6) != (etherTypeOf(m.s.packet) == etherIP6) {
		// The kernel ends such a rule in tables of family inet (nft_nat_inet_eval).
		return no
	}
	size := 4
	if etherTypeOf(m.s.packet) == etherIP6 {
		size = 16
	}
	addr := func(reg int) netip.Addr {
		if reg == ruleset.NoRegister {
			return netip.Addr{}
		}
		b, known := m.regs.get(reg, size)
		if !whole(known) {
			wish.lostAddr = true
			return netip.Addr{}
		}
		a, _ := netip.AddrFromSlice(b)
		return a
	}
	port := func(reg int) uint16 {
		if reg == ruleset.NoRegister {
			return 0
		}
		b, known := m.regs.get(reg, 2)
		wish.portsSpecified = true
		if !whole(known) {
			wish.lostPort = true
			return 0
		}
		return binary.BigEndian.Uint16(b)
	}
	wish.first, wish.last = addr(e.AddrMin), addr(e.AddrMax)
	wish.firstPort, wish.lastPort = port(e.PortMin), port(e.PortMax)
	m.translate(wish)
	return yes
}

// translate does to the packet what a rule of a nat chain asks for, and decides:
// accept, or drop where the kernel has no address to give.
func (m *machine) translate(wish natWish) {
	if !wish.last.IsValid() {
		wish.last = wish.first
	}
	wish.lostAddr = wish.lostAddr || wish.first != wish.last
	if wish.lastPort == 0 {
		wish.lastPort = wish.firstPort
	}
	if wish.firstPort != wish.lastPort {
		wish.keepOrLose(m.s.packet, wish.kind)
	}
	switch wish.kind {
	case "masquerade":
		if !m.masquerade(&wish) {
			return
		}
	case "redirect":
		if !m.redirect(&wish) {
			return
		}
	}
	t := Translation{Kind: wish.kind, Rule: m.rule, Addr: wish.first, Port: wish.firstPort, Perhaps: wish.lostAddr || wish.lostPort}
	before := m.s.packet
	if wish.kind == "dnat" || wish.kind == "redirect" {
		m.s.setTarget(wish.first, wish.firstPort, wish.lostAddr, wish.lostPort)
		m.s.target, m.s.targetDone = t, yes
		m.s.changed(StatusDNAT, wish, before.Target != m.s.packet.Target || before.TargetPort != m.s.packet.TargetPort)
	} else {
		m.s.setSource(wish.first, wish.firstPort, wish.lostAddr, wish.lostPort || wish.random)
		m.s.source, m.s.sourceDone = t, yes
		m.s.changed(StatusSNAT, wish, before.Source != m.s.packet.Source || wish.firstPort != 0 && before.SourcePort != m.s.packet.SourcePort)
	}
	m.verdicts = append(m.verdicts, ruleset.Verdict{Kind: ruleset.Accept})
}

// keepOrLose: of a range of ports the kernel takes the packet's own if it lies
// within; which of the others is not known.
func (wish *natWish) keepOrLose(p Packet, kind string) {
	own := p.TargetPort
	if kind == "snat" || kind == "masquerade" {
		own = p.SourcePort
	}
	if own != 0 && own >= wish.firstPort && own <= wish.lastPort && !wish.random {
		wish.firstPort = own
	} else {
		wish.firstPort, wish.lostPort = 0, true
	}
}

// changed sets the bit of the connection that says that a translation changed
// something: the kernel sets it only then.
func (s *state) changed(bit uint32, wish natWish, differs bool) {
	switch {
	case wish.lostAddr || wish.lostPort || wish.random:
		s.ctStatus.known &^= bit
	case differs:
		s.ctStatus.value |= bit
	}
}

// masquerade takes the address that the way out has (nf_nat_masquerade.c).
func (m *machine) masquerade(wish *natWish) bool {
	p := m.s.packet
	v6 := etherTypeOf(p) == etherIP6
	if m.walk.host.Route != nil && p.Target.IsValid() {
		if r, ok := m.walk.host.Route(RouteQuery{Target: p.Target, Out: p.Out}); ok && r.From.IsValid() {
			wish.first = r.From
			return true
		}
	}
	l, known := m.walk.host.Links[p.Out]
	for _, a := range l.Addresses {
		if a.Addr().Is6() == v6 && !a.Addr().IsLinkLocalUnicast() {
			wish.first = a.Addr()
			// With several addresses it may be another.
			wish.lostAddr = len(l.Addresses) > 1
			if wish.lostAddr {
				wish.first = netip.Addr{}
			}
			return true
		}
	}
	if known && !v6 {
		m.verdicts = append(m.verdicts, ruleset.Verdict{Kind: ruleset.Drop})
		return false
	}
	wish.lostAddr = true
	return true
}

// redirect sends to the host itself: loopback for its own packets, else the
// first address of the interface (nf_nat_redirect.c).
func (m *machine) redirect(wish *natWish) bool {
	p := m.s.packet
	v6 := etherTypeOf(p) == etherIP6
	if m.walk.at.Hook == "output" {
		wish.first = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if v6 {
			wish.first = netip.IPv6Loopback()
		}
		return true
	}
	l, known := m.walk.host.Links[p.In]
	for _, a := range l.Addresses {
		if a.Addr().Is6() != v6 {
			continue
		}
		if v6 {
			wish.lostAddr = true // chosen by scope, in newer kernels
			return true
		}
		wish.first = a.Addr()
		return true
	}
	if known {
		m.verdicts = append(m.verdicts, ruleset.Verdict{Kind: ruleset.Drop})
		return false
	}
	wish.lostAddr = true
	return true
}

// xnat reads the targets of iptables: struct nf_nat_ipv4_multi_range_compat for
// the older revisions of IPv4, nf_nat_range and nf_nat_range2 for the others.
func (m *machine) xnat(e ruleset.Target) bool {
	v6 := etherTypeOf(m.s.packet) == etherIP6
	kinds := map[string]string{"DNAT": "dnat", "SNAT": "snat", "MASQUERADE": "masquerade", "REDIRECT": "redirect", "NETMAP": "netmap"}
	wish := natWish{kind: kinds[e.Name]}
	b := e.Info
	var flags uint32
	if !v6 && (e.Revision == 0 || len(b) < 40) {
		if len(b) < 20 || binary.NativeEndian.Uint32(b) != 1 {
			return false
		}
		flags = binary.NativeEndian.Uint32(b[4:])
		wish.first, wish.last = netip.AddrFrom4([4]byte(b[8:])), netip.AddrFrom4([4]byte(b[12:]))
		b = b[16:]
	} else {
		if len(b) < 40 {
			return false
		}
		flags = binary.NativeEndian.Uint32(b)
		if v6 {
			wish.first, wish.last = netip.AddrFrom16([16]byte(b[4:])), netip.AddrFrom16([16]byte(b[20:]))
		} else {
			wish.first, wish.last = netip.AddrFrom4([4]byte(b[4:])), netip.AddrFrom4([4]byte(b[20:]))
		}
		b = b[36:]
	}
	if flags&natPorts != 0 {
		wish.firstPort, wish.lastPort, wish.portsSpecified = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), true
	}
	if wish.kind == "netmap" {
		return m.netmap(wish)
	}
	if flags&natAddrs == 0 || wish.kind == "masquerade" || wish.kind == "redirect" {
		wish.first, wish.last = netip.Addr{}, netip.Addr{}
	}
	wish.random = flags&natRandom != 0
	m.translate(wish)
	return true
}

// netmap replaces the network part of an address.
func (m *machine) netmap(wish natWish) bool {
	wish.kind = "dnat"
	addr := m.s.packet.Target
	if m.walk.at.Hook == "postrouting" || m.walk.at.Hook == "input" {
		wish.kind, addr = "snat", m.s.packet.Source
	}
	if !addr.IsValid() {
		return false
	}
	own, first, last := addr.AsSlice(), wish.first.AsSlice(), wish.last.AsSlice()
	for i := range own {
		mask := ^(first[i] ^ last[i])
		own[i] = own[i]&^mask | first[i]&mask
	}
	wish.first, _ = netip.AddrFromSlice(own)
	wish.last = wish.first
	m.translate(wish)
	return true
}

// String writes a translation as a rule would ask for it.
func (t Translation) String() string {
	text := t.Kind
	switch {
	case t.Addr.IsValid() && t.Port != 0:
		text += " to " + netip.AddrPortFrom(t.Addr, t.Port).String()
	case t.Addr.IsValid():
		text += " to " + t.Addr.String()
	case t.Port != 0:
		text += fmt.Sprintf(" to :%d", t.Port)
	}
	if t.Perhaps {
		text += " (perhaps)"
	}
	return text
}
