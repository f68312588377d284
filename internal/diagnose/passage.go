package diagnose

import (
	"cmp"
	"fmt"
	"net/netip"

	"drawbridge/internal/ruleset"
)

// Passage is a packet's way through a host's routed hooks.
type Passage struct {
	// Kind is how it ends: Accepted is delivered to a program of the host, or sent
	// out at Packet.Out.
	Kind Kind
	// Why says in a few words where it ended, "" if it is accepted.
	Why  string
	Hops []Hop
	// Route is what the routing tables said; Local that the host itself takes it.
	Route RouteAnswer
	Local bool
	// ForwardingOff names the parameter that keeps the host from forwarding, as
	// sysctl takes it, if that is why.
	ForwardingOff string
	// Packet as it is delivered or sent.
	Packet Packet
}

// Hop is one place on the way.
type Hop struct {
	At      At
	Verdict Verdict
}

// Ends is the verdict that ended the way; the zero Verdict if none did.
func (p Passage) Ends() Verdict {
	if n := len(p.Hops); n > 0 && p.Hops[n-1].Verdict.Kind != Accepted {
		return p.Hops[n-1].Verdict
	}
	return Verdict{}
}

// Arrive follows a packet that comes in at Packet.In: ingress, prerouting, the
// routing tables, then input, or forward and postrouting.
func Arrive(rules *ruleset.Ruleset, h *Host, p Packet) Passage {
	return (&passage{rules: rules, host: h, Passage: Passage{Kind: Accepted, Packet: p}}).arrive()
}

func (w *passage) arrive() Passage {
	if !w.hop(At{Device, "ingress"}) || !w.hop(At{Routed, "prerouting"}) {
		return w.Passage
	}
	if !w.route(queryFor(w.Packet)) {
		return w.Passage
	}
	if w.turn != nil {
		if w.halt = w.turn(w.Packet, w.Route); w.halt != nil {
			return w.Passage
		}
	}
	if w.Local {
		w.hop(At{Routed, "input"})
		return w.Passage
	}
	if w.hop(At{Routed, "forward"}) {
		w.leave()
	}
	return w.Passage
}

// send follows a packet that a program of the host sends: the routing tables,
// output (after which it may be routed anew), postrouting; and what the host
// sends to itself goes on to prerouting and input.
func (w *passage) send() Passage {
	q := queryFor(w.Packet)
	if w.follows && q.Target.Is6() {
		// It goes the way that was found for the first one, whose source was not
		// known then (inet6_csk_route_socket keeps it).
		q.Source = netip.Addr{}
	}
	if !w.route(q) {
		return w.Passage
	}
	if !w.Packet.Source.IsValid() {
		w.Packet.Source = w.Route.From
		// In IPv4 connect(2) asks again once the source is chosen (ip_route_connect), and
		// a policy rule about it may decide otherwise. In IPv6 it asks again only if the
		// first answer was an error (ip6_dst_lookup_tail).
		if w.Packet.Source.IsValid() && w.Packet.Source.Is4() && !w.Local && !w.route(queryFor(w.Packet)) {
			return w.Passage
		}
	}
	if !w.hop(At{Routed, "output"}) {
		return w.Passage
	}
	if w.again != nil && !w.route(anew(*w.again)) {
		return w.Passage
	}
	if !w.leave() || !w.Local {
		return w.Passage
	}
	w.Packet.In, w.Packet.Out = w.Packet.Out, ""
	if w.hop(At{Routed, "prerouting"}) {
		w.hop(At{Routed, "input"})
	}
	return w.Passage
}

// queryFor is how the kernel asks for a packet's way.
func queryFor(p Packet) RouteQuery {
	return RouteQuery{Target: p.Target, Source: p.Source, In: p.In, Mark: p.Mark, Proto: p.Protocol, SourcePort: p.SourcePort, TargetPort: p.TargetPort}
}

// anew is how it asks again in the output hook: in IPv4 without the protocol and
// its ports (ip_route_me_harder).
func anew(p Packet) RouteQuery {
	q := queryFor(p)
	q.In = ""
	if q.Target.Is4() {
		q.Proto, q.SourcePort, q.TargetPort = 0, 0, 0
	}
	return q
}

