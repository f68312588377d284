package diagnose

import (
	"cmp"
	"fmt"
	"net/netip"

	"drawbridge/internal/ruleset"
)

// EndKind is what one end of a path is.
type EndKind string

// The kinds of ends. Outside are machines beyond a link of the host.
const (
	Guest   EndKind = "guest"
	Itself  EndKind = "host"
	Outside EndKind = "outside"
)

// End is one end of a path.
type End struct {
	Kind EndKind
	// Name for people.
	Name string
	// Addr is invalid if the end has none, or of Itself, where it is found out.
	Addr netip.Addr
	MAC  string
	// Port and Bridge are where a guest is plugged in. Plugged is false if no such
	// port was found.
	Port, Bridge string
	Plugged      bool
	// Subnet and Gateway are those of a guest's network.
	Subnet  netip.Prefix
	Gateway netip.Addr
	// Isolated networks reach no further than the host.
	Network string
}

// Heard is what the host knows of an address on a link.
type Heard struct {
	MAC string
	// Failed: it was asked and did not answer.
	Failed bool
}

// Scene is all that a path is explained from.
type Scene struct {
	Rules *ruleset.Ruleset
	Host  *Host
	// Neighbours by link and address.
	Neighbours map[string]map[netip.Addr]Heard
	// Learned is behind which port of a bridge an address was seen: port by bridge
	// and hardware address.
	Learned map[string]map[string]string
	// Guests are all that are known, to find who has an address.
	Guests []End
	// Listens says whether a program of the host takes what comes to a port; nil if
	// that is not known. heard says what would hear.
	Listens func(proto uint8, to netip.AddrPort) (heard, known bool)
}

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
}

// Explain follows a packet from one end to the other, from tap to wire, and its
// answer back, and says where it ends.
func Explain(s *Scene, q PathQuestion) Answer {
	c := &courier{scene: s, question: q}
	there := c.there()
	if there {
		c.back = true
		c.Back()
	}
	return c.answer()
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
	// port is where it came in, firstMAC whom the frame was for.
	port, firstMAC string
	// past: it passes the host's rules by.
	past bool
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

// fromOutside: a packet comes in where the host would send to its source.
func (c *courier) fromOutside(p Packet, from End) bool {
	in := c.linkTo(from.Addr)
	if in == "" {
		return c.end(Dropped, "route", "give the host a route to it", "the host has no way to %s, so nothing comes from there", from.Addr)
	}
	l := c.scene.Host.Links[in]
	if l.Kind == "bridge" {
		from.Bridge, from.Port, from.Plugged = in, c.portOf(in, from), true
		if from.Subnet = c.subnetOn(in, p.Source); from.Port == "" {
			from.Port = c.uplinkOf(in)
		}
		if from.Port == "" {
			return c.end(Unknown, "bridge "+in, "", "behind which port %s is was not learnt", from.Addr)
		}
		return c.fromPort(p, from)
	}
	from.Bridge, from.Port = in, ""
	if !c.linkUp(in) || !c.asksHost(from, firstAddr(l, p.Target)) {
		return false
	}
	p.In = in
	c.entered(in, l.MAC)
	return c.routed(p)
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

// linkTo is the link by which the host reaches an address.
func (c *courier) linkTo(a netip.Addr) string {
	if c.scene.Host.Route == nil {
		return ""
	}
	r, ok := c.scene.Host.Route(RouteQuery{Target: a})
	if !ok || r.Type != typeUnicast {
		return ""
	}
	return r.Out
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
	w := &passage{rules: c.scene.Rules, host: c.scene.Host, Passage: Passage{Kind: Accepted, Packet: p}}
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
func (c *courier) routed(p Packet) bool {
	w := &passage{rules: c.scene.Rules, host: c.scene.Host, Passage: Passage{Kind: Accepted, Packet: p}}
	end := w.arrive()
	if !c.passed(end) {
		return false
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
		if !c.verdict(h.At.Hook, h.Verdict) {
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
		if hasPorts(p.Protocol) && c.scene.Listens != nil {
			heard, known := c.scene.Listens(p.Protocol, netip.AddrPortFrom(p.Target, p.TargetPort))
			if known && !heard {
				return c.end(Rejected, "program", fmt.Sprintf("start what shall listen on port %d of %s", p.TargetPort, p.Target), "no program of the host listens on port %d of %s", p.TargetPort, p.Target)
			}
		}
	}
	return true
}

// Back carries the answer.
func (c *courier) Back() {
	there := c.arrived
	p := Packet{
		Source: there.Target, Target: there.Source, Protocol: there.Protocol, SourcePort: there.TargetPort, TargetPort: there.SourcePort,
		EtherSource: c.reached.MAC, ICMPType: answerType(there),
		Connection: Connection{
			State: Established, Reply: true, Status: there.Connection.Status | StatusConfirmed | StatusSeenReply, Mark: there.Connection.Mark,
			Original: there.Connection.Original, Answer: Tuple{Source: there.Target, Target: there.Source, SourcePort: there.TargetPort, TargetPort: there.SourcePort},
		},
	}
	if there.Connection.State != New && there.Connection.State != 0 {
		p.Connection.State, p.Connection.Original, p.Connection.Answer = there.Connection.State, Tuple{}, Tuple{}
	}
	if there.Protocol == protoTCP {
		p.TCPFlags = 0x12
	}
	if !there.Source.IsValid() {
		c.end(Unknown, "NAT", "", "as whom the packet arrives is not known")
		return
	}
	c.carry(p, c.reached)
}

func answerType(p Packet) uint8 {
	if p.Protocol == protoICMP6 {
		return 129
	}
	return 0
}

// answer puts it into one sentence.
func (c *courier) answer() Answer {
	q := c.question
	a := Answer{Kind: Accepted, Steps: c.steps, Mend: c.mend, Sent: c.sent, Arrived: c.arrived, Port: c.port, FirstMAC: c.firstMAC, Past: c.past}
	what := "a ping"
	if q.Port != 0 {
		what = fmt.Sprintf("a connection to port %d", q.Port)
	}
	if c.ended == nil {
		a.Sentence = fmt.Sprintf("%s from %s reaches %s, and the answer comes back", what, q.From.Name, q.To.Name)
		if c.reached.Kind == Guest && c.reached.Name != q.To.Name {
			a.Sentence = fmt.Sprintf("%s from %s to %s reaches %s, and the answer comes back", what, q.From.Name, q.To.Name, c.reached.Name)
		}
		return a
	}
	a.Kind = c.ended.Kind
	way := fmt.Sprintf("%s from %s to %s", what, q.From.Name, q.To.Name)
	if c.ended.Back {
		way = fmt.Sprintf("the answer of %s to %s", q.To.Name, q.From.Name)
	}
	owner := ""
	if c.ended.Owner != "" && c.ended.Chain != nil {
		owner = ", which is " + string(c.ended.Owner) + "'s"
	}
	switch a.Kind {
	case Unknown:
		a.Mend = ""
		a.Sentence = fmt.Sprintf("what becomes of %s is not known at %s: %s", way, c.ended.Where, c.ended.What)
	case Rejected:
		a.Sentence = fmt.Sprintf("%s is refused at %s%s: %s", way, c.ended.Where, owner, c.ended.What)
	default:
		a.Sentence = fmt.Sprintf("%s ends at %s%s: %s", way, c.ended.Where, owner, c.ended.What)
	}
	return a
}
