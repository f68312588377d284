package linux

import (
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
)

// nftView reads the kernel's rules for one call; what it has read once it does
// not read again.
type nftView struct {
	sock *nftSocket
	// textOf finds the text of a rule that keeps only its hash.
	textOf func(hash string) string
	sets   map[host.Key]*nftSet
	// wholly are the tables whose sets are all in sets.
	wholly map[host.Table]bool
}

func newNFTView(sock *nftSocket, textOf func(string) string) *nftView {
	return &nftView{sock: sock, textOf: textOf, sets: map[host.Key]*nftSet{}, wholly: map[host.Table]bool{}}
}

// tableThere says whether a table is there and awake.
func (v *nftView) tableThere(t host.Table) (exists, awake bool, err error) {
	replies, err := v.sock.get(unix.NFT_MSG_GETTABLE, familyNumbers[t.Family], 0, putText(nil, unix.NFTA_TABLE_NAME, t.Name))
	if isGone(err) {
		return false, false, nil
	}
	if err != nil || len(replies) == 0 {
		return false, false, fmt.Errorf("read nftables table %s: %w", t, orEmpty(err))
	}
	flags, _ := find(replies[0].attrs, unix.NFTA_TABLE_FLAGS)
	return true, flags.u32()&unix.NFT_TABLE_F_DORMANT == 0, nil
}

// table reads all that is in a table. A dormant table counts as not there,
// since its chains do nothing; making it wakes it.
func (v *nftView) table(t host.Table, into host.State) error {
	exists, awake, err := v.tableThere(t)
	if err != nil || !exists {
		return err
	}
	if awake {
		into.Add(t)
	}
	sets, err := v.allSets(t)
	if err != nil {
		return err
	}
	for _, s := range sets {
		into.Add(s.resource())
		if err := v.elements(s, into); err != nil {
			return err
		}
	}
	return v.chains(t, "", into)
}

// allSets lists the named sets of a table and knows all of them afterwards.
func (v *nftView) allSets(t host.Table) ([]*nftSet, error) {
	replies, err := v.sock.get(unix.NFT_MSG_GETSET, familyNumbers[t.Family], netlink.Dump, putText(nil, unix.NFTA_SET_TABLE, t.Name))
	if err != nil && !isGone(err) {
		return nil, fmt.Errorf("list nftables sets of %s: %w", t, err)
	}
	var named []*nftSet
	for _, r := range replies {
		s := decodeSet(t, r.attrs)
		v.sets[host.SetKey(t, s.name)] = s
		if !s.anonymous {
			named = append(named, s)
		}
	}
	v.wholly[t] = true
	return named, nil
}

// set finds one set, named or anonymous.
func (v *nftView) set(t host.Table, name string) (*nftSet, error) {
	key := host.SetKey(t, name)
	if s, ok := v.sets[key]; ok {
		return s, nil
	}
	attrs := putText(putText(nil, unix.NFTA_SET_TABLE, t.Name), unix.NFTA_SET_NAME, name)
	replies, err := v.sock.get(unix.NFT_MSG_GETSET, familyNumbers[t.Family], 0, attrs)
	if err != nil || len(replies) == 0 {
		return nil, fmt.Errorf("read nftables %s: %w", key, orEmpty(err))
	}
	v.sets[key] = decodeSet(t, replies[0].attrs)
	return v.sets[key], nil
}

func orEmpty(err error) error {
	if err == nil {
		return unix.ENODATA
	}
	return err
}

// listings is how often a large set is listed at most.
const listings = 8

// elements lists all elements of a set. The kernel walks a hash table anew for
// each message of a listing (nft_rhash_walk), so that elements are missed while
// the table is growing, just after many were added: then it is listed again
// until the number is right, or where kernels before 6.16 do not tell it, until
// nothing more turns up.
func (v *nftView) elements(s *nftSet, into host.State) error {
	found := host.State{}
	for range listings {
		before := len(found)
		elements, messages, err := v.list(s)
		if err != nil {
			return err
		}
		for _, e := range elements {
			found.Add(host.Element{Table: s.table, Set: s.name, Value: formatSpan(s.keys, e.span), Data: e.data})
		}
		if messages < 2 || s.interval || s.counted && len(found) >= s.count || !s.counted && len(found) == before {
			break
		}
	}
	for _, r := range found {
		into.Add(r)
	}
	return nil
}

