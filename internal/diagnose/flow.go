package diagnose

import (
	"fmt"
	"net/netip"
)

// FlowAnswer is what becomes of a connection between the same ends that is there
// already: rules treat it otherwise than a new one, and its translation is that of
// when it began.
type FlowAnswer struct {
	// Connection as it is tracked, and how many more there are.
	Connection Connection
	More       int
	Kind       Kind
	Sentence   string
	Steps      []PathStep
	// Reached is the address that it goes to after translation.
	Reached netip.AddrPort
}

// existing looks whether there is such a connection, and what becomes of it.
func (c *courier) existing(a *Answer) {
	q := c.question
	from, to := c.sent.Source, c.sent.Target
	if c.scene.Flows == nil || !from.IsValid() || !to.IsValid() || q.Port == 0 {
		return
	}
	list, err := c.scene.Flows(q.Proto, from, to)
	if err != nil {
		a.Notes = append(a.Notes, fmt.Sprintf("whether a connection is there already is not known: %v", err))
		return
	}
	var best *Connection
	more := -1
	for i, f := range list {
		if f.Original.TargetPort != q.Port {
			continue
		}
		more++
		if best == nil || best.State != Established && f.State == Established {
			best = &list[i]
		}
	}
	if best == nil {
		return
	}
	old := &courier{scene: c.scene, question: q, flow: best}
	if old.there() {
		got := old.arrived
		old.back = true
		old.Back()
		old.arrived = got
	}
	b := old.answer()
	a.Flow = &FlowAnswer{Connection: *best, More: more, Kind: b.Kind, Steps: b.Steps, Reached: netip.AddrPortFrom(old.arrived.Target, old.arrived.TargetPort)}
	a.Flow.Sentence = c.compared(a, b, old)
	if a.Flow.Kind != a.Kind || old.reached.Addr != c.reached.Addr && c.ended == nil && old.ended == nil {
		a.Sentence += "; " + a.Flow.Sentence
	}
}

// compared says how a connection that is there fares.
func (c *courier) compared(a *Answer, b Answer, old *courier) string {
	o := old.flow.Original
	what := "an established connection"
	if old.flow.State != Established {
		what = "a connection that nobody has answered yet"
	}
	what = fmt.Sprintf("%s is there (%s to %s)", what, netip.AddrPortFrom(o.Source, o.SourcePort), netip.AddrPortFrom(o.Target, o.TargetPort))
	if b.Kind == Unknown {
		return fmt.Sprintf("%s, and what becomes of it is not known at %s: %s", what, old.ended.Where, old.ended.What)
	}
	if b.Kind != Accepted {
		return fmt.Sprintf("%s and does not pass: it ends at %s: %s", what, old.ended.Where, old.ended.What)
	}
	if c.ended != nil {
		return what + " and goes on to pass"
	}
	if old.reached.Addr != c.reached.Addr {
		return fmt.Sprintf("%s and goes on to %s, as it was translated when it began; conntrack -D -p %d -s %s -d %s ends it", what, old.arrived.Target, c.question.Proto, o.Source, o.Target)
	}
	return what + " and passes too"
}

// goesOn sends what follows the answer: rules that let a connection begin may be in
// the way of what it says then, which is in another state. got is the first packet
// as it arrived.
func (c *courier) goesOn(got Packet) {
	if c.question.Proto != protoTCP || !c.sent.Source.IsValid() || !got.Source.IsValid() {
		return
	}
	p, f := c.sent, got.Connection
	if f.State == New {
		f.State, f.Status = Established, f.Status|StatusConfirmed|StatusSeenReply|StatusAssured
		f.Original = Tuple{Source: p.Source, Target: p.Target, SourcePort: p.SourcePort, TargetPort: p.TargetPort}
		f.Answer = Tuple{Source: got.Target, Target: got.Source, SourcePort: got.TargetPort, TargetPort: got.SourcePort}
	}
	p.TCPFlags, p.Connection = 0x10, f
	next := &courier{scene: c.scene, question: c.question, flow: &f, follows: true}
	if next.carry(p, c.question.From) {
		return
	}
	c.steps = append(c.steps, *next.ended)
	c.ended, c.mend, c.stops = next.ended, next.mend, true
}

// tracks says whether connection tracking takes a new connection, unless its table
// is full. The kernel then looks for one to give up, in a few places of the table
// (early_drop in nf_conntrack_core.c): which it looks at is not known.
func (c *courier) tracks(h Hop) bool {
	s := c.scene
	if s.TrackedMax == 0 || s.Tracked < s.TrackedMax || h.At.Layer != Routed || h.At.Hook != "prerouting" && h.At.Hook != "output" || h.Verdict.After.Connection.State != New {
		return true
	}
	mend := fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", 2*s.TrackedMax)
	if s.Yields != nil {
		if some, err := s.Yields(); err == nil && !some {
			return c.end(Dropped, "connection tracking", mend, "its table is full (%d of %d), and of connections that are all established the kernel gives up none for a new one", s.Tracked, s.TrackedMax)
		}
	}
	return c.end(Unknown, "connection tracking", mend, "its table is full (%d of %d): a new connection is dropped unless the kernel finds one to give up for it", s.Tracked, s.TrackedMax)
}

// narrowed notes how large a packet may be somewhere. silent is a bridge's port:
// what is too large there is dropped and nobody told.
func (c *courier) narrowed(where string, mtu int, silent bool) {
	if c.back || mtu == 0 || c.mtu != 0 && mtu >= c.mtu {
		return
	}
	first := c.mtu == 0
	c.mtu, c.narrow, c.silent = mtu, where, silent && !first
}

// sized says how large packets may be, where that is less than senders think.
func (c *courier) sized(a *Answer) {
	if c.ended != nil || c.mtu == 0 {
		return
	}
	a.MTU = c.mtu
	if c.silent {
		a.Notes = append(a.Notes, fmt.Sprintf("packets of more than %d bytes are dropped in silence at %s, whose MTU is smaller than that of where they come from", c.mtu, c.narrow))
	}
}
