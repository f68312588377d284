package diagnose

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"drawbridge/internal/ruleset"
)

// PathQuestion is what a path is asked for. Port 0 asks with a ping.
type PathQuestion struct {
	From, To End
	Proto    uint8
	Port     uint16
}

// PathStep is one place on a path and what happened there.
type PathStep struct {
	// Back is set on the way of the answer.
	Back bool
	// Where in a few words: "port vnet0", "ip filter FORWARD", "route".
	Where string
	What  string
	Kind  Kind
	Rule  *ruleset.Rule
	Chain *ruleset.Chain
	Owner ruleset.Owner
}

// Answer is what becomes of the question.
type Answer struct {
	// Kind is Accepted if a packet arrives and its answer comes back.
	Kind     Kind
	Sentence string
	// Mend is a command that would help, or a hint; "" if nothing is known.
	Mend  string
	Steps []PathStep
	// Sent and Arrived are the packet as it began and as it got there.
	Sent, Arrived Packet
	// Port is where the packet comes in, "" if the host sends it itself; FirstMAC
	// whom the frame is for.
	Port, FirstMAC string
	// Past: it passes the host's rules by, so that they leave no trace of it.
	Past bool
	// Flow is what becomes of a connection that is there already; nil if none is.
	Flow *FlowAnswer
	// MTU is the largest packet that passes everywhere on the way there, 0 if that
	// is not known; Notes what else is to be said.
	MTU   int
	Notes []string
}

// Explain follows a packet from one end to the other, from tap to wire, and its
// answer back, and says where it ends.
func Explain(s *Scene, q PathQuestion) Answer {
	c := &courier{scene: s, question: q}
	if c.there() {
		got := c.arrived
		c.back = true
		c.Back()
		if c.arrived = got; c.ended == nil {
			c.goesOn(got)
		}
	}
	a := c.answer()
	c.existing(&a)
	return a
}

// courier carries one packet.
type courier struct {
	scene    *Scene
	question PathQuestion
	back     bool
	steps    []PathStep
	// ended is the step that ended the way; mend what would help.
	ended *PathStep
	mend  string
	// known are those who know the hardware addresses of each other.
	known map[string]bool
	// sent is the packet as it began, arrived as it got to the other end.
	sent, arrived Packet
	reached       End
	// translated is where NAT sent it.
	translated netip.AddrPort
	// port is where it came in, firstMAC whom the frame was for; left is the link
	// that it left the host by.
	port, firstMAC, left string
	// guestPorts are those of all guests, once somebody asked.
	guestPorts map[string]bool
	// flow is the tracked connection that it belongs to; nil if it begins one.
	flow *Connection
	// narrow is where the smallest MTU is, mtu how much that is.
	mtu    int
	narrow string
	silent bool
	// past: it passes the host's rules by.
	past bool
	// kept is the port that it came out of, if br_netfilter keeps it on its bridge.
	kept string
	// follows: it carries what follows the answer; stops: that is what ends.
	follows, stops bool
}

func (c *courier) add(where, format string, args ...any) {
	c.steps = append(c.steps, PathStep{Back: c.back, Where: where, What: fmt.Sprintf(format, args...), Kind: Accepted})
}

// end notes where the way ends, and what would mend it.
func (c *courier) end(kind Kind, where, mend, format string, args ...any) bool {
	step := PathStep{Back: c.back, Where: where, What: fmt.Sprintf(format, args...), Kind: kind}
	c.steps = append(c.steps, step)
	c.ended, c.mend = &step, mend
	return false
}

// verdict notes what a hook said; false if the packet ends there.
func (c *courier) verdict(hook string, v Verdict) bool {
	for _, s := range v.Steps {
		if s.Kind != Accepted || s.Rule == nil && len(s.Chain.Rules) == 0 {
			continue
		}
		what, owner := "accepted by policy", ruleset.OwnerOfTable(s.Chain.Table)
		if s.Rule != nil {
			owner = ruleset.OwnerOfRule(s.Rule)
			what = fmt.Sprintf("%s # handle %d", s.Rule, s.Rule.Handle)
		}
		c.steps = append(c.steps, PathStep{Back: c.back, Where: s.Chain.String(), What: what, Kind: Accepted, Rule: s.Rule, Chain: s.Chain, Owner: owner})
	}
	for _, t := range v.Translations {
		c.add("NAT", "%s", t)
		if t.Kind == "dnat" && !c.back {
			c.translated = netip.AddrPortFrom(t.Addr, t.Port)
		}
	}
	if v.Kind == Accepted {
		return true
	}
	step := PathStep{Back: c.back, Where: hook, Kind: v.Kind, Rule: v.Rule, Chain: v.Chain, Owner: v.Owner, What: v.String()}
	switch {
	case v.Rule != nil:
		step.Where, step.What = v.Rule.Chain.String(), fmt.Sprintf("%s # handle %d", v.Rule, v.Rule.Handle)
	case v.Chain != nil:
		step.Where, step.What = v.Chain.String(), "policy drop"
	}
	if v.Kind == Unknown && v.Why != "" {
		step.What = v.Why
	}
	c.steps = append(c.steps, step)
	c.ended, c.mend = &step, c.mendRule(v)
	return false
}

