package diagnose

import (
	"bytes"
	"sort"

	"drawbridge/internal/ruleset"
)

// manyAnswers is how many elements a look-up of something not wholly known may
// yield before it is just unknown.
const manyAnswers = 16

// lookup looks a register up in a set, map or verdict map.
func (m *machine) lookup(e ruleset.Lookup) truth {
	if e.Set == nil {
		m.why = "set " + e.Name + " was not read"
		m.loseLookup(e)
		return maybe
	}
	b, known := m.regs.get(e.Src, e.Set.KeyLen)
	found, in := m.walk.find(e.Set, b, known)
	if in == maybe {
		m.why = "not known whether it is in @" + e.Set.Name
	}
	if e.Invert {
		return in.not()
	}
	if in == no || e.Dst == ruleset.NoRegister && !e.Set.Verdicts {
		return in
	}
	if e.Set.Verdicts {
		if len(found) == 0 || len(found) > manyAnswers {
			m.loseLookup(e)
			return maybe
		}
		for _, f := range found {
			if f.Verdict != nil {
				m.verdicts = append(m.verdicts, *f.Verdict)
			}
		}
		return in
	}
	if len(found) == 0 {
		m.loseLookup(e)
		return in
	}
	out, outKnown := bytes.Clone(found[0].Data), bytes.Repeat([]byte{0xff}, len(found[0].Data))
	for _, f := range found[1:] {
		for i := range min(len(out), len(f.Data)) {
			outKnown[i] &^= out[i] ^ f.Data[i]
		}
	}
	m.regs.load(e.Dst, out, outKnown)
	return in
}

// loseLookup: what a map yields is not known.
func (m *machine) loseLookup(e ruleset.Lookup) {
	if e.Set != nil && e.Set.Verdicts {
		m.verdicts = append(m.verdicts, ruleset.Verdict{Kind: ruleset.Queue})
	} else if e.Dst != ruleset.NoRegister {
		m.regs.unknown(e.Dst, 16)
	}
}

// find lists the elements that a key has, or may have, and whether it has one.
func (w *walk) find(s *ruleset.Set, b, known []byte) (found []*ruleset.Element, in truth) {
	var rest *ruleset.Element
	all, partial := s.All()
	if whole(known) {
		found, in = w.exact(s, all, b)
	} else {
		for i := range all {
			e := &all[i]
			if e.Rest {
				continue
			}
			switch fits(s, e, b, known) {
			case yes:
				in, found = yes, append(found, e)
			case maybe:
				in, found = max(in, maybe), append(found, e)
			}
		}
	}
	if in != yes {
		for i := range all {
			if all[i].Rest {
				rest = &all[i]
			}
		}
		if rest != nil {
			found, in = append(found, rest), yes
		}
	}
	if in == no && partial {
		in = maybe
	}
	for _, e := range found {
		// A timed element may end any moment, but is there now.
		if e.Limited {
			in = maybe
		}
	}
	return found, in
}

// exact finds the element of a key that is wholly known.
func (w *walk) exact(s *ruleset.Set, all []ruleset.Element, b []byte) ([]*ruleset.Element, truth) {
	if s.Interval && s.Fields == nil {
		i := sort.Search(len(all), func(i int) bool {
			return !all[i].Rest && bytes.Compare(all[i].First, b) > 0
		})
		for i--; i >= 0; i-- {
			if e := &all[i]; !e.Rest {
				if bytes.Compare(b, e.Last) <= 0 {
					return []*ruleset.Element{e}, yes
				}
				break
			}
		}
		return nil, no
	}
	if !s.Interval {
		for i := range all {
			if e := &all[i]; !e.Rest && bytes.Equal(e.First, b) {
				return []*ruleset.Element{e}, yes
			}
		}
		return nil, no
	}
	// Sets of intervals of concatenations take the element that was put in first
	// where two fit; which that was is not told.
	everyBit := bytes.Repeat([]byte{0xff}, len(b))
	var found []*ruleset.Element
	for i := range all {
		if e := &all[i]; !e.Rest && fits(s, e, b, everyBit) == yes {
			found = append(found, e)
		}
	}
	return found, truthOf(len(found) > 0)
}

// fits says whether a key lies in an element.
func fits(s *ruleset.Set, e *ruleset.Element, b, known []byte) truth {
	if !s.Interval {
		return equals(b, known, e.First)
	}
	if s.Fields == nil {
		return within(b, known, e.First, e.Last)
	}
	t, at := yes, 0
	for _, n := range s.Fields {
		end := at + n
		if end > len(b) || end > len(e.First) || end > len(e.Last) {
			return maybe
		}
		t = min(t, within(b[at:end], known[at:end], e.First[at:end], e.Last[at:end]))
		at = (end + 3) &^ 3
	}
	return t
}
