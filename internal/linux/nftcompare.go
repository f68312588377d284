package linux

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
)

// compare writes the comparison of one selector with a constant: a value, a
// prefix, a range, the beginning of a name, or bits.
func (c *compiler) compare(s selector, mask []byte, negated bool, text string) error {
	op := expr.CmpOpEq
	if negated {
		op = expr.CmpOpNeq
	}
	switch {
	case s.typ.isBitmask() && !negated:
		return c.anyBit(s, text)
	case s.typ == typeName && strings.HasSuffix(text, "*"):
		beginning, err := typeName.parse(text[:len(text)-1])
		if err != nil {
			return err
		}
		c.emit(s.load(1), &expr.Cmp{Op: op, Register: 1, Data: bytes.TrimRight(beginning, "\x00")})
		return nil
	}
	first, last, err := parseMember(s.typ, true, text)
	if err != nil {
		return err
	}
	bits, isPrefix := len(first)*8, strings.Contains(text, "/")
	if isPrefix && !bytes.Equal(first, last) {
		bits, _ = prefixLength(first, last)
	}
	switch {
	case mask != nil:
		c.emit(s.load(1), maskRegister(mask), &expr.Cmp{Op: op, Register: 1, Data: first})
	case bits < len(first)*8:
		c.comparePrefix(s, op, first, bits)
	case !bytes.Equal(first, last) && negated:
		c.emit(s.load(1), &expr.Range{Op: expr.CmpOpNeq, Register: 1, FromData: first, ToData: last})
	case !bytes.Equal(first, last):
		c.emit(s.load(1), &expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: first}, &expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: last})
	case negated:
		c.emit(s.load(1), &expr.Cmp{Op: op, Register: 1, Data: first})
	case s.payload != nil:
		c.matchPayload(s, first)
		c.learn(s, first)
	default:
		c.emit(s.load(1), &expr.Cmp{Op: op, Register: 1, Data: first})
		c.learn(s, first)
	}
	return nil
}

// anyBit matches if one of the named bits is set.
func (c *compiler) anyBit(s selector, text string) error {
	bits := make([]byte, s.typ.size)
	for name := range strings.SplitSeq(text, ",") {
		bit, err := s.typ.parse(name)
		if err != nil {
			return err
		}
		for i := range bits {
			bits[i] |= bit[i]
		}
	}
	c.emit(s.load(1), maskRegister(bits), &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, len(bits))})
	return nil
}

func maskRegister(mask []byte) *expr.Bitwise {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))}
}

// comparePrefix compares only the first bytes if they are whole ones, else by a
// mask.
func (c *compiler) comparePrefix(s selector, op expr.CmpOp, value []byte, bits int) {
	load := s.load(1)
	if bits == 0 || bits%8 != 0 {
		c.emit(load, maskRegister(maskOf(bits, len(value))), &expr.Cmp{Op: op, Register: 1, Data: value})
		return
	}
	if header, ok := load.(*expr.Payload); ok {
		header.Len = uint32(bits / 8)
	}
	c.emit(load, &expr.Cmp{Op: op, Register: 1, Data: value[:bits/8]})
}

// matchPayload compares header bytes with a constant. Bytes that lie beside
// those of the comparison before are joined to it, as nft does
// (payload_can_merge in its src/payload.c): at most a 128-bit register, and not
// if two loads of the kernel's fast path (32 bits, above the link header) would
// become one that is not.
func (c *compiler) matchPayload(s selector, value []byte) {
	load := s.load(1).(*expr.Payload)
	cmp := &expr.Cmp{Register: 1, Data: value}
	if l := c.last; l != nil && mergeable(l.load, load) {
		if load.Offset < l.load.Offset {
			l.load.Offset = load.Offset
			l.cmp.Data = slices.Concat(value, l.cmp.Data)
		} else {
			l.cmp.Data = slices.Concat(l.cmp.Data, value)
		}
		l.load.Len += load.Len
		return
	}
	c.last = &payloadMatch{load, cmp}
	c.emit(load, cmp)
}

func mergeable(a, b *expr.Payload) bool {
	if a.Base != b.Base || a.Offset+a.Len != b.Offset && b.Offset+b.Len != a.Offset {
		return false
	}
	total := a.Len + b.Len
	bothFast := a.Base != expr.PayloadBaseLLHeader && a.Len <= 4 && b.Len <= 4
	return total <= 4 || total <= 16 && !bothFast
}

// braced says what a set in braces holds beside its keys.
type braced struct {
	isMap   bool
	verdict bool
	values  []*nftDatatype
}

var (
	plainSet   = braced{}
	verdictMap = braced{isMap: true, verdict: true}
)

// braces reads { a, b } or { a : x, b : y }. only is the element's text if a
// set has just one.
func (c *compiler) braces(types []*nftDatatype, kind braced) (set *nftSet, only string, err error) {
	if err := c.expect("{"); err != nil {
		return nil, "", err
	}
	set = &nftSet{name: "__set%d", anonymous: true, keys: types, values: kind.values, verdict: kind.verdict}
	if kind.isMap {
		set.name = "__map%d"
	}
	for {
		key, err := c.key()
		if err != nil {
			return nil, "", err
		}
		var data string
		if kind.isMap {
			if err := c.expect(":"); err != nil {
				return nil, "", err
			}
			if data, err = c.key(); err != nil {
				return nil, "", err
			}
		}
		if err := set.addBraced(key, data); err != nil {
			return nil, "", err
		}
		only = key
		if c.accept("}") {
			break
		}
		if err := c.expect(","); err != nil {
			return nil, "", err
		}
	}
	if len(set.elements) > 1 || kind.isMap {
		only = ""
	}
	return set, only, set.checkDistinct()
}

// mapTo looks the loaded key up in a map and puts what it yields into a
// register; 0 is the verdict.
func (c *compiler) mapTo(types []*nftDatatype, reg uint32, kind braced) error {
	set, err := c.mapOf(types, kind)
	if err != nil {
		return err
	}
	c.addLookup(&expr.Lookup{SourceRegister: 1, DestRegister: reg, IsDestRegSet: true}, set)
	return nil
}

// mapOf reads a map, named or in braces.
func (c *compiler) mapOf(types []*nftDatatype, kind braced) (*nftSet, error) {
	name, named := strings.CutPrefix(c.peek(0), "@")
	if !named {
		set, _, err := c.braces(types, kind)
		return set, err
	}
	c.at++
	if kind.verdict {
		return c.named(name, types, typeVerdict)
	}
	set, err := c.named(name, types, "a value")
	if err != nil {
		return nil, err
	}
	if set.values == nil {
		return nil, fmt.Errorf("@%s is not a map", name)
	}
	if kind.values != nil && nameOf(set.values) != nameOf(kind.values) {
		return nil, fmt.Errorf("@%s yields %q, wanted is %q", name, nameOf(set.values), nameOf(kind.values))
	}
	return set, nil
}

var errDuplicate = errors.New("a value stands twice in a set, or overlaps another")
