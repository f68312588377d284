package diagnose

import (
	"bytes"

	"drawbridge/internal/ruleset"
)

// pruned is a ruleset without the rules that none of the needs can match, by
// what they ask first: interfaces and addresses. A host with ten thousand rules
// of others has a few that could be about guests, and each of hundreds of
// needs would have to go past all of them.
func pruned(r *ruleset.Ruleset, needs []Need) *ruleset.Ruleset {
	s := sieve{in: map[string]bool{}, out: map[string]bool{}}
	for _, p := range needs {
		s.in[p.Packet.In], s.out[p.Packet.Out] = true, true
		s.headers = append(s.headers, addressBytes(p.Packet))
	}
	s.exact = map[place]map[string]bool{}
	out := &ruleset.Ruleset{Legacy: r.Legacy}
	for _, t := range r.Tables {
		if rewrites(t) {
			out.Tables = append(out.Tables, t)
			continue
		}
		out.Tables = append(out.Tables, cloned(t, func(c *ruleset.Chain) *ruleset.Chain {
			copied := *c
			copied.Rules = nil
			for _, rule := range c.Rules {
				if s.mayMatch(rule.Exprs) {
					copied.Rules = append(copied.Rules, rule)
				}
			}
			return &copied
		}))
	}
	return out
}

// rewrites says whether a table changes packets' bytes, so that what rules ask
// later is not what the need says.
func rewrites(t *ruleset.Table) bool {
	for _, c := range t.Chains {
		for _, r := range c.Rules {
			for _, e := range r.Exprs {
				if _, ok := e.(ruleset.PayloadSet); ok {
					return true
				}
			}
		}
	}
	return false
}

type place struct{ offset, length int }

type sieve struct {
	in, out map[string]bool
	headers []addresses
	// exact are the values that the headers have at a place.
	exact map[place]map[string]bool
}

// addresses is a packet's network header, of which the bytes from known on, the
// addresses, are true.
type addresses struct {
	bytes []byte
	known int
}

func addressBytes(p Packet) addresses {
	if p.Source.Is4() {
		b := make([]byte, 12, 20)
		b = append(append(b, p.Source.AsSlice()...), p.Target.AsSlice()...)
		return addresses{b, 12}
	}
	b := make([]byte, 8, 40)
	b = append(append(b, p.Source.AsSlice()...), p.Target.AsSlice()...)
	return addresses{b, 8}
}

// mayMatch is false only if one of the comparisons that a rule begins with fails
// for every need. Each of them is looked at for itself.
func (s *sieve) mayMatch(exprs []ruleset.Expr) bool {
	var loaded ruleset.Expr
	var mask []byte
	register := ruleset.NoRegister
	for _, e := range exprs {
		switch e := e.(type) {
		case ruleset.Meta:
			loaded, register, mask = e, e.Dst, nil
		case ruleset.Payload:
			loaded, register, mask = e, e.Dst, nil
		case ruleset.Bitwise:
			if e.Op != 0 || e.Src != register || e.Dst != register || len(bytes.Trim(e.Xor, "\x00")) > 0 {
				return true
			}
			mask = e.Mask
		case ruleset.Cmp:
			if e.Op != ruleset.Equal || e.Src != register {
				return true
			}
			if !s.has(loaded, mask, e.Data) {
				return false
			}
		default:
			return true
		}
	}
	return true
}

// has says whether some need may have this value there.
func (s *sieve) has(loaded ruleset.Expr, mask, want []byte) bool {
	switch l := loaded.(type) {
	case ruleset.Meta:
		switch {
		case mask != nil:
		case l.Key == ruleset.MetaIIFName:
			return hasName(s.in, want)
		case l.Key == ruleset.MetaOIFName:
			return hasName(s.out, want)
		}
	case ruleset.Payload:
		if l.Base == ruleset.NetworkHeader && len(want) == l.Len {
			return s.hasBytes(place{l.Offset, l.Len}, mask, want)
		}
	}
	return true
}

// hasName compares as the kernel does: a shorter constant is a prefix ("veth*").
func hasName(names map[string]bool, want []byte) bool {
	if end := bytes.IndexByte(want, 0); end >= 0 {
		return names[string(want[:end])]
	}
	for name := range names {
		if len(name) >= len(want) && name[:len(want)] == string(want) {
			return true
		}
	}
	return false
}

func (s *sieve) hasBytes(at place, mask, want []byte) bool {
	if mask == nil {
		values, seen := s.exact[at]
		if !seen {
			values = map[string]bool{}
			for _, h := range s.headers {
				b, ok := h.at(at)
				if !ok {
					values = nil
					break
				}
				values[string(b)] = true
			}
			s.exact[at] = values
		}
		return values == nil || values[string(want)]
	}
	for _, h := range s.headers {
		b, ok := h.at(at)
		if !ok || len(mask) != len(b) || equalUnder(mask, b, want) {
			return true
		}
	}
	return false
}

func (h addresses) at(p place) ([]byte, bool) {
	if p.offset < h.known || p.offset+p.length > len(h.bytes) {
		return nil, false
	}
	return h.bytes[p.offset : p.offset+p.length], true
}

func equalUnder(mask, b, want []byte) bool {
	for i := range mask {
		if b[i]&mask[i] != want[i] {
			return false
		}
	}
	return true
}
