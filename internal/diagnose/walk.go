package diagnose

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"drawbridge/internal/ruleset"
)

// The kernel allows 16 jumps in one another (NFT_JUMP_STACK_SIZE); budget is how
// many rules one walk evaluates at most.
const (
	maxJumps = 16
	budget   = 500_000
)

// All nat chains of a hook are asked by one function of the kernel at a fixed
// place (nf_nat_core.c): with translations of the target before everything else
// of priority -100, those of the source after it.
const (
	priorityTarget = -100
	prioritySource = 100
)

// walk is one packet's way through one hook.
type walk struct {
	host     *Host
	at       At
	priority int
	left     int
	passed   *state
	passRule *ruleset.Rule
	// sent is what came to the hook, with the target for which a way was asked last;
	// anew when it was asked again.
	sent     Packet
	anew     *Packet
	refusals []refusal
	chain    *ruleset.Chain // the base chain
	// pretend is a translation of the target that no rule asks for yet.
	pretend netip.AddrPort
	// look is for rules that are looked at and passed by.
	look machine
}

// refusal is where a packet ends, or perhaps does.
type refusal struct {
	kind  Kind
	chain *ruleset.Chain
	rule  *ruleset.Rule
	// doubt is why it is not certain; "" if it is.
	doubt string
}

func familiesOf(at At, p Packet) []string {
	switch at.Layer {
	case Switched:
		return []string{ruleset.Bridge}
	case ARP:
		return []string{ruleset.ARP}
	case Device:
		return []string{ruleset.Netdev, ruleset.Inet}
	}
	if etherTypeOf(p) == etherIP6 {
		return []string{ruleset.IP6, ruleset.Inet}
	}
	return []string{ruleset.IP, ruleset.Inet}
}

// legacyAt says whether a table of iptables-legacy sees the packet.
func legacyAt(r *ruleset.Ruleset, at At, p Packet) (string, bool) {
	family := familiesOf(at, p)[0]
	hooks := map[string][]string{
		"filter": {"input", "forward", "output"}, "nat": {"prerouting", "input", "output", "postrouting"}, "raw": {"prerouting", "output"},
		"security": {"input", "forward", "output"}, "mangle": {"prerouting", "input", "forward", "output", "postrouting"},
	}
	for _, name := range r.Legacy {
		for table, at0 := range hooks {
			if name == family+" "+table && slices.Contains(at0, at.Hook) && at.Layer == Routed {
				return name, true
			}
		}
	}
	return "", false
}

// bound leaves out chains of other devices, and puts nat chains where the kernel
// asks them.
func bound(chains []*ruleset.Chain, at At, p Packet) []*ruleset.Chain {
	dev := p.In
	if at.Hook == "egress" {
		dev = p.Out
	}
	chains = slices.DeleteFunc(chains, func(c *ruleset.Chain) bool {
		return at.Layer == Device && !slices.Contains(c.Devices, dev)
	})
	slices.SortStableFunc(chains, func(a, b *ruleset.Chain) int { return cmp.Compare(effective(a), effective(b)) })
	return chains
}

// effective is the priority at which a chain is asked.
func effective(c *ruleset.Chain) int {
	if c.Type != "nat" {
		return c.Priority
	}
	if c.Hook == "prerouting" || c.Hook == "output" {
		return priorityTarget
	}
	return prioritySource
}

// turned gives the same chains with those of equal priority the other way round;
// false if there are none from different tables.
func turned(chains []*ruleset.Chain) ([]*ruleset.Chain, bool) {
	out, tied := slices.Clone(chains), false
	for i := 0; i < len(out); {
		j := i + 1
		for j < len(out) && out[j].Priority == out[i].Priority && effective(out[j]) == effective(out[i]) {
			tied = tied || out[j].Table != out[i].Table
			j++
		}
		slices.Reverse(out[i:j])
		i = j
	}
	return out, tied
}

// same says whether two walks came to the same end.
func same(a, b Verdict) bool {
	return a.Kind == b.Kind && a.After == b.After && slices.EqualFunc(a.Translations, b.Translations, func(x, y Translation) bool {
		return x.Kind == y.Kind && x.Addr == y.Addr && x.Port == y.Port && x.Perhaps == y.Perhaps
	})
}

func (w *walk) hook(chains []*ruleset.Chain, p Packet) Verdict {
	s := newState(p, w.at)
	if s.packet.Connection.State == New && s.packet.Connection.Original == (Tuple{}) {
		s.packet.Connection.Original = Tuple{Source: p.Source, Target: p.Target, SourcePort: p.SourcePort, TargetPort: p.TargetPort}
	}
	current := &s
	w.sent = p
	var steps []Step
	for _, c := range chains {
		if w.pretends(current) && effective(c) >= priorityTarget {
			w.doPretend(current)
		}
		if at := effective(c); w.translatesTarget() && at >= priorityTarget || !w.translatesTarget() && at >= prioritySource {
			w.retranslate(current)
		}
		if c.Type == "nat" && !w.asksNAT(current) {
			continue
		}
		refused := len(w.refusals)
		before := *current
		current = w.baseChain(c, *current)
		step := Step{Chain: c, Rule: w.passRule, Kind: Accepted}
		for _, r := range w.refusals[refused:] {
			if step = (Step{Chain: c, Rule: r.rule, Kind: r.kind}); r.doubt != "" {
				step.Kind = Unknown
			}
		}
		steps = append(steps, step)
		if current == nil {
			current = &before
			return w.verdict(nil, &before, steps)
		}
		w.wayAnew(c, &before, current)
	}
	if w.pretends(current) {
		w.doPretend(current)
	}
	w.retranslate(current)
	w.wayAnew(nil, current, current)
	return w.verdict(current, current, steps)
}

