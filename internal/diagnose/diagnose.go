// Package diagnose says what becomes of a packet: it walks a packet that is
// described, not sent, through every base chain of every table at a hook.
//
// It owns the evaluation: nftables' virtual machine over values of which some
// bits may not be known, sets and maps, the extensions of iptables, NAT, and the
// order in which the kernel asks base chains. What it cannot evaluate is Unknown,
// never Accepted. It does not know how rules are read (package linux does,
// Host.Rules), and changes nothing.
//
// Start reading at Walk below: it takes a ruleset.Ruleset, what must be known
// about the host (Host: links, addresses, routes), where the packet is (At) and
// the Packet, and gives a Verdict: accepted, dropped, rejected or unknown; the
// rule or policy that decides with its owner; translations; and the packet as it
// leaves the hook, which is what the next hook is asked about.
//
//	v := diagnose.Walk(rules, machine, diagnose.At{Hook: "input"}, diagnose.Packet{
//		In: "virbr0", Source: guest, Target: gateway, Protocol: 17, SourcePort: 68, TargetPort: 67,
//		Connection: diagnose.Connection{State: diagnose.New},
//	})
//	if v.Kind != diagnose.Accepted { fmt.Println(v) }
//
// walk.go goes through chains, rule.go through their rules, machine.go through expressions, lookup.go through
// sets, xt.go knows iptables' extensions, nat.go translations, packet.go what a
// packet's bytes are.
//
// Explain (explain.go) follows one packet from one end to another, and its answer
// back, with such walks at every hook: switched.go from port to port of a bridge,
// vlan.go by VLANs and forwarding databases, resolve.go asks for hardware addresses,
// passage.go goes through the host, leave.go out of it, flow.go is about connections
// that are there already, answer.go puts it into a sentence. scene.go is what it is
// told. What cannot be seen from the host (how others are configured, a second card
// of a guest, an address that somebody vouched for by hand) is Unknown.
//
// It also owns what can be wrong with a host, as rules over facts that others
// read: Examine in check.go, a file for each family of checks; check_needs.go
// finds by the walk what of other programs stops guests. Advise in advise.go answers
// "bridge or NAT?".
package diagnose

import (
	"fmt"
	"net/netip"

	"drawbridge/internal/ruleset"
)

// Layer is which packets a hook sees.
type Layer string

// The layers. Routed hooks are those of the families ip, ip6 and inet; Switched
// those of bridge; Device the ingress and egress of netdev and inet; ARP that of
// arp.
const (
	Routed   Layer = "routed"
	Switched Layer = "switched"
	Device   Layer = "device"
	ARP      Layer = "arp"
)

// At is a place on a packet's way. The layer "" is Routed.
type At struct {
	Layer Layer
	// Hook is prerouting, input, forward, output, postrouting, ingress or egress.
	Hook string
}

// State is what connection tracking says about a packet.
type State uint32

// The states, by the kernel's bits (enum ip_conntrack_info, nft_ct.h).
const (
	Invalid     State = 1
	Established State = 2
	Related     State = 4
	New         State = 8
	Untracked   State = 64
)

// Bits of Connection.Status (enum ip_conntrack_status).
const (
	StatusSeenReply uint32 = 1 << 1
	StatusAssured   uint32 = 1 << 2
	StatusConfirmed uint32 = 1 << 3
	StatusSNAT      uint32 = 1 << 4
	StatusDNAT      uint32 = 1 << 5
)

// Tuple is one direction of a connection as connection tracking knows it.
type Tuple struct {
	Source, Target         netip.Addr
	SourcePort, TargetPort uint16
}

// Connection is the connection that a packet belongs to. State 0 is not known.
type Connection struct {
	State State
	// Reply says that the packet answers.
	Reply  bool
	Status uint32
	Mark   uint32
	// Original and Answer are the connection's two directions; for a new one that
	// was not yet translated they follow from the packet.
	Original, Answer Tuple
}

// Packet describes a packet. Zero values mean: no such interface, an address
// that is not there, and for SourcePort, TargetPort, Protocol and TCPFlags, not
// known.
type Packet struct {
	// In and Out are the interfaces that the hook sees: for routed hooks a bridge,
	// for switched ones its ports.
	In, Out string
	// PhysIn and PhysOut are the bridge's ports, where br_netfilter shows a bridged
	// packet to routed hooks.
	PhysIn, PhysOut string
	// EtherType is 0x0800, 0x86dd or 0x0806; 0 follows from Source.
	EtherType uint16
	// EtherSource and EtherTarget as 52:54:00:12:34:56; "" is not known.
	EtherSource, EtherTarget string
	// Broadcast and Multicast say how the frame was addressed; neither: to this host.
	Broadcast, Multicast bool
	Source, Target       netip.Addr
	Protocol             uint8
	// SourcePort and TargetPort are those of TCP, UDP, SCTP, UDP-Lite and DCCP.
	SourcePort, TargetPort uint16
	ICMPType, ICMPCode     uint8
	// TCPFlags as in the header (2 is SYN).
	TCPFlags     uint8
	ARPOperation uint16
	Mark         uint32
	// MarkUnknown, for a packet that was somewhere where rules mark.
	MarkUnknown bool
	// UID of the program that sends; only for output, nil is not known.
	UID        *uint32
	Connection Connection
}