type passage struct {
	rules *ruleset.Ruleset
	host  *Host
	// follows: what the host sends is more of a connection that it just began.
	follows bool
	// turn is asked when the way is known, halt is what it said.
	turn turn
	halt func() bool
	// again is the packet for which its way was asked again at the last hook.
	again *Packet
	// pretend is where a rule that is not there yet translates the target to.
	pretend netip.AddrPort
	Passage
}

// hop goes through one hook; false if the packet ends there.
func (w *passage) hop(at At) bool {
	pretend := netip.AddrPort{}
	if at.Layer == Routed && (at.Hook == "prerouting" && w.Packet.In != "lo" || at.Hook == "output") {
		pretend = w.pretend
	}
	v := walkAs(w.rules, w.host, at, w.Packet, pretend)
	w.Packet, w.again = v.After, v.Anew
	// Connections are tracked from the first hook on, whether it has chains or not.
	tracks := at.Layer == Routed && (at.Hook == "prerouting" || at.Hook == "output")
	if len(v.Steps) > 0 || v.Kind != Accepted || tracks {
		w.Hops = append(w.Hops, Hop{at, v})
	}
	if v.Kind != Accepted {
		w.Kind, w.Why = v.Kind, fmt.Sprintf("%s: %s", at.Hook, v)
		return false
	}
	return true
}

func (w *passage) leave() bool {
	return w.hop(At{Routed, "postrouting"}) && w.hop(At{Device, "egress"})
}

// route asks the routing tables; false if there is no way, or it is not known.
func (w *passage) route(q RouteQuery) bool {
	switch {
	case !q.Target.IsValid() || w.Packet.MarkUnknown:
		w.Kind, w.Why = Unknown, "where the packet is sent to after a rule changed it is not known"
		return false
	case w.host.Route == nil:
		w.Kind, w.Why = Unknown, "the routing tables were not read"
		return false
	}
	r, ok := w.host.Route(q)
	if !ok {
		w.Kind, w.Why = Unknown, fmt.Sprintf("the routing tables do not tell the way to %s", q.Target)
		return false
	}
	w.Route = r
	switch r.Type {
	case typeLocal, typeBroadcast, typeMulticast, typeAnycast:
		w.Local = true
		if q.In == "" {
			w.Packet.Out = "lo"
		}
	case typeUnicast:
		w.Local, w.Packet.Out = false, r.Out
		if q.Target.Is6() && q.In != "" && w.forwardingOff(q) {
			return false
		}
	default:
		if w.forwardingOff(q) {
			return false
		}
		w.Kind, w.Why = Dropped, fmt.Sprintf("no way to %s: %s", q.Target, cmp.Or(r.Why, "a route says unreachable"))
		return false
	}
	return true
}

// NewConnection describes the first packet of a connection to a port, or with
// port 0 a ping: what nobody has answered yet.
func NewConnection(in string, from netip.Addr, proto uint8, to netip.Addr, port uint16) Packet {
	p := Packet{In: in, Source: from, Target: to, Protocol: proto, TargetPort: port, Connection: Connection{State: New}}
	switch proto {
	case protoTCP:
		p.TCPFlags = 2
	case protoICMP:
		p.ICMPType = 8
	case protoICMP6:
		p.ICMPType = 128
	}
	return p
}

// forwardingOff says whether the host does not forward what comes in there.
func (w *passage) forwardingOff(q RouteQuery) bool {
	l, known := w.host.Links[q.In]
	switch {
	case !known:
		return false
	case q.Target.Is4() && !l.Forward4:
		w.ForwardingOff = "net.ipv4.ip_forward=1"
	case q.Target.Is6() && !w.host.Forward6:
		w.ForwardingOff = "net.ipv6.conf.all.forwarding=1"
	default:
		return false
	}
	w.Kind, w.Why = Dropped, fmt.Sprintf("the host does not forward what comes in at %s", q.In)
	return true
}