// wayAnew notes that the kernel asks for the way of what the host sends again: once
// its target was translated (nf_nat_ipv4_local_fn), or a chain of type route changed
// it (nf_route_table_hook4). A mark that another chain sets comes too late.
func (w *walk) wayAnew(c *ruleset.Chain, before, after *state) {
	if w.at.Layer != Routed || w.at.Hook != "output" {
		return
	}
	now, _ := after.after()
	again := now.Target != w.sent.Target
	if c != nil && c.Type == "route" {
		was, _ := before.after()
		again = again || was.Mark != now.Mark || was.MarkUnknown != now.MarkUnknown || was.Source != now.Source
	}
	if again {
		w.sent.Target, w.anew = now.Target, &now
	}
}

func (w *walk) translatesTarget() bool {
	return w.at.Hook == "prerouting" || w.at.Hook == "output"
}

// retranslate does what connection tracking does, without asking rules, to the
// packets of a connection that was translated at its beginning.
func (w *walk) retranslate(s *state) {
	c := s.packet.Connection
	if w.at.Layer != Routed || c.State != Established && c.State != Related || s.tracked != yes || c.Original == (Tuple{}) || c.Answer == (Tuple{}) {
		return
	}
	// The connection's own directions, as this packet's are to become.
	from, to := c.Original, Tuple{Source: c.Answer.Target, Target: c.Answer.Source, SourcePort: c.Answer.TargetPort, TargetPort: c.Answer.SourcePort}
	if c.Reply {
		from, to = c.Answer, Tuple{Source: c.Original.Target, Target: c.Original.Source, SourcePort: c.Original.TargetPort, TargetPort: c.Original.SourcePort}
	}
	switch w.at.Hook {
	case "prerouting", "output":
		if s.packet.Target == from.Target && (from.Target != to.Target || from.TargetPort != to.TargetPort) {
			s.setTarget(to.Target, to.TargetPort, false, false)
		}
	case "postrouting", "input":
		if s.packet.Source == from.Source && (from.Source != to.Source || from.SourcePort != to.SourcePort) {
			s.setSource(to.Source, to.SourcePort, false, false)
		}
	}
}

func (w *walk) pretends(s *state) bool { return w.pretend.IsValid() && s.targetDone != yes }

// doPretend translates the target as the first nat chain of priority dstnat
// would.
func (w *walk) doPretend(s *state) {
	m := machine{walk: w, s: s}
	m.translate(natWish{kind: "dnat", first: w.pretend.Addr(), firstPort: w.pretend.Port(), portsSpecified: w.pretend.Port() != 0})
}

// asksNAT says whether nat chains see the packet: the first of a connection, as
// long as the translation of this hook is not settled.
func (w *walk) asksNAT(s *state) bool {
	c := s.packet.Connection
	if s.tracked == no || c.State != New && c.State != Related && c.State != 0 {
		return false
	}
	if w.at.Hook == "postrouting" || w.at.Hook == "input" {
		return s.sourceDone != yes
	}
	return s.targetDone != yes
}

// baseChain sends a state through a base chain: what passes it, nil if nothing.
func (w *walk) baseChain(c *ruleset.Chain, s state) *state {
	w.chain, w.priority, w.passed, w.passRule = c, c.Priority, nil, nil
	if c.Type == "nat" {
		w.priority = effective(c)
		switch {
		case s.packet.Connection.State == 0 && s.doubt == "":
			s.doubt = "it is not known whether the connection is new"
		case s.doubt == "" && (s.targetDone == maybe || s.sourceDone == maybe):
			s.doubt = "it is not known whether another chain translates the packet"
		}
	}
	if end := w.run(c, s, 0); end != nil {
		if c.Drop {
			w.refuse(Dropped, nil, end)
		} else {
			w.pass(nil, end)
		}
	}
	return w.passed
}

// pass lets a state go to the next base chain.
func (w *walk) pass(r *ruleset.Rule, s *state) {
	w.passed = join(w.passed, s)
	if r != nil || w.passRule == nil {
		w.passRule = r
	}
}

func (w *walk) refuse(kind Kind, r *ruleset.Rule, s *state) {
	w.refusals = append(w.refusals, refusal{kind, w.chain, r, s.doubt})
}

