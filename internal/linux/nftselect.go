package linux

import (
	"fmt"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
)

// selector is what a rule can look at: how it is loaded and what must be known
// of the packet before it can be.
type selector struct {
	typ  *nftDatatype
	load func(reg uint32) expr.Any
	// payload is set if the selector is bytes of a header: constants beside
	// each other in one header are then compared in one go, and a prefix of
	// whole bytes loads only those.
	payload *expr.Payload
	// l3 and l4 are the protocols the field belongs to, "" and 0 for none.
	// byEther says that nft looks at the frame's type and not at the socket
	// buffer's protocol for it, in the bridge family.
	l3      string
	l4      int
	byEther bool
	// same is a network protocol that the rule must not contradict, but which
	// needs no match of its own.
	same string
	// link fields exist on Ethernet only.
	link bool
	// assign stores a register; nil for what cannot be set.
	assign func(reg uint32) expr.Any
}

func field(typ *nftDatatype, base expr.PayloadBase, off, size uint32) selector {
	p := expr.Payload{Base: base, Offset: off, Len: size}
	return selector{typ: typ, payload: &p, load: func(reg uint32) expr.Any {
		q := p
		q.DestRegister = reg
		return &q
	}}
}

func l3field(proto string, typ *nftDatatype, off uint32) selector {
	s := field(typ, expr.PayloadBaseNetworkHeader, off, uint32(typ.size))
	s.l3, s.byEther = proto, proto == "arp"
	return s
}

func l4field(proto int, typ *nftDatatype, off uint32) selector {
	s := field(typ, expr.PayloadBaseTransportHeader, off, uint32(typ.size))
	s.l4 = proto
	return s
}

func icmpField(proto int, l3 string, typ *nftDatatype) selector {
	s := l4field(proto, typ, 0)
	s.l3, s.byEther = l3, true
	return s
}

func linkField(typ *nftDatatype, off uint32) selector {
	s := field(typ, expr.PayloadBaseLLHeader, off, uint32(typ.size))
	s.link = true
	return s
}

func metaKey(typ *nftDatatype, key expr.MetaKey) selector {
	return selector{typ: typ, load: func(reg uint32) expr.Any { return &expr.Meta{Key: key, Register: reg} }}
}

func ctKey(typ *nftDatatype, key expr.CtKey) selector {
	return selector{typ: typ, load: func(reg uint32) expr.Any { return &expr.Ct{Key: key, Register: reg} }}
}

// ctOf is a key of one direction: 0 original, 1 reply.
func ctOf(typ *nftDatatype, key expr.CtKey, direction uint32) selector {
	return selector{typ: typ, load: func(reg uint32) expr.Any {
		return &expr.Ct{Key: key, Register: reg, Direction: direction}
	}}
}

func ctAddr(proto string, typ *nftDatatype, key expr.CtKey, direction uint32) selector {
	s := ctOf(typ, key, direction)
	s.same = proto
	return s
}

func fibType(f expr.Fib) selector {
	f.ResultADDRTYPE = true
	return selector{typ: typeFibAddr, load: func(reg uint32) expr.Any {
		g := f
		g.Register = reg
		return &g
	}}
}

func markSelectors(s map[string]selector) {
	mark := metaKey(typeMark, expr.MetaKeyMARK)
	mark.assign = func(reg uint32) expr.Any {
		return &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg}
	}
	ct := ctKey(typeMark, expr.CtKeyMARK)
	ct.assign = func(reg uint32) expr.Any {
		return &expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: reg}
	}
	s["meta mark"], s["ct mark"] = mark, ct
}

// selectors is the vocabulary. To add a word, add a line.
var selectors = func() map[string]selector {
	s := map[string]selector{
		"iifname": metaKey(typeName, expr.MetaKeyIIFNAME), "oifname": metaKey(typeName, expr.MetaKeyOIFNAME),
		"meta l4proto": metaKey(typeProto, expr.MetaKeyL4PROTO), "meta nfproto": metaKey(typeNFProto, expr.MetaKeyNFPROTO),
		"meta protocol": metaKey(typeEtherType, expr.MetaKeyPROTOCOL), "meta pkttype": metaKey(typePktType, expr.MetaKeyPKTTYPE),

		"ip saddr": l3field("ip", typeIPv4, 12), "ip daddr": l3field("ip", typeIPv4, 16), "ip protocol": l3field("ip", typeProto, 9),
		"ip6 saddr": l3field("ip6", typeIPv6, 8), "ip6 daddr": l3field("ip6", typeIPv6, 24), "ip6 nexthdr": l3field("ip6", typeProto, 6),
		"arp operation": l3field("arp", typeARPOp, 6), "arp saddr ether": l3field("arp", typeEther, 8), "arp saddr ip": l3field("arp", typeIPv4, 14),
		"arp daddr ether": l3field("arp", typeEther, 18), "arp daddr ip": l3field("arp", typeIPv4, 24),
		"ether daddr": linkField(typeEther, 0), "ether saddr": linkField(typeEther, 6), "ether type": linkField(typeEtherType, 12),

		"th sport": l4field(0, typePort, 0), "th dport": l4field(0, typePort, 2),
		"icmp type": icmpField(unix.IPPROTO_ICMP, "ip", typeICMP), "icmpv6 type": icmpField(unix.IPPROTO_ICMPV6, "ip6", typeICMPv6),

		"ct state": ctKey(typeCtState, expr.CtKeySTATE), "ct status": ctKey(typeCtStatus, expr.CtKeySTATUS), "ct direction": ctKey(typeCtDir, expr.CtKeyDIRECTION),

		"fib daddr type": fibType(expr.Fib{FlagDADDR: true}), "fib saddr type": fibType(expr.Fib{FlagSADDR: true}),
		"fib daddr . iif type": fibType(expr.Fib{FlagDADDR: true, FlagIIF: true}),
	}
	markSelectors(s)
	s["meta iifname"], s["meta oifname"] = s["iifname"], s["oifname"]
	for name, proto := range map[string]int{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP} {
		s[name+" sport"], s[name+" dport"] = l4field(proto, typePort, 0), l4field(proto, typePort, 2)
	}
	for name, d := range map[string]uint32{"original": 0, "reply": 1} {
		s["ct "+name+" ip saddr"], s["ct "+name+" ip daddr"] = ctAddr("ip", typeIPv4, expr.CtKeySRCIP, d), ctAddr("ip", typeIPv4, expr.CtKeyDSTIP, d)
		s["ct "+name+" ip6 saddr"], s["ct "+name+" ip6 daddr"] = ctAddr("ip6", typeIPv6, expr.CtKeySRCIP6, d), ctAddr("ip6", typeIPv6, expr.CtKeyDSTIP6, d)
		s["ct "+name+" proto-src"], s["ct "+name+" proto-dst"] = ctOf(typePort, expr.CtKeyPROTOSRC, d), ctOf(typePort, expr.CtKeyPROTODST, d)
	}
	return s
}()

