package linux

import (
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// nftBatch collects the messages of one transaction.
type nftBatch struct {
	msgs   []nftMessage
	lastID uint32
	// tableFlags are those of tables that are made.
	tableFlags uint32
	// known are the sets that rules and elements of this batch refer to.
	known map[host.Key]*nftSet
	// find asks the kernel for a set that the batch does not make.
	find func(host.Table, string) (*nftSet, error)
	// remember is told the text of each rule.
	remember func(text string)
}

func (b *nftBatch) add(kind uint16, family host.Family, flags netlink.HeaderFlags, attrs []byte, about string) {
	b.msgs = append(b.msgs, nftMessage{kind: kind, family: familyNumbers[family], flags: flags, attrs: attrs, about: about})
}

func (b *nftBatch) set(t host.Table, name string) (*nftSet, error) {
	key := host.SetKey(t, name)
	if s, ok := b.known[key]; ok {
		return s, nil
	}
	s, err := b.find(t, name)
	if err != nil {
		return nil, err
	}
	b.known[key] = s
	return s, nil
}

// sorted are the steps of one call by what is done to what.
type sorted struct {
	newTables, oldTables     []host.Table
	newSets, oldSets         []host.Set
	newChains, oldChains     []host.Chain
	movedChains              []host.Chain // as they were, with another hook
	newElements, oldElements []host.Element
}

// sortSteps takes the steps apart. What is in a table that goes is left to the
// kernel.
func sortSteps(steps []plan.Step) (sorted, error) {
	var s sorted
	gone := map[host.Table]bool{}
	for _, step := range steps {
		if t, ok := step.Before.(host.Table); ok && step.After == nil {
			gone[t] = true
			s.oldTables = append(s.oldTables, t)
		}
	}
	for _, step := range steps {
		switch r := step.After.(type) {
		case nil:
		case host.Table:
			s.newTables = append(s.newTables, r)
		case host.Set:
			s.newSets = append(s.newSets, r)
		case host.Chain:
			s.newChains = append(s.newChains, r)
			if was, ok := step.Before.(host.Chain); ok && (was.Hook != r.Hook || was.Type != r.Type || was.Priority != r.Priority) {
				s.movedChains = append(s.movedChains, was)
			}
		case host.Element:
			s.newElements = append(s.newElements, r)
		default:
			return s, fmt.Errorf("nftables: %s is not of this adapter", step.Key())
		}
		switch r := step.Before.(type) {
		case host.Set:
			if step.After == nil && !gone[r.Table] {
				s.oldSets = append(s.oldSets, r)
			}
		case host.Chain:
			if step.After == nil && !gone[r.Table] {
				s.oldChains = append(s.oldChains, r)
			}
		case host.Element:
			if !gone[r.Table] {
				s.oldElements = append(s.oldElements, r)
			}
		}
	}
	return s, nil
}

// build turns steps into messages. Whatever the order of the steps, elements
// and rules let go of sets and chains before those go, and sets and chains are
// there before anything refers to them, so chains may jump to each other.
func (b *nftBatch) build(steps []plan.Step) error {
	s, err := sortSteps(steps)
	if err != nil {
		return err
	}
	for _, r := range s.newSets {
		set, err := newSet(r)
		if err != nil {
			return fmt.Errorf("nftables: %s: %w", r.Key(), err)
		}
		b.lastID++
		set.id = b.lastID
		b.known[r.Key()] = set
	}
	goneSets := map[host.Key]bool{}
	for _, r := range s.oldSets {
		goneSets[r.Key()] = true
	}
	if err := b.elements(s.oldElements, unix.NFT_MSG_DELSETELEM, goneSets); err != nil {
		return err
	}
	for _, t := range s.newTables {
		b.newTable(t)
	}
	for _, r := range s.newSets {
		b.add(unix.NFT_MSG_NEWSET, r.Table.Family, netlink.Create, b.known[r.Key()].encode(), r.Key().String())
	}
	for _, c := range append(s.oldChains, s.movedChains...) {
		b.onChain(unix.NFT_MSG_DELRULE, c, nil)
	}
	for _, c := range s.movedChains {
		b.onChain(unix.NFT_MSG_DELCHAIN, c, nil)
	}
	if err := b.chains(s.newChains); err != nil {
		return err
	}
	if err := b.elements(s.newElements, unix.NFT_MSG_NEWSETELEM, nil); err != nil {
		return err
	}
	for _, r := range s.oldSets {
		attrs := putText(putText(nil, unix.NFTA_SET_TABLE, r.Table.Name), unix.NFTA_SET_NAME, r.Name)
		b.add(unix.NFT_MSG_DELSET, r.Table.Family, 0, attrs, "delete "+r.Key().String())
	}
	for _, c := range s.oldChains {
		b.onChain(unix.NFT_MSG_DELCHAIN, c, nil)
	}
	for _, t := range s.oldTables {
		b.delTable(t)
	}
	return nil
}

// newTable makes a table, or wakes one that somebody made dormant.
func (b *nftBatch) newTable(t host.Table) {
	attrs := putU32(putText(nil, unix.NFTA_TABLE_NAME, t.Name), unix.NFTA_TABLE_FLAGS, b.tableFlags)
	b.add(unix.NFT_MSG_NEWTABLE, t.Family, netlink.Create, attrs, t.Key().String())
}

func (b *nftBatch) delTable(t host.Table) {
	b.add(unix.NFT_MSG_DELTABLE, t.Family, 0, putText(nil, unix.NFTA_TABLE_NAME, t.Name), "delete "+t.Key().String())
}

// onChain adds a message about a chain as a whole; DELRULE without a rule takes
// all of them out.
func (b *nftBatch) onChain(kind uint16, c host.Chain, more []byte) {
	about, flags := c.Key().String(), netlink.HeaderFlags(0)
	table, name := uint16(unix.NFTA_CHAIN_TABLE), uint16(unix.NFTA_CHAIN_NAME)
	switch kind {
	case unix.NFT_MSG_NEWCHAIN:
		flags = netlink.Create
	case unix.NFT_MSG_DELCHAIN:
		about = "delete " + about
	case unix.NFT_MSG_DELRULE:
		table, name = unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN
		about = "clear " + about
	}
	b.add(kind, c.Table.Family, flags, append(putText(putText(nil, table, c.Table.Name), name, c.Name), more...), about)
}

var hookNumbers = map[string]uint32{
	"prerouting": unix.NF_INET_PRE_ROUTING, "input": unix.NF_INET_LOCAL_IN, "forward": unix.NF_INET_FORWARD,
	"output": unix.NF_INET_LOCAL_OUT, "postrouting": unix.NF_INET_POST_ROUTING,
}

// Verdicts as chain policies (linux/netfilter.h).
const (
	policyDrop   = 0
	policyAccept = 1
)

// chains makes or keeps the chains, then gives them their rules.
func (b *nftBatch) chains(chains []host.Chain) error {
	for _, c := range chains {
		var base []byte
		if !isName(c.Name) {
			return fmt.Errorf("nftables: %q is not the name of a chain", c.Name)
		}
		if c.Hook != "" {
			number, ok := hookNumbers[c.Hook]
			if !ok {
				return fmt.Errorf("nftables: %s: unknown hook %q", c.Key(), c.Hook)
			}
			policy := uint32(policyAccept)
			if strings.HasPrefix(c.Rules, linePolicyDrop) {
				policy = policyDrop
			}
			hook := putU32(putU32(nil, unix.NFTA_HOOK_HOOKNUM, number), unix.NFTA_HOOK_PRIORITY, uint32(int32(c.Priority)))
			base = putNest(nil, unix.NFTA_CHAIN_HOOK, hook)
			base = putU32(base, unix.NFTA_CHAIN_POLICY, policy)
			base = putText(base, unix.NFTA_CHAIN_TYPE, c.Type)
		}
		b.onChain(unix.NFT_MSG_NEWCHAIN, c, base)
	}
	for _, c := range chains {
		b.onChain(unix.NFT_MSG_DELRULE, c, nil)
		if err := b.rules(c); err != nil {
			return fmt.Errorf("nftables: %s: %w", c.Key(), err)
		}
	}
	return nil
}

func (b *nftBatch) rules(c host.Chain) error {
	if c.Rules == "" {
		return nil
	}
	for line := range strings.SplitSeq(c.Rules, "\n") {
		rule, err := b.compile(c.Table, line)
		if err != nil {
			return err
		}
		if rule == nil {
			continue
		}
		for _, set := range rule.anonymousSets() {
			b.lastID++
			set.table, set.id = c.Table, b.lastID
			b.add(unix.NFT_MSG_NEWSET, c.Table.Family, netlink.Create, set.encode(), "set of "+line)
			for _, body := range set.encodeElements(set.elements) {
				b.add(unix.NFT_MSG_NEWSETELEM, c.Table.Family, netlink.Create, body, "set of "+line)
			}
		}
		exprs, err := rule.expressions(c.Table.Family)
		if err != nil {
			return err
		}
		udata, err := rule.userData()
		if err != nil {
			return err
		}
		b.remember(rule.text)
		attrs := putText(putText(nil, unix.NFTA_RULE_TABLE, c.Table.Name), unix.NFTA_RULE_CHAIN, c.Name)
		attrs = putNest(attrs, unix.NFTA_RULE_EXPRESSIONS, exprs)
		if len(udata) > 0 {
			attrs = put(attrs, unix.NFTA_RULE_USERDATA, udata)
		}
		b.add(unix.NFT_MSG_NEWRULE, c.Table.Family, netlink.Create|netlink.Append, attrs, c.Key().String()+": "+line)
	}
	return nil
}

// compile reads one line of a chain; nil for a line that makes no rule.
func (b *nftBatch) compile(t host.Table, line string) (*nftRule, error) {
	if strings.HasPrefix(line, "#") {
		return parseForeignLine(line)
	}
	return compileRule(t.Family, line, func(name string) (*nftSet, error) { return b.set(t, name) })
}

// elements adds or deletes elements, those of one set together. Elements of
// sets that are gone are gone.
func (b *nftBatch) elements(elements []host.Element, kind uint16, gone map[host.Key]bool) error {
	var order []host.Key
	bySet := map[host.Key][]host.Element{}
	for _, e := range elements {
		key := host.SetKey(e.Table, e.Set)
		if gone[key] {
			continue
		}
		if bySet[key] == nil {
			order = append(order, key)
		}
		bySet[key] = append(bySet[key], e)
	}
	verb := map[uint16]string{unix.NFT_MSG_DELSETELEM: "delete "}[kind]
	for _, key := range order {
		first := bySet[key][0]
		set, err := b.set(first.Table, first.Set)
		if err != nil {
			if isGone(err) && kind == unix.NFT_MSG_DELSETELEM {
				continue
			}
			return fmt.Errorf("nftables: %s: %w", first.Key(), err)
		}
		encoded := make([]nftElement, 0, len(bySet[key]))
		for _, e := range bySet[key] {
			one, err := set.element(e)
			if err != nil {
				return fmt.Errorf("nftables: %s: %w", e.Key(), err)
			}
			encoded = append(encoded, one)
		}
		about := verb + first.Key().String()
		if n := len(encoded) - 1; n > 0 {
			about += fmt.Sprintf(" and %d more", n)
		}
		for _, body := range set.encodeElements(encoded) {
			b.add(kind, first.Table.Family, netlink.Create, body, about)
		}
	}
	return nil
}
