package host

import "strings"

// Family is an nftables family.
type Family string

// The families that we have tables in.
const (
	FamilyInet   Family = "inet"
	FamilyBridge Family = "bridge"
	// Families of others' tables, those of iptables among them.
	FamilyIP  Family = "ip"
	FamilyIP6 Family = "ip6"
)

// Table is an nftables table. All other nftables resources name theirs.
type Table struct {
	Family Family
	Name   string
}

// Key is "family name", as in `nft list table`.
func (t Table) Key() Key { return Key{KindTable, t.String()} }

// Needs nothing.
func (Table) Needs() []Key { return nil }
func (Table) resource()    {}

// String writes the table as nft does.
func (t Table) String() string { return string(t.Family) + " " + t.Name }

// Set is a named set, or a map if Value is not empty.
type Set struct {
	Table Table
	Name  string
	// Type is the type of the elements in nft's words, "ifname . ipv4_addr".
	Type string
	// Value is the type that a map yields ("verdict", "ipv4_addr . inet_service"),
	// or "" for a set.
	Value string
	// Interval sets hold prefixes and ranges.
	Interval bool
}

// Key is "family table name".
func (s Set) Key() Key { return SetKey(s.Table, s.Name) }

// Needs is the table.
func (s Set) Needs() []Key { return []Key{s.Table.Key()} }
func (Set) resource()      {}

// SetKey is the key of a set or map in a table.
func SetKey(t Table, name string) Key { return Key{KindSet, t.String() + " " + name} }

// Chain is a chain with all its rules. A base chain has a Hook.
type Chain struct {
	Table Table
	Name  string
	// Type (filter, nat) and Hook (prerouting, input, forward, output,
	// postrouting) are empty for a chain that is only jumped to.
	Type, Hook string
	// Priority as a number; see nft(8), "standard priority names".
	Priority int
	// Rules has one rule a line, in the subset of nft's language that package
	// linux compiles; each may end in: comment "why". The policy is accept.
	Rules string
}

// Key is "family table name".
func (c Chain) Key() Key { return ChainKey(c.Table, c.Name) }

// Needs is the table and every set and chain that a rule names.
func (c Chain) Needs() []Key {
	needs := []Key{c.Table.Key()}
	for line := range strings.SplitSeq(c.Rules, "\n") {
		line, _, _ = strings.Cut(line, ` comment "`)
		words := strings.Fields(line)
		for i, w := range words {
			if strings.HasPrefix(w, "@") {
				needs = append(needs, SetKey(c.Table, w[1:]))
			}
			if (w == "jump" || w == "goto") && i+1 < len(words) {
				needs = append(needs, ChainKey(c.Table, words[i+1]))
			}
		}
	}
	return needs
}
func (Chain) resource() {}

// ChainKey is the key of a chain in a table.
func ChainKey(t Table, name string) Key { return Key{KindChain, t.String() + " " + name} }

// Element is one element of a set or map.
type Element struct {
	Table Table
	// Set is the name of the set or map.
	Set string
	// Value is the element in nft's words, without quotes: `virbr0 . 192.168.122.0/24`.
	Value string
	// Data is what a map yields for it (`jump from_nat`), or "".
	Data string
}

// Key is "family table set { value }".
func (e Element) Key() Key {
	return Key{KindElement, e.Table.String() + " " + e.Set + " { " + e.Value + " }"}
}

// Needs is the set, and the chain that a verdict jumps to.
func (e Element) Needs() []Key {
	needs := []Key{SetKey(e.Table, e.Set)}
	if verb, chain, ok := strings.Cut(e.Data, " "); ok && (verb == "jump" || verb == "goto") {
		needs = append(needs, ChainKey(e.Table, chain))
	}
	return needs
}
func (Element) resource() {}