// mendRule is how the owner of a rule lets the packet through.
func (c *courier) mendRule(v Verdict) string {
	if v.Chain == nil || v.Kind == Unknown {
		return ""
	}
	if dockersOwn(v.Chain) {
		return dockerSetting(v.Rule, v.After.In)
	}
	to, port := c.question.To.Addr, c.question.Port
	if c.translated.IsValid() {
		to, port = c.translated.Addr(), c.translated.Port()
	}
	d := Door{Proto: c.question.Proto, Target: netip.AddrPortFrom(to, port), Bridge: cmp.Or(c.question.To.Bridge, c.question.From.Bridge)}
	if v.Owner == ruleset.Drawbridge && v.Rule != nil && v.Chain.Hook == "forward" && !c.back && c.question.To.Kind == Guest {
		return fmt.Sprintf("drawbridge forward add PORT %s, which opens one port to the outside", c.question.To.Name)
	}
	if c.question.Port != 0 && !c.back && v.Chain.Hook == "forward" {
		if way := WayOut(v.Owner, v.Chain, d); way != "" {
			return way
		}
	}
	switch {
	case v.Owner == ruleset.Drawbridge:
		return ""
	case v.Rule != nil:
		return fmt.Sprintf("nft delete rule %s handle %d", v.Rule.Chain, v.Rule.Handle)
	}
	return fmt.Sprintf("nft add chain %s '{ policy accept; }', or an exception in it", v.Chain)
}

// there carries the question's packet to the other end.
func (c *courier) there() bool {
	q := c.question
	if q.To.Kind != Itself && !q.To.Addr.IsValid() {
		return c.end(Dropped, "address", "see: drawbridge lease ls", "%s has no address", q.To.Name)
	}
	if q.From.Kind == Guest && !q.From.Addr.IsValid() {
		return c.end(Dropped, "address", "see: drawbridge lease ls", "%s has no address", q.From.Name)
	}
	p := NewConnection("", q.From.Addr, q.Proto, q.To.Addr, q.Port)
	if hasPorts(q.Proto) {
		p.SourcePort = sourcePort
	}
	p.EtherSource = q.From.MAC
	if q.From.Kind == Itself {
		p.Source = netip.Addr{}
	}
	if f := c.flow; f != nil {
		p.Source, p.SourcePort, p.TargetPort = f.Original.Source, f.Original.SourcePort, f.Original.TargetPort
		p.Connection = *f
		if p.Protocol == protoTCP && f.State == Established {
			p.TCPFlags = 0x10
		}
	}
	return c.carry(p, q.From)
}

// carry takes a packet from an end to wherever it goes.
func (c *courier) carry(p Packet, from End) bool {
	if !c.back {
		c.sent = p
	}
	switch from.Kind {
	case Guest:
		if c.shares(from) {
			return c.fromShared(p, from)
		}
		return c.fromPort(p, from)
	case Itself:
		return c.fromHost(p)
	}
	if g, ok := c.byCable(p, from); ok {
		return c.cableToShared(p, g)
	}
	return c.fromOutside(p, from)
}

// fromOutside: a packet comes in where the host would send to its source; an answer
// else by where the question left: routes may tell the host itself from others.
func (c *courier) fromOutside(p Packet, from End) bool {
	in := c.linkTo(from.Addr)
	if in == "" && c.back {
		in = c.left
	}
	if c.back && from.Port != "" {
		from.Subnet = c.subnetOn(in, p.Source)
		return c.fromPort(p, from)
	}
	if in == "" {
		return c.end(Unknown, "route", "give the host a route to it", "the host has no way to %s, and where what comes from there arrives is not known", from.Addr)
	}
	if c.back {
		var known bool
		if in, known = c.wayBack(p.Target, in); !known {
			return c.end(Unknown, "answer", "", "the packet goes out at %s as %s, which is not of that link: where %s sends its answer is not known", c.left, p.Target, from.Addr)
		}
	}
	l := c.scene.Host.Links[in]
	if bridge := c.bridgeOf(in); bridge != "" {
		from.Bridge, from.Port, from.Plugged, from.VLAN = bridge, c.portOf(bridge, in, from), true, c.vlanOfLink(in)
		if from.Subnet = c.subnetOn(in, p.Source); from.Port == "" {
			from.Port = c.uplinkOf(bridge)
		}
		if from.Port == "" {
			return c.end(Unknown, "bridge "+bridge, "", "behind which port %s is was not learnt", from.Addr)
		}
		return c.fromPort(p, from)
	}
	from.Bridge, from.Port = in, ""
	c.narrowed("link "+in, l.MTU, false)
	if !c.linkUp(in) || !c.asksHost(from, in, firstAddr(l, p.Target)) {
		return false
	}
	p.In = in
	c.entered(in, l.MAC)
	return c.routed(p, nil)
}

// entered notes where the packet came in.
func (c *courier) entered(port, mac string) {
	if !c.back {
		c.port, c.firstMAC = port, mac
	}
}

