package linux

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables/expr"

	"drawbridge/internal/host"
)

// nftRule is a rule as the kernel gets it.
type nftRule struct {
	text, why string
	exprs     []expr.Any
	// sets are the sets written in braces, by the expression that looks them up.
	sets map[*expr.Lookup]*nftSet
	// raw is the encoded expressions and user data of a rule of somebody
	// else's, put back as it was; then all else is empty.
	raw, rawData []byte
}

// compiler turns one rule's text into the expressions that nft (1.0.6) makes of
// the same text. Registers are used as nft does: everything is loaded from
// register 1 on.
type compiler struct {
	nftWords
	family host.Family
	// lookup finds a named set of the rule's table.
	lookup func(name string) (*nftSet, error)
	rule   *nftRule

	// What is known about the packet so far.
	l3    string
	l4    int
	ether bool
	// last is the last comparison of header bytes with a constant, which the
	// next one may be merged into.
	last *payloadMatch
	// ended says that nothing can come after.
	ended bool
}

type payloadMatch struct {
	load *expr.Payload
	cmp  *expr.Cmp
}

// compileRule compiles one line of host.Chain.Rules. The language is nft's; the
// words are in nftselect.go, the statements in nftstatement.go.
func compileRule(family host.Family, line string, lookup func(string) (*nftSet, error)) (*nftRule, error) {
	text, why, err := splitComment(line)
	if err != nil {
		return nil, err
	}
	toks, err := lexRule(text)
	if err != nil {
		return nil, err
	}
	c := &compiler{
		nftWords: nftWords{toks: toks}, family: family, lookup: lookup,
		rule: &nftRule{text: text, why: why, sets: map[*expr.Lookup]*nftSet{}},
	}
	if len(toks) == 0 {
		return nil, errors.New("empty rule")
	}
	for !c.done() {
		if c.ended {
			return nil, fmt.Errorf("rule %q: nothing can follow a verdict, got %q", text, c.rest())
		}
		if err := c.statement(); err != nil {
			return nil, fmt.Errorf("rule %q: %w", text, err)
		}
	}
	return c.rule, nil
}

func (c *compiler) emit(es ...expr.Any) { c.rule.exprs = append(c.rule.exprs, es...) }

// register is the number of the n-th 32-bit register, as nft and the kernel
// write it: the 128-bit ones by their old numbers 1 to 4 (nft_parse_register).
func register(n int) uint32 {
	if n%4 == 0 {
		return uint32(1 + n/4)
	}
	return uint32(8 + n)
}

// loadAll loads the members of a concatenation side by side.
func (c *compiler) loadAll(sels []selector) {
	n := 0
	for _, s := range sels {
		c.emit(s.load(register(n)))
		n += align4(s.typ.size) / 4
	}
}

func typesOf(sels []selector) []*nftDatatype {
	types := make([]*nftDatatype, len(sels))
	for i, s := range sels {
		types[i] = s.typ
	}
	return types
}

// match reads a comparison, a lookup or a verdict map.
func (c *compiler) match() error {
	sels, err := c.concatenation()
	if err != nil {
		return err
	}
	if err := c.depend(sels...); err != nil {
		return err
	}
	if c.accept("vmap") {
		c.last = nil
		c.loadAll(sels)
		return c.mapTo(typesOf(sels), 0, verdictMap)
	}
	mask, err := c.mask(sels)
	if err != nil {
		return err
	}
	negated := c.accept("!=")
	if !negated {
		c.accept("==")
	}
	if mask == nil && (c.peek(0) == "{" || strings.HasPrefix(c.peek(0), "@")) {
		return c.member(sels, negated)
	}
	if len(sels) > 1 {
		return fmt.Errorf("a concatenation is looked up in a set, got %q", c.rest())
	}
	text, err := c.constant(sels[0])
	if err != nil {
		return err
	}
	return c.compare(sels[0], mask, negated, text)
}

// mask reads "and 0xff" after a mark.
func (c *compiler) mask(sels []selector) ([]byte, error) {
	if !c.accept("and") && !c.accept("&") {
		return nil, nil
	}
	if len(sels) != 1 || sels[0].typ != typeMark {
		return nil, errors.New("only marks are masked")
	}
	t, err := c.next()
	if err != nil {
		return nil, err
	}
	return typeMark.parse(t.text)
}

// constant reads what a selector is compared with: one word, or several joined
// by commas for the bits of a connection's state.
func (c *compiler) constant(s selector) (string, error) {
	t, err := c.next()
	if err != nil {
		return "", err
	}
	text := t.text
	for s.typ.isBitmask() && c.accept(",") {
		if t, err = c.next(); err != nil {
			return "", err
		}
		text += "," + t.text
	}
	return text, nil
}

// member reads a set, named or in braces. A set of one value is a comparison,
// as in nft.
func (c *compiler) member(sels []selector, negated bool) error {
	var set *nftSet
	var err error
	if name, named := strings.CutPrefix(c.peek(0), "@"); named {
		c.at++
		if set, err = c.named(name, typesOf(sels), ""); err != nil {
			return err
		}
	} else {
		var only string
		if set, only, err = c.braces(typesOf(sels), plainSet); err != nil {
			return err
		}
		if only != "" && len(sels) == 1 {
			return c.compare(sels[0], nil, negated, only)
		}
	}
	c.loadAll(sels)
	c.addLookup(&expr.Lookup{SourceRegister: 1, Invert: negated}, set)
	if set.anonymous && !negated && len(sels) == 1 {
		c.learnSet(sels[0])
	}
	return nil
}

// named finds a set of the table and checks that it fits: value is the type
// that a map must yield, "" for a set.
func (c *compiler) named(name string, types []*nftDatatype, value string) (*nftSet, error) {
	set, err := c.lookup(name)
	if err != nil {
		return nil, err
	}
	if nameOf(types) != nameOf(set.keys) {
		return nil, fmt.Errorf("%q is looked up in @%s, which holds %q", nameOf(types), name, nameOf(set.keys))
	}
	if value == typeVerdict && !set.verdict || value == "" && (set.verdict || set.values != nil) {
		return nil, fmt.Errorf("@%s is of another kind", name)
	}
	return set, nil
}

func (c *compiler) addLookup(l *expr.Lookup, set *nftSet) {
	l.SetName = set.name
	if set.anonymous {
		c.rule.sets[l] = set
	}
	c.emit(l)
}
