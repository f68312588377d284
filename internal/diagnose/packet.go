package diagnose

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
)

// Protocols and types of frames.
const (
	protoICMP    = 1
	protoTCP     = 6
	protoUDP     = 17
	protoDCCP    = 33
	protoICMP6   = 58
	protoSCTP    = 132
	protoUDPLite = 136

	etherIP  = 0x0800
	etherARP = 0x0806
	etherIP6 = 0x86dd
)

// headerRoom is more than any header that is described here.
const headerRoom = 64

// header is a header's bytes, of which the bits set in known are known. size is
// its length; what follows it is payload and not known.
type header struct {
	bytes, known [headerRoom]byte
	size         int
	// absent headers are not there: to load from one ends the rule.
	absent bool
}

func (h *header) set(at int, b ...byte) {
	copy(h.bytes[at:], b)
	for i := range b {
		h.known[at+i] = 0xff
	}
}

func (h *header) forget(at, n int) {
	clear(h.bytes[at : at+n])
	clear(h.known[at : at+n])
}

func (h *header) setMAC(at int, text string) {
	parts := strings.Split(text, ":")
	if len(parts) != 6 {
		return
	}
	for i, p := range parts {
		if n, err := strconv.ParseUint(p, 16, 8); err == nil {
			h.set(at+i, byte(n))
		}
	}
}

func (h *header) set16(at int, n uint16) { h.set(at, byte(n>>8), byte(n)) }

// hasPorts says whether a protocol has ports at the beginning of its header.
func hasPorts(proto uint8) bool {
	switch proto {
	case protoTCP, protoUDP, protoSCTP, protoUDPLite, protoDCCP:
		return true
	}
	return false
}

// etherTypeOf is what kind of packet it is.
func etherTypeOf(p Packet) uint16 {
	switch {
	case p.EtherType != 0:
		return p.EtherType
	case p.Source.Is4() || p.Target.Is4():
		return etherIP
	case p.Source.IsValid() || p.Target.IsValid():
		return etherIP6
	}
	return 0
}

func linkHeader(p Packet, at At) header {
	h := header{size: 14}
	// A packet that the host itself sends has no link header before it leaves.
	h.absent = p.In == "" && (at.Layer == Routed || at.Layer == "")
	h.setMAC(0, p.EtherTarget)
	h.setMAC(6, p.EtherSource)
	if t := etherTypeOf(p); t != 0 {
		h.set16(12, t)
	}
	return h
}

func networkHeader(p Packet) header {
	switch etherTypeOf(p) {
	case etherIP:
		h := header{size: 20}
		h.set(0, 0x45)
		// The offset of a fragment is 0 and no more follow; whether it may be
		// fragmented is not known.
		h.known[6], h.known[7] = 0xbf, 0xff
		if p.Protocol != 0 {
			h.set(9, p.Protocol)
		}
		putAddr(&h, 12, p.Source)
		putAddr(&h, 16, p.Target)
		return h
	case etherIP6:
		h := header{size: 40}
		h.bytes[0], h.known[0] = 0x60, 0xf0
		if p.Protocol != 0 {
			h.set(6, p.Protocol)
		}
		putAddr(&h, 8, p.Source)
		putAddr(&h, 24, p.Target)
		return h
	case etherARP:
		h := header{size: 28}
		h.set(0, 0, 1, 8, 0, 6, 4)
		if p.ARPOperation != 0 {
			h.set16(6, p.ARPOperation)
		}
		h.setMAC(8, p.EtherSource)
		putAddr(&h, 14, p.Source)
		putAddr(&h, 24, p.Target)
		return h
	}
	return header{}
}

func putAddr(h *header, at int, a netip.Addr) {
	if a.IsValid() {
		h.set(at, a.AsSlice()...)
	}
}