// run sends a state through the rules of a chain; it gives back what comes to its
// end or returns, nil if nothing does.
func (w *walk) run(c *ruleset.Chain, s state, depth int) *state {
	if depth > maxJumps {
		w.refusals = append(w.refusals, refusal{Unknown, w.chain, nil, "chains jump deeper than the kernel allows"})
		return nil
	}
	var returned *state
	current := &s
	for _, r := range c.Rules {
		if w.left--; w.left < 0 {
			w.refusals = append(w.refusals, refusal{Unknown, w.chain, nil, fmt.Sprintf("more than %d rules", budget)})
			return nil
		}
		if w.passesBy(r, current) {
			continue
		}
		next, back := w.apply(r, *current, depth)
		returned = join(returned, back)
		if next == nil {
			return returned
		}
		current = next
	}
	return join(returned, current)
}

// verdict puts together what happened: passed is nil if nothing came through.
func (w *walk) verdict(passed, last *state, steps []Step) Verdict {
	v := Verdict{Kind: Accepted, Steps: steps, Anew: w.anew}
	v.After, v.Translations = last.after()
	if len(w.refusals) == 0 {
		return v
	}
	kinds := map[Kind]bool{}
	for _, r := range w.refusals {
		kinds[r.kind] = true
	}
	r := w.refusals[0]
	if passed == nil {
		// It ends in any case; the one that is certain is the last.
		certain := w.refusals[len(w.refusals)-1]
		if !kinds[Unknown] && len(kinds) == 1 {
			v.Kind = certain.kind
			return w.blame(v, certain)
		}
		if !kinds[Unknown] {
			// Dropped or rejected, but ended.
			v.Kind, v.Either = Dropped, true
			return w.blame(v, certain)
		}
	}
	for _, one := range w.refusals {
		if one.kind == Unknown {
			r = one
			break
		}
	}
	v.Kind, v.Why = Unknown, r.doubt
	if v.Why == "" {
		v.Why = last.doubt
	}
	return w.blame(v, r)
}

func (w *walk) blame(v Verdict, r refusal) Verdict {
	v.Chain, v.Rule = r.chain, r.rule
	if r.rule != nil {
		v.Owner = ruleset.OwnerOfRule(r.rule)
	} else {
		v.Owner = ruleset.OwnerOfPolicy(r.chain)
	}
	return v
}

// after is the packet as it leaves, and what was done to it.
func (s *state) after() (Packet, []Translation) {
	p := s.packet
	p.Mark, p.MarkUnknown = s.mark.value, s.mark.known != ^uint32(0)
	if p.MarkUnknown {
		p.Mark = 0
	}
	if s.ctMark.known == ^uint32(0) {
		p.Connection.Mark = s.ctMark.value
	}
	if p.Connection.State != 0 {
		p.Connection.Status = s.ctStatus.value & s.ctStatus.known
		if s.tracked == no {
			p.Connection.State = State(s.ctState.value)
		}
	}
	var t []Translation
	for _, one := range []Translation{s.target, s.source} {
		if one.Kind != "" {
			t = append(t, one)
		}
	}
	return p, t
}

// join is what is known if either of two states may be the one.
func join(a, b *state) *state {
	if a == nil || b == nil {
		if a == nil {
			a = b
		}
		if a == nil {
			return nil
		}
		c := *a
		return &c
	}
	c := *a
	for _, h := range []struct{ to, from *header }{{&c.link, &b.link}, {&c.network, &b.network}, {&c.transport, &b.transport}} {
		for i := range h.to.bytes {
			h.to.known[i] &= h.from.known[i] &^ (h.to.bytes[i] ^ h.from.bytes[i])
		}
	}
	for _, x := range []struct {
		to   *bits
		from bits
	}{{&c.mark, b.mark}, {&c.ctMark, b.ctMark}, {&c.ctState, b.ctState}, {&c.ctStatus, b.ctStatus}} {
		x.to.known &= x.from.known &^ (x.to.value ^ x.from.value)
	}
	if a.tracked != b.tracked {
		c.tracked = maybe
	}
	c.packet = joinPackets(a.packet, b.packet)
	c.target, c.source = joinTranslations(a.target, b.target), joinTranslations(a.source, b.source)
	if a.targetDone != b.targetDone {
		c.targetDone = maybe
	}
	if a.sourceDone != b.sourceDone {
		c.sourceDone = maybe
	}
	if b.doubt != a.doubt {
		c.doubt = cmp.Or(a.doubt, b.doubt)
	}
	return &c
}

func joinPackets(a, b Packet) Packet {
	a.EtherType = etherTypeOf(a)
	if a.Source != b.Source {
		a.Source = netip.Addr{}
	}
	if a.Target != b.Target {
		a.Target = netip.Addr{}
	}
	if a.SourcePort != b.SourcePort {
		a.SourcePort = 0
	}
	if a.TargetPort != b.TargetPort {
		a.TargetPort = 0
	}
	return a
}

func joinTranslations(a, b Translation) Translation {
	if a == b {
		return a
	}
	if a.Kind == "" {
		a = b
	}
	a.Perhaps = true
	return a
}