// longestSelector is the most words that a selector has: fib daddr . iif type.
const longestSelector = 5

// selector reads one selector, the longest that fits.
func (c *compiler) selector() (selector, error) {
	for n := longestSelector; n > 0; n-- {
		var words []string
		for i := range n {
			words = append(words, c.peek(i))
		}
		if s, ok := selectors[strings.Join(words, " ")]; ok {
			c.at += n
			return s, nil
		}
	}
	return selector{}, fmt.Errorf("unknown word at %q", c.rest())
}

// concatenation reads selectors joined by dots.
func (c *compiler) concatenation() ([]selector, error) {
	var sels []selector
	for {
		s, err := c.selector()
		if err != nil {
			return nil, err
		}
		sels = append(sels, s)
		if !c.accept(".") {
			return sels, nil
		}
	}
}

// depend makes sure that the packet has what the selectors look at, by the same
// comparisons that nft adds, unless an earlier match already said so.
func (c *compiler) depend(sels ...selector) error {
	for _, s := range sels {
		if s.link && c.family != host.FamilyBridge && !c.ether {
			// ARPHRD_ETHER, in the processor's byte order.
			c.emit(&expr.Meta{Key: expr.MetaKeyIIFTYPE, Register: 1}, &expr.Cmp{Register: 1, Data: uintBytes(unix.ARPHRD_ETHER, 2, true)})
			c.ether = true
		}
		// Who knows the transport protocol knows the network's as well.
		if s.l3 != "" && (s.l4 == 0 || c.l4 != s.l4) {
			if err := c.dependL3(s.l3, s.byEther); err != nil {
				return err
			}
		}
		if s.same != "" && c.l3 != "" && c.l3 != s.same {
			return fmt.Errorf("the rule is about %s and %s at once", c.l3, s.same)
		}
		if s.l4 != 0 && c.l4 != s.l4 {
			if c.l4 != 0 || c.l3 == "arp" {
				return fmt.Errorf("the rule is about protocol %d and others at once", s.l4)
			}
			c.emit(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Register: 1, Data: []byte{byte(s.l4)}})
			c.l4 = s.l4
		}
	}
	return nil
}

var etherTypes = map[string]uint64{"ip": unix.ETH_P_IP, "ip6": unix.ETH_P_IPV6, "arp": unix.ETH_P_ARP}

func (c *compiler) dependL3(proto string, byEther bool) error {
	switch {
	case c.l3 == proto:
		return nil
	case c.l3 != "":
		return fmt.Errorf("the rule is about %s and %s at once", c.l3, proto)
	case c.family == host.FamilyBridge && byEther, c.ether:
		c.matchPayload(linkField(typeEtherType, 12), uintBytes(etherTypes[proto], 2, false))
	case c.family == host.FamilyBridge:
		c.emit(&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1}, &expr.Cmp{Register: 1, Data: uintBytes(etherTypes[proto], 2, false)})
	case proto == "ip":
		c.emit(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Register: 1, Data: []byte{unix.NFPROTO_IPV4}})
	case proto == "ip6":
		c.emit(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Register: 1, Data: []byte{unix.NFPROTO_IPV6}})
	default:
		return fmt.Errorf("%s does not pass the hooks of family %s", proto, c.family)
	}
	c.l3 = proto
	return nil
}

// several protocols are possible after a match with a set of them: then none of
// them may be named alone.
const (
	severalL3 = "one of several"
	severalL4 = -1
)

// learnSet remembers what a match with a set in braces says about the packet.
func (c *compiler) learnSet(s selector) {
	switch {
	case s.typ == typeEtherType && (s.link || c.family == host.FamilyBridge), s.typ == typeNFProto:
		c.l3 = severalL3
	case s.typ == typeProto:
		c.l4 = severalL4
	}
}

// learn remembers what an equality says about the packet.
func (c *compiler) learn(s selector, value []byte) {
	name := s.typ
	v := valueOf(value, name.native)
	switch {
	case name == typeEtherType && (s.link || c.family == host.FamilyBridge):
		for proto, etherType := range etherTypes {
			if v == etherType {
				c.l3 = proto
			}
		}
	case name == typeNFProto:
		c.l3 = map[uint64]string{unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6"}[v]
	case name == typeProto:
		c.l4 = int(v)
	}
}