// list reads all elements of a set, and says in how many messages they came.
func (v *nftView) list(s *nftSet) ([]nftElement, int, error) {
	raws, messages, err := v.entries(s, netlink.Dump, nil)
	return s.assemble(raws), messages, err
}

// entries reads the entries of a set as the kernel has them: all, or the one of
// an encoded key.
func (v *nftView) entries(s *nftSet, flags netlink.HeaderFlags, key []byte) ([]rawElement, int, error) {
	if s.oddity != "" {
		return nil, 0, nil
	}
	attrs := putText(putText(nil, unix.NFTA_SET_ELEM_LIST_TABLE, s.table.Name), unix.NFTA_SET_ELEM_LIST_SET, s.name)
	if key != nil {
		attrs = putNest(attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS, putNest(nil, unix.NFTA_LIST_ELEM, key))
	}
	replies, err := v.sock.get(unix.NFT_MSG_GETSETELEM, familyNumbers[s.table.Family], flags, attrs)
	if isGone(err) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read elements of nftables set %s %s: %w", s.table, s.name, err)
	}
	var raws []rawElement
	for _, r := range replies {
		list, _ := find(r.attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		for item := range nftAttrs(list.data) {
			raw, err := s.decodeItem(item.data)
			if err != nil {
				return nil, 0, fmt.Errorf("read elements of nftables set %s %s: %w", s.table, s.name, err)
			}
			raws = append(raws, raw)
		}
	}
	return raws, len(replies), nil
}

// Up to fewElements, or one in oneIn of what a set has, elements are asked for
// one by one; for more, the whole set is read: one question costs as much as
// some 16 elements of a listing.
const fewElements, oneIn = 32, 16

// someElements looks for certain elements of a set.
func (v *nftView) someElements(t host.Table, name string, wanted map[string]bool, into host.State) error {
	s, err := v.set(t, name)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	// The two ends of an interval of one member are two entries to the kernel, and
	// what it answers about them does not tell whether they belong together: such
	// sets, which have an element for each network and none for forwards, are read
	// whole.
	if s.paired() || len(wanted) > max(fewElements, s.count/oneIn) {
		all := host.State{}
		if err := v.elements(s, all); err != nil {
			return err
		}
		for _, r := range all {
			if e := r.(host.Element); wanted[e.Value] {
				into.Add(e)
			}
		}
		return nil
	}
	for value := range wanted {
		sp, err := parseSpan(s.keys, s.interval, value)
		if err != nil {
			continue // what cannot be in the set is not in it
		}
		found, _, err := v.entries(s, 0, s.items([]nftElement{{span: sp}})[0])
		if err != nil {
			return err
		}
		for _, e := range s.assemble(found) {
			// The kernel answers with whatever interval holds the key.
			if formatSpan(s.keys, e.span) == value {
				into.Add(host.Element{Table: t, Set: name, Value: value, Data: e.data})
			}
		}
	}
	return nil
}

// chains reads the chains of a table with their rules, or only the named one.
func (v *nftView) chains(t host.Table, only string, into host.State) error {
	attrs, flags := []byte(nil), netlink.Dump
	if only != "" {
		attrs, flags = putText(putText(nil, unix.NFTA_CHAIN_TABLE, t.Name), unix.NFTA_CHAIN_NAME, only), 0
	}
	replies, err := v.sock.get(unix.NFT_MSG_GETCHAIN, familyNumbers[t.Family], flags, attrs)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read nftables chains of %s: %w", t, err)
	}
	rules, err := v.rules(t, only)
	if err != nil {
		return err
	}
	for _, r := range replies {
		c, ok := decodeChain(t, r.attrs)
		if !ok {
			continue
		}
		lines := []string{}
		if c.Rules != "" {
			lines = append(lines, c.Rules)
		}
		for _, rule := range rules[c.Name] {
			line, err := v.line(t, rule)
			if err != nil {
				return err
			}
			lines = append(lines, line)
		}
		c.Rules = strings.Join(lines, "\n")
		into.Add(c)
	}
	return nil
}

