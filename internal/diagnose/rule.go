package diagnose

import (
	"fmt"

	"drawbridge/internal/ruleset"
)

// passesBy says whether a rule is certainly not about a packet: one of its
// conditions does not hold, and nothing before that changes anything. Most rules
// of a large firewall are such, and so are told without a copy of the state.
func (w *walk) passesBy(r *ruleset.Rule, s *state) bool {
	m := &w.look
	m.walk, m.s, m.rule, m.verdicts = w, s, r, m.verdicts[:0]
	for _, e := range r.Exprs {
		switch e.(type) {
		case ruleset.Payload, ruleset.Meta, ruleset.Ct, ruleset.Cmp, ruleset.Range, ruleset.Bitwise, ruleset.Byteorder, ruleset.Immediate, ruleset.Lookup, ruleset.Fib, ruleset.Match:
		case ruleset.Counter, ruleset.Object, ruleset.Limit:
			continue // whatever they say, what comes after may still not hold
		default:
			return false
		}
		if t := m.step(e); t != yes || len(m.verdicts) > 0 {
			return t == no
		}
	}
	return false
}

// apply carries a rule out: what goes on to the next rule, and what returns to
// the chain that this one was jumped to from.
func (w *walk) apply(r *ruleset.Rule, s state, depth int) (next, back *state) {
	m := machine{walk: w, s: &s, rule: r}
	for _, e := range r.Exprs {
		m.why = ""
		untouched := s
		seen := len(m.verdicts)
		t := m.step(e)
		if t == no {
			return join(next, &s), nil
		}
		if t == maybe {
			next = join(next, &untouched)
			m.doubt()
		} else if len(m.verdicts) == seen+1 && m.verdicts[seen].Kind == ruleset.Queue && s.doubt == "" {
			s.doubt = m.why
		}
		if len(m.verdicts) > 0 {
			break
		}
	}
	if len(m.verdicts) == 0 {
		return join(next, &s), nil
	}
	if len(m.verdicts) > 1 {
		m.doubt()
	}
	for _, v := range m.verdicts {
		n, b := w.decide(r, v, s, depth, m.rejects)
		next, back = join(next, n), join(back, b)
	}
	return next, back
}

// doubt notes that the rule may or may not have fitted.
func (m *machine) doubt() {
	if m.s.doubt != "" {
		return
	}
	if m.why == "" {
		m.why = "what the rule asks for is not known"
	}
	m.s.doubt = fmt.Sprintf("%s (%s: %s)", m.why, m.rule.Chain, m.rule)
}

func (w *walk) decide(r *ruleset.Rule, v ruleset.Verdict, s state, depth int, rejects bool) (next, back *state) {
	switch v.Kind {
	case ruleset.Accept:
		w.pass(r, &s)
	case ruleset.Drop:
		kind := Dropped
		if rejects {
			kind = Rejected
		}
		w.refuse(kind, r, &s)
	case ruleset.Continue:
		return &s, nil
	case ruleset.Return:
		return nil, &s
	case ruleset.Jump, ruleset.Goto:
		target := w.chain.Table.Chain(v.Chain) // the rule's own table may be what this one is a copy of
		if target == nil {
			w.refusals = append(w.refusals, refusal{Unknown, w.chain, r, "chain " + v.Chain + " was not read"})
			return nil, nil
		}
		after := w.run(target, s, depth+1)
		if v.Kind == ruleset.Goto {
			return nil, after
		}
		return after, nil
	default:
		// A program or an unknown extension decides: either way.
		if s.doubt == "" {
			s.doubt = "something else decides (" + r.Chain.String() + ": " + r.String() + ")"
		}
		w.refusals = append(w.refusals, refusal{Unknown, w.chain, r, s.doubt})
		w.pass(r, &s)
		return &s, nil
	}
	return nil, nil
}
