package linux

import (
	"bytes"

	"drawbridge/internal/ruleset"
)

// exprPool reads the rules of a table so that they can be kept: ten thousand rules are
// made of a few expressions, of which most are the same, and the kernel's answers are
// many times as large as what is of use in them. Read one by one they held 13 MB, and hold
// 4.7 MB this way.
type exprPool struct {
	table *ruleset.Table
	// known are expressions of the table by the kernel's bytes.
	known map[string]ruleset.Expr
	bytes slab
	found []ruleset.Expr
	f     fields
}

// poolMost is how many expressions of a table are looked for among those that came
// before: what is common comes early, and what is different in each rule only once.
const poolMost = 512

// exprs is decodeExprs for a rule that is kept: it holds nothing of b.
func (p *exprPool) exprs(b []byte, t *ruleset.Table) []ruleset.Expr {
	if p.table != t {
		p.table, p.known = t, map[string]ruleset.Expr{}
	}
	p.found = p.found[:0]
	for one := range nftAttrs(b) {
		e, ok := p.known[string(one.data)]
		if !ok {
			e = p.own(decodeExpr(one.data, &p.f, t.Sets))
			if len(p.known) < poolMost {
				p.known[string(one.data)] = e
			}
		}
		p.found = append(p.found, e)
	}
	return append(make([]ruleset.Expr, 0, len(p.found)), p.found...)
}

// own copies the bytes that an expression holds.
func (p *exprPool) own(e ruleset.Expr) ruleset.Expr {
	switch e := e.(type) {
	case ruleset.Cmp:
		e.Data = p.bytes.copy(e.Data)
		return e
	case ruleset.Range:
		e.From, e.To = p.bytes.copy(e.From), p.bytes.copy(e.To)
		return e
	case ruleset.Bitwise:
		e.Mask, e.Xor = p.bytes.copy(e.Mask), p.bytes.copy(e.Xor)
		return e
	case ruleset.Immediate:
		e.Data = p.bytes.copy(e.Data)
		return e
	case ruleset.Match:
		e.Info = p.bytes.copy(e.Info)
		return e
	case ruleset.Target:
		e.Info = p.bytes.copy(e.Info)
		return e
	}
	return e
}

// slab is where many small copies are made, which are thrown away together.
type slab struct{ free []byte }

// slabSize is how much is taken at once.
const slabSize = 4 << 10

func (s *slab) copy(b []byte) []byte {
	if len(b) > slabSize/8 || len(b) == 0 {
		return bytes.Clone(b)
	}
	if len(s.free) < len(b) {
		s.free = make([]byte, slabSize)
	}
	n := copy(s.free, b)
	c := s.free[:n:n]
	s.free = s.free[n:]
	return c
}
