// Package ruleset describes what the kernel's packet filter holds: all tables of
// nftables, of all programs and families, as plain data.
//
// It owns the types of tables, chains, sets, rules and the expressions that rules
// are made of, their text in nft's language, and who a table or chain is known to
// belong to (Docker, ufw, firewalld …). It does not know how they are read, nor
// what becomes of a packet: package linux fills a Ruleset, package diagnose walks
// it.
//
// Start reading at Ruleset below; expr.go has the expressions, text.go writes
// them, owner.go knows the owners.
package ruleset

import (
	"cmp"
	"slices"
)

// The families of tables, as nft writes them.
const (
	IP     = "ip"
	IP6    = "ip6"
	Inet   = "inet"
	Bridge = "bridge"
	ARP    = "arp"
	Netdev = "netdev"
)

// Ruleset is all that was in the kernel at one moment.
type Ruleset struct {
	// Tables in the order in which they were made.
	Tables []*Table
	// Legacy are the tables of iptables-legacy that hold rules or a policy of
	// drop, as "ip filter". What they do is not known.
	Legacy []string
}

// Table is one table.
type Table struct {
	Family, Name string
	Handle       uint64
	// Dormant tables do nothing. Owned ones can be changed by one program alone.
	Dormant, Owned bool
	Chains         []*Chain
	Sets           map[string]*Set
	// Recount reads the expressions of a rule of the table as they are now, where the
	// rules were kept since they were read: nobody changed them, and their counters went
	// on. nil where they have just been read.
	Recount func(*Rule) []Expr
	// chains finds a chain by name.
	chains map[string]*Chain
}

// String is the table as in `nft list table`.
func (t *Table) String() string { return t.Family + " " + t.Name }

// Chain finds a chain of the table; nil if there is none.
func (t *Table) Chain(name string) *Chain { return t.chains[name] }

// Add puts a chain into the table.
func (t *Table) Add(c *Chain) {
	if t.chains == nil {
		t.chains = map[string]*Chain{}
	}
	c.Table = t
	t.chains[c.Name] = c
	t.Chains = append(t.Chains, c)
}

// Chain is one chain. A base chain has a Hook.
type Chain struct {
	Table  *Table
	Name   string
	Handle uint64
	// Type (filter, nat, route) and Hook (prerouting, input, forward, output,
	// postrouting, ingress, egress) are empty for a chain that is only jumped to.
	Type, Hook string
	Priority   int
	// Drop is the policy drop.
	Drop bool
	// Devices are what an ingress or egress chain is bound to.
	Devices []string
	Rules   []*Rule
}

// String is the chain as in `nft list chain`.
func (c *Chain) String() string { return c.Table.String() + " " + c.Name }

// Rule is one rule.
type Rule struct {
	Chain  *Chain
	Handle uint64
	// Comment is what the rule's author wrote beside it.
	Comment string
	// Exprs is what the rule does. Its counters may be old: ask Counted for them.
	Exprs []Expr
}

// Counted is what the rule does, with its counters as they are now.
func (r *Rule) Counted() []Expr {
	isCounter := func(e Expr) bool { _, ok := e.(Counter); return ok }
	if r.Chain == nil || r.Chain.Table == nil || r.Chain.Table.Recount == nil || !slices.ContainsFunc(r.Exprs, isCounter) {
		return r.Exprs
	}
	return r.Chain.Table.Recount(r)
}

// Set is a named set or map, or one that is written in a rule.
type Set struct {
	Table *Table
	Name  string
	// Anonymous sets live with the rule that they are written in.
	Anonymous bool
	Interval  bool
	// Map and Verdicts say what a look-up yields: data, or a verdict.
	Map, Verdicts bool
	// Objects maps yield the name of an object (counter, quota, limit).
	Objects bool
	// Dynamic sets are filled by packets, or their elements may time out.
	Dynamic bool
	// KeyType and DataType are nft's numbers of types, 6 bits a member.
	KeyType, DataType uint32
	KeyLen, DataLen   int
	// Fields are the lengths of a concatenation's members, if the set holds
	// intervals of them.
	Fields []int
	// Elements were read with the set, unless there is Read: ask All for them. Those of
	// sets of plain intervals are sorted by First.
	Elements []Element
	// Partial sets have elements that were not read.
	Partial bool
	// Read reads the elements when somebody asks: of a set whose elements come and go
	// without anybody's doing, or that most likely nobody asks for. nil where Elements
	// has them.
	Read func() (elements []Element, partial bool)
}

// All are the set's elements; partial if there are some that were not read.
func (s *Set) All() (elements []Element, partial bool) {
	if s.Read != nil {
		return s.Read()
	}
	return s.Elements, s.Partial
}

// Element is one element; an interval reaches from First to Last, both included.
type Element struct {
	First, Last []byte
	// Rest stands for every key that no other element has: "*".
	Rest    bool
	Data    []byte
	Verdict *Verdict
	// Limited elements carry a statement (limit, quota, ct count) that may refuse a
	// packet which the key fits.
	Limited bool
}

// VerdictKind is what a rule decides.
type VerdictKind int32

// The verdicts, by the kernel's numbers (linux/netfilter.h, nf_tables.h).
const (
	Drop     VerdictKind = 0
	Accept   VerdictKind = 1
	Stolen   VerdictKind = 2
	Queue    VerdictKind = 3
	Continue VerdictKind = -1
	Break    VerdictKind = -2
	Jump     VerdictKind = -3
	Goto     VerdictKind = -4
	Return   VerdictKind = -5
)

// Verdict is a verdict with the chain that it leads to, if any.
type Verdict struct {
	Kind  VerdictKind
	Chain string
}

// At lists the base chains at a hook that see packets of one of the families, by
// priority. Chains of equal priority come newest first, as far as that is known:
// the kernel puts a chain before those that are there (nf_hook_entries_grow), and
// does not tell their age.
func (r *Ruleset) At(hook string, families ...string) []*Chain {
	var found []*Chain
	for i := len(r.Tables) - 1; i >= 0; i-- {
		t := r.Tables[i]
		if t.Dormant || !slices.Contains(families, t.Family) {
			continue
		}
		for j := len(t.Chains) - 1; j >= 0; j-- {
			if t.Chains[j].Hook == hook {
				found = append(found, t.Chains[j])
			}
		}
	}
	slices.SortStableFunc(found, func(a, b *Chain) int { return cmp.Compare(a.Priority, b.Priority) })
	return found
}

// Table finds a table; nil if there is none.
func (r *Ruleset) Table(family, name string) *Table {
	for _, t := range r.Tables {
		if t.Family == family && t.Name == name {
			return t
		}
	}
	return nil
}