var hookNames = func() map[uint32]string {
	names := map[uint32]string{}
	for name, number := range hookNumbers {
		names[number] = name
	}
	return names
}()

// decodeChain reads a NFT_MSG_NEWCHAIN; false if it is of another table.
func decodeChain(t host.Table, b []byte) (host.Chain, bool) {
	c := host.Chain{Table: t}
	mine := false
	for a := range nftAttrs(b) {
		switch a.kind {
		case unix.NFTA_CHAIN_TABLE:
			mine = a.text() == t.Name
		case unix.NFTA_CHAIN_NAME:
			c.Name = a.text()
		case unix.NFTA_CHAIN_TYPE:
			c.Type = a.text()
		case unix.NFTA_CHAIN_POLICY:
			if a.u32() == policyDrop {
				c.Rules = linePolicyDrop
			}
		case unix.NFTA_CHAIN_HOOK:
			number, _ := find(a.data, unix.NFTA_HOOK_HOOKNUM)
			priority, _ := find(a.data, unix.NFTA_HOOK_PRIORITY)
			c.Priority = int(int32(priority.u32()))
			if c.Hook = hookNames[number.u32()]; c.Hook == "" {
				c.Hook = fmt.Sprintf("hook %d", number.u32())
			}
		}
	}
	return c, mine
}

// seenRule is a rule as the kernel gives it.
type seenRule struct{ exprs, udata []byte }

// rules lists the rules of a table, or of one chain, by chain and in order.
func (v *nftView) rules(t host.Table, only string) (map[string][]seenRule, error) {
	attrs := putText(nil, unix.NFTA_RULE_TABLE, t.Name)
	if only != "" {
		attrs = putText(attrs, unix.NFTA_RULE_CHAIN, only)
	}
	replies, err := v.sock.get(unix.NFT_MSG_GETRULE, familyNumbers[t.Family], netlink.Dump, attrs)
	if err != nil && !isGone(err) {
		return nil, fmt.Errorf("read nftables rules of %s: %w", t, err)
	}
	rules := map[string][]seenRule{}
	for _, r := range replies {
		var rule seenRule
		var table, chain string
		for a := range nftAttrs(r.attrs) {
			switch a.kind {
			case unix.NFTA_RULE_TABLE:
				table = a.text()
			case unix.NFTA_RULE_CHAIN:
				chain = a.text()
			case unix.NFTA_RULE_EXPRESSIONS:
				rule.exprs = a.data
			case unix.NFTA_RULE_USERDATA:
				rule.udata = a.data
			}
		}
		if table == t.Name {
			rules[chain] = append(rules[chain], rule)
		}
	}
	return rules, nil
}

// line gives back the line that a rule was made from, if compiling it again
// makes what the kernel has; else a line that says what is there instead.
func (v *nftView) line(t host.Table, r seenRule) (string, error) {
	text, why, hash := readUserData(r.udata)
	if hash != "" {
		text = v.textOf(hash)
	}
	if text == "" {
		return foreignLine("", why, r.exprs, r.udata), nil
	}
	there, err := canonicalRule(r.exprs, func(name string) (*nftSet, error) { return v.anonymous(t, name) })
	if err != nil {
		return "", err
	}
	line := joinComment(text, why)
	rule, err := compileRule(t.Family, line, func(name string) (*nftSet, error) { return v.set(t, name) })
	if err == nil {
		var wanted string
		if wanted, err = rule.canonical(t.Family); err == nil && wanted == there {
			return line, nil
		}
	}
	return foreignLine(text, why, r.exprs, r.udata), nil
}

// anonymous reads a set that is written in a rule, with its elements.
func (v *nftView) anonymous(t host.Table, name string) (*nftSet, error) {
	s, err := v.set(t, name)
	if isGone(err) {
		return &nftSet{name: name, oddity: "gone"}, nil
	}
	if err != nil || s.elements != nil {
		return s, err
	}
	s.elements, _, err = v.list(s)
	return s, err
}