// firstAddr is the link's own address of a family, by which the host is asked
// for as a gateway.
func firstAddr(l Link, like netip.Addr) netip.Addr {
	for _, p := range l.Addresses {
		if p.Addr().Is4() == like.Is4() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// wayBack is the link by which an answer comes in: where the question left, if it
// left as an address of that link's networks, else where that address is.
func (c *courier) wayBack(to netip.Addr, usual string) (in string, known bool) {
	near := func(name string) bool { return c.subnetOn(name, to).IsValid() }
	switch {
	case c.left == "" || near(c.left):
		return cmp.Or(c.left, usual), true
	case usual != c.left && near(usual):
		c.add("answer", "comes in at %s, while the question went out at %s", usual, c.left)
		return usual, true
	}
	return usual, !c.hostTakes(to)
}

// linkTo is the link by which the host reaches an address, or else the one on whose
// network it is: who is there may send, even if a route keeps the host from answering.
func (c *courier) linkTo(a netip.Addr) string {
	if c.scene.Host.Route == nil {
		return ""
	}
	if r, ok := c.scene.Host.Route(RouteQuery{Target: a}); ok && r.Type == typeUnicast {
		return r.Out
	}
	for _, name := range slices.Sorted(maps.Keys(c.scene.Host.Links)) {
		if c.subnetOn(name, a).IsValid() {
			return name
		}
	}
	return ""
}

func (c *courier) linkUp(name string) bool {
	l, there := c.scene.Host.Links[name]
	switch {
	case !there:
		return c.end(Dropped, "link "+name, "", "is not there")
	case !l.Up:
		return c.end(Dropped, "link "+name, "ip link set "+name+" up", "is down")
	case !l.Carrier:
		return c.end(Dropped, "link "+name, "plug the cable in, or start the guest behind it", "has no carrier")
	}
	return true
}

// fromHost sends what a program of the host says.
func (c *courier) fromHost(p Packet) bool {
	w := &passage{rules: c.scene.Rules, host: c.scene.Host, follows: c.follows && !c.back, Passage: Passage{Kind: Accepted, Packet: p}}
	end := w.send()
	if from := end.Packet.Connection.Original.Source; !c.back && from.IsValid() {
		c.sent.Source = from
	}
	if !c.passed(end) {
		return false
	}
	if end.Local {
		return c.toHost(end.Packet)
	}
	return c.leave(end.Packet, end.Route)
}

// routed sends a packet that came in through the IP hooks.
func (c *courier) routed(p Packet, at turn) bool {
	w := &passage{rules: c.scene.Rules, host: c.scene.Host, turn: at, Passage: Passage{Kind: Accepted, Packet: p}}
	end := w.arrive()
	if !c.passed(end) {
		return false
	}
	if w.halt != nil {
		return w.halt()
	}
	if end.Local {
		return c.toHost(end.Packet)
	}
	return c.leave(end.Packet, end.Route)
}

// passed notes the hooks and the route of a passage.
func (c *courier) passed(end Passage) bool {
	routed := false
	for _, h := range end.Hops {
		if h.At.Hook != "prerouting" && h.At.Hook != "ingress" && !routed && end.Route.Type != 0 {
			c.noteRoute(end)
			routed = true
		}
		if !c.verdict(h.At.Hook, h.Verdict) || !c.tracks(h) {
			return false
		}
	}
	if !routed && end.Route.Type != 0 && end.Kind == Accepted {
		c.noteRoute(end)
	}
	if end.Kind != Accepted {
		return c.end(end.Kind, "route", c.mendRoute(end), "%s", end.Why)
	}
	return true
}

func (c *courier) noteRoute(end Passage) {
	switch {
	case end.Local:
		c.add("route", "%s is the host itself", end.Packet.Target)
	case end.Route.Via.IsValid():
		c.add("route", "to %s by %s via %s", end.Packet.Target, end.Route.Out, end.Route.Via)
	default:
		c.add("route", "to %s by %s", end.Packet.Target, end.Route.Out)
	}
}

func (c *courier) mendRoute(end Passage) string {
	switch {
	case end.ForwardingOff != "":
		return "sysctl -w " + end.ForwardingOff
	case end.Kind == Dropped:
		return "give the host a route: ip route add " + c.question.To.Addr.String() + " via GATEWAY"
	}
	return ""
}

// toHost delivers to the host itself.
func (c *courier) toHost(p Packet) bool {
	c.arrived = p
	if !c.back {
		c.reached = End{Kind: Itself, Name: "this host", Addr: p.Target}
		if hasPorts(p.Protocol) && c.scene.Listens != nil && c.flow == nil {
			heard, known := c.scene.Listens(p.Protocol, netip.AddrPortFrom(p.Target, p.TargetPort))
			if known && !heard {
				return c.end(Rejected, "program", fmt.Sprintf("start what shall listen on port %d of %s", p.TargetPort, p.Target), "no program of the host listens on port %d of %s", p.TargetPort, p.Target)
			}
		}
	}
	return true
}