func transportHeader(p Packet) header {
	h := header{size: 8}
	switch {
	case etherTypeOf(p) == etherARP:
		h.absent = true
	case p.Protocol == 0:
		h.size = 0
	case hasPorts(p.Protocol):
		putPort(&h, 0, p.SourcePort)
		putPort(&h, 2, p.TargetPort)
		if p.Protocol == protoTCP {
			h.size = 20
			if p.TCPFlags != 0 {
				// FIN, SYN, RST, PSH, ACK and URG; those of congestion are not known.
				h.bytes[13], h.known[13] = p.TCPFlags&0x3f, 0x3f
			}
		}
	case p.Protocol == protoICMP, p.Protocol == protoICMP6:
		h.set(0, p.ICMPType, p.ICMPCode)
	}
	return h
}

func putPort(h *header, at int, port uint16) {
	if port != 0 {
		h.set16(at, port)
	}
}

// bits is a number of which some bits are known.
type bits struct{ value, known uint32 }

func sure(v uint32) bits { return bits{v, ^uint32(0)} }

// state is a packet on its way, as far as it is known.
type state struct {
	packet                   Packet
	link, network, transport header
	mark, ctMark             bits
	ctState, ctStatus        bits
	tracked                  truth
	target, source           Translation
	// targetDone and sourceDone say whether a nat chain has settled them.
	targetDone, sourceDone truth
	// doubt says why it is not certain that a packet comes here; "" if it is.
	doubt string
}

func newState(p Packet, at At) state {
	s := state{
		packet: p, link: linkHeader(p, at), network: networkHeader(p), transport: transportHeader(p),
		mark: sure(p.Mark), ctMark: sure(p.Connection.Mark), tracked: yes,
	}
	if p.MarkUnknown {
		s.mark = bits{}
	}
	switch c := p.Connection; c.State {
	case 0:
		s.ctMark = bits{}
	case Untracked:
		s.tracked, s.ctState = no, sure(uint32(Untracked))
	case Invalid:
		s.tracked, s.ctState = no, sure(uint32(Invalid))
	default:
		// Which NAT was done with (bits 7 and 8) says nothing that rules ask for.
		s.ctState, s.ctStatus = sure(uint32(c.State)), bits{c.Status, ^uint32(0x180)}
	}
	return s
}

// tuple is the connection's original direction, or its answer.
func (s *state) tuple(answer bool) (Tuple, bool) {
	p, c := s.packet, s.packet.Connection
	if !answer {
		if c.Original != (Tuple{}) {
			return c.Original, true
		}
		return Tuple{}, false
	}
	if c.Answer != (Tuple{}) {
		return c.Answer, true
	}
	if c.State == New && !s.target.Perhaps && !s.source.Perhaps {
		return Tuple{Source: p.Target, Target: p.Source, SourcePort: p.TargetPort, TargetPort: p.SourcePort}, true
	}
	return Tuple{}, false
}

// setTarget and setSource write addresses into the packet; what is invalid or 0
// is forgotten if forget is set, else left.
func (s *state) setTarget(a netip.Addr, port uint16, unknownAddr, unknownPort bool) {
	s.rewrite(&s.packet.Target, &s.packet.TargetPort, map[bool]int{false: 16, true: 24}, 2, a, port, unknownAddr, unknownPort)
}

func (s *state) setSource(a netip.Addr, port uint16, unknownAddr, unknownPort bool) {
	s.rewrite(&s.packet.Source, &s.packet.SourcePort, map[bool]int{false: 12, true: 8}, 0, a, port, unknownAddr, unknownPort)
}

func (s *state) rewrite(addr *netip.Addr, portField *uint16, offsets map[bool]int, portAt int, a netip.Addr, port uint16, unknownAddr, unknownPort bool) {
	v6 := etherTypeOf(s.packet) == etherIP6
	at := offsets[v6]
	switch {
	case unknownAddr:
		s.packet.EtherType = etherTypeOf(s.packet)
		*addr = netip.Addr{}
		s.network.forget(at, map[bool]int{false: 4, true: 16}[v6])
	case a.IsValid():
		*addr = a
		putAddr(&s.network, at, a)
	}
	if !hasPorts(s.packet.Protocol) {
		return
	}
	switch {
	case unknownPort:
		*portField = 0
		s.transport.forget(portAt, 2)
	case port != 0:
		*portField = port
		s.transport.set16(portAt, port)
	}
}

func native16(n uint16) []byte { return binary.NativeEndian.AppendUint16(nil, n) }
func native32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
