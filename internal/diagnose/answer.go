package diagnose

import (
	"fmt"
	"net/netip"

	"drawbridge/internal/ruleset"
)

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
	// What is not tracked is not translated back.
	if s := there.Connection.State; s != New && s != 0 && (s != Established || there.Connection.Original == (Tuple{})) {
		p.Connection.State, p.Connection.Original, p.Connection.Answer = there.Connection.State, Tuple{}, Tuple{}
	}
	if there.Protocol == protoTCP {
		p.TCPFlags = 0x12
	}
	if !there.Source.IsValid() {
		c.end(Unknown, "NAT", "", "as whom the packet arrives is not known")
		return
	}
	for _, g := range c.scene.Guests {
		if c.reached.Kind == Guest && g.Name == c.reached.Name && g.Addr == p.Target {
			c.end(Dropped, "answer", "", "%s is asked from an address of its own, %s, and answers that to itself: connect to it without going by the host", g.Name, p.Target)
			return
		}
	}
	card, sure := Card(c.scene.Guests, c.reached, p.Target)
	if !sure {
		c.end(Unknown, "answer", "", "%s has another card on network %s: by which it answers %s is not known", c.reached.Name, card.Network, p.Target)
		return
	}
	if !c.carry(p, card) {
		return
	}
	switch asked, came := c.sent, c.arrived; {
	case came.Target.IsValid() && asked.Source.IsValid() && came.Target != asked.Source:
		c.end(Dropped, "NAT", "", "the answer comes to %s and is not translated back to %s: connection tracking does not see it", came.Target, asked.Source)
	case came.Source.IsValid() && came.Source != asked.Target:
		c.end(Dropped, "NAT", "", "the answer comes from %s, while %s was asked: it does not come back through what translated the question", came.Source, asked.Target)
	}
}

// Card is the port by which a guest with several sends to an address: that on the
// address's network, else the only one with a way out. sure is false if there is
// another with one.
func Card(guests []End, e End, to netip.Addr) (card End, sure bool) {
	if e.Kind != Guest || e.Subnet.Contains(to) {
		return e, true
	}
	var out []End
	if !e.NoRouter {
		out = append(out, e)
	}
	for _, g := range guests {
		if g.Name != e.Name || g.Port == e.Port || !g.Plugged || g.Addr.Is6() != e.Addr.Is6() || !g.Addr.IsValid() {
			continue
		}
		if g.Subnet.Contains(to) {
			return g, true
		}
		if !g.NoRouter {
			out = append(out, g)
		}
	}
	switch len(out) {
	case 0:
		return e, true
	case 1:
		return out[0], true
	}
	return out[1], false
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
	c.sized(&a)
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
	if c.stops {
		way += " is answered, and what follows"
	}
	owner := ""
	if c.ended.Owner != "" && c.ended.Owner != ruleset.Unknown && c.ended.Chain != nil {
		owner = ", which is " + string(c.ended.Owner) + "'s"
	}
	switch a.Kind {
	case Unknown:
		a.Sentence = fmt.Sprintf("what becomes of %s is not known at %s: %s", way, c.ended.Where, c.ended.What)
	case Rejected:
		a.Sentence = fmt.Sprintf("%s is refused at %s%s: %s", way, c.ended.Where, owner, c.ended.What)
	default:
		a.Sentence = fmt.Sprintf("%s ends at %s%s: %s", way, c.ended.Where, owner, c.ended.What)
	}
	return a
}