// Kind is the outcome of a walk.
type Kind string

// The outcomes. Rejected packets are answered, dropped ones are not.
const (
	Accepted Kind = "accepted"
	Dropped  Kind = "dropped"
	Rejected Kind = "rejected"
	Unknown  Kind = "unknown"
)

// Translation is what NAT makes of a packet.
type Translation struct {
	// Kind is dnat, snat, masquerade or redirect.
	Kind string
	Rule *ruleset.Rule
	// Addr is invalid and Port is 0 where they are not known or not changed.
	Addr netip.Addr
	Port uint16
	// Perhaps says that it is not certain to happen, or not known to what.
	Perhaps bool
}

// Step is what one base chain said.
type Step struct {
	Chain *ruleset.Chain
	// Rule decided; nil if the packet came to the end and the policy did.
	Rule *ruleset.Rule
	Kind Kind
}

// Verdict is what happens to a packet at a hook.
type Verdict struct {
	Kind Kind
	// Chain is the base chain that decides, nil if all accept. Rule is nil if it is
	// the chain's policy.
	Chain *ruleset.Chain
	Rule  *ruleset.Rule
	Owner ruleset.Owner
	// Why says for Unknown what could not be evaluated.
	Why string
	// Either says that a dropped packet may also be rejected: it depends on which of
	// two chains of equal priority is asked first.
	Either       bool
	Steps        []Step
	Translations []Translation
	// After is the packet as it leaves the hook.
	After Packet
	// Anew is the packet as it was when the kernel asked for its way again, which it
	// does in the output hook when a chain of type route changed it or its target
	// was translated; nil if it did not.
	Anew *Packet
}

// String says the verdict in one line: "dropped by ip filter FORWARD policy drop (ufw)".
func (v Verdict) String() string {
	switch {
	case v.Chain == nil && v.Why != "":
		return fmt.Sprintf("%s: %s", v.Kind, v.Why)
	case v.Chain == nil:
		return string(v.Kind)
	}
	text := fmt.Sprintf("%s by %s", v.Kind, v.Where())
	if v.Why != "" {
		text = fmt.Sprintf("%s: %s in %s", v.Kind, v.Why, v.Where())
	}
	return fmt.Sprintf("%s (%s)", text, v.Owner)
}

// Where names what decides: table, chain, and the rule with its handle or the
// policy. "" if nothing in particular does.
func (v Verdict) Where() string {
	switch {
	case v.Rule != nil:
		return fmt.Sprintf("%s: %s # handle %d", v.Rule.Chain, v.Rule, v.Rule.Handle)
	case v.Chain != nil:
		return fmt.Sprintf("%s: policy drop", v.Chain)
	}
	return ""
}

// Walk sends a packet through all base chains at a place, of all tables that see
// it, in the kernel's order. It never panics, and takes time in proportion to the
// rules that the packet meets.
func Walk(rules *ruleset.Ruleset, h *Host, at At, p Packet) Verdict {
	return walkAs(rules, h, at, p, netip.AddrPort{})
}

// ends says whether a packet does not get through.
func ends(k Kind) bool { return k == Dropped || k == Rejected }

// walkAs is Walk with a translation of the target that no rule asks for yet, if
// pretend is valid.
func walkAs(rules *ruleset.Ruleset, h *Host, at At, p Packet, pretend netip.AddrPort) Verdict {
	if at.Layer == "" {
		at.Layer = Routed
	}
	if h == nil {
		h = &Host{}
	}
	families := familiesOf(at, p)
	if name, ok := legacyAt(rules, at, p); ok {
		return Verdict{Kind: Unknown, Why: "table " + name + " of iptables-legacy has rules, which are not evaluated", After: p}
	}
	chains := bound(rules.At(at.Hook, families...), at, p)
	sent := p
	if at.Layer == Device && at.Hook == "egress" {
		// What leaves is shown as coming in (nf_hook_egress).
		p.In, p.Out = p.Out, ""
	}
	start := func() *walk { return &walk{host: h, at: at, left: budget, pretend: pretend} }
	v := start().hook(chains, p)
	v.After.In, v.After.Out = sent.In, sent.Out
	// Chains of equal priority in several tables: their order is not known, so it
	// must not matter.
	if other, tied := turned(chains); tied {
		w := start().hook(other, p)
		w.After.In, w.After.Out = sent.In, sent.Out
		if ends(v.Kind) && ends(w.Kind) {
			if w.Kind != v.Kind {
				v.Kind, v.Either = Dropped, true
			}
			return v
		}
		if !same(v, w) {
			return Verdict{Kind: Unknown, Why: "it depends on the order of base chains with equal priority", After: sent, Chain: v.Chain, Rule: v.Rule, Owner: v.Owner, Steps: v.Steps}
		}
	}
	return v
}
