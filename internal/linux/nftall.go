package linux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/ruleset"
)

// familyWords are the families that have tables, by the kernel's numbers.
var familyWords = map[byte]string{
	unix.NFPROTO_IPV4: ruleset.IP, unix.NFPROTO_IPV6: ruleset.IP6, unix.NFPROTO_INET: ruleset.Inet,
	unix.NFPROTO_BRIDGE: ruleset.Bridge, unix.NFPROTO_ARP: ruleset.ARP, unix.NFPROTO_NETDEV: ruleset.Netdev,
}

// hookWords are the hooks of a family, by the kernel's numbers.
func hookWord(family string, number uint32) string {
	words := []string{"prerouting", "input", "forward", "output", "postrouting", "ingress"}
	switch family {
	case ruleset.ARP:
		words = []string{"input", "output", "forward"}
	case ruleset.Netdev:
		words = []string{"ingress", "egress"}
	}
	if int(number) < len(words) {
		return words[number]
	}
	return fmt.Sprintf("hook %d", number)
}

// Rules are all tables of all families and programs, as they were at one moment;
// tables of iptables-legacy are named if they hold anything. What is given is not to
// be changed: others have it too. See keptRules for what is read anew and what is not.
func (h *Host) Rules(ctx context.Context) (*ruleset.Ruleset, error) {
	return h.rules.everything(ctx, nil)
}

// ForeignRules are all but our own tables, whose maps may hold tens of thousands
// of elements.
func (h *Host) ForeignRules(ctx context.Context) (*ruleset.Ruleset, error) {
	return h.rules.everything(ctx, func(table string) bool { return table == ourTable })
}

// everything gives all tables but those that skip names.
func (a *nftAdapter) everything(ctx context.Context, skip func(table string) bool) (*ruleset.Ruleset, error) {
	a.whole.mu.Lock()
	defer a.whole.mu.Unlock()
	a.whole.asked++
	clear(a.whole.recounted)
	r, err := a.tablesNow(ctx, skip)
	if err != nil {
		return nil, err
	}
	// Of what iptables-legacy has there is no generation, and it is quickly read.
	legacy, err := legacyTables()
	return &ruleset.Ruleset{Tables: r.Tables, Legacy: legacy}, err
}

// tablesNow gives the tables that are kept if nothing changed, else it reads them.
func (a *nftAdapter) tablesNow(ctx context.Context, skip func(table string) bool) (*ruleset.Ruleset, error) {
	sock := a.whole.sock
	for range listTries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		before, err := sock.generation()
		if err != nil {
			return nil, err
		}
		if same, err := a.stillKept(before); err != nil {
			return nil, err
		} else if same {
			return a.whole.kept.without(skip), nil
		}
		// What was interrupted or is gone by now shows in the generation, too.
		w, err := a.readAll(skip)
		if err != nil && !errors.Is(err, unix.EINTR) && !isGone(err) {
			return nil, err
		}
		now, nowErr := sock.generation()
		if nowErr != nil {
			return nil, nowErr
		}
		if err == nil && now == before {
			if skip == nil {
				a.whole.kept = w.keep(now)
			}
			return w.rules, nil
		}
	}
	return nil, errors.New("read all nftables rules: they change faster than they can be read")
}

// tableKey finds a table by what messages say about it.
type tableKey struct {
	family byte
	name   string
}

type wholeReader struct {
	*nftAdapter
	sock   *nftSocket
	rules  *ruleset.Ruleset
	tables map[tableKey]*ruleset.Table
	// marks and bound are what keptRules needs.
	marks []tableMark
	bound []boundChain
	// handles are those of named sets.
	handles map[*ruleset.Set]uint64
	// weight is how many rules and elements were read.
	weight int
	pool   exprPool
}

func (a *nftAdapter) readAll(skip func(string) bool) (*wholeReader, error) {
	w := &wholeReader{nftAdapter: a, sock: a.whole.sock, rules: &ruleset.Ruleset{}, tables: map[tableKey]*ruleset.Table{}, handles: map[*ruleset.Set]uint64{}}
	var err error
	if w.marks, err = a.whole.sock.tableMarks(); err != nil {
		return w, err
	}
	for _, m := range w.marks {
		family, known := familyWords[m.family]
		if !known || skip != nil && skip(m.name) {
			continue
		}
		t := &ruleset.Table{
			Family: family, Name: m.name, Handle: m.handle,
			Dormant: m.flags&unix.NFT_TABLE_F_DORMANT != 0, Owned: m.flags&tableOwned != 0, Sets: map[string]*ruleset.Set{},
		}
		t.Recount = func(r *ruleset.Rule) []ruleset.Expr { return a.recount(m.family, r) }
		w.rules.Tables = append(w.rules.Tables, t)
		w.tables[m.tableKey] = t
	}
	// The kernel lists by family; handles are given in the order of making.
	slices.SortStableFunc(w.rules.Tables, func(a, b *ruleset.Table) int { return int(int64(a.Handle) - int64(b.Handle)) })
	if err := w.readChains(); err != nil {
		return w, err
	}
	if err := w.readSets(); err != nil {
		return w, err
	}
	return w, w.readRules()
}

func (w *wholeReader) readChains() error {
	replies, err := w.sock.get(unix.NFT_MSG_GETCHAIN, 0, netlink.Dump, nil)
	if err != nil {
		return fmt.Errorf("list nftables chains: %w", err)
	}
	w.bound = boundChains(replies)
	for _, reply := range replies {
		f := fieldsOf(reply.attrs)
		t := w.tables[tableKey{reply.family, f.text(unix.NFTA_CHAIN_TABLE)}]
		if t == nil {
			continue
		}
		c := &ruleset.Chain{Name: f.text(unix.NFTA_CHAIN_NAME), Handle: f.u64(unix.NFTA_CHAIN_HANDLE), Type: f.text(unix.NFTA_CHAIN_TYPE)}
		if hook := f[unix.NFTA_CHAIN_HOOK]; hook != nil {
			number, _ := find(hook, unix.NFTA_HOOK_HOOKNUM)
			priority, _ := find(hook, unix.NFTA_HOOK_PRIORITY)
			c.Hook, c.Priority = hookWord(t.Family, number.u32()), int(int32(priority.u32()))
			c.Drop = f[unix.NFTA_CHAIN_POLICY] != nil && f.u32(unix.NFTA_CHAIN_POLICY) == policyDrop
			c.Devices = devicesOf(hook)
		}
		t.Add(c)
	}
	return nil
}

func devicesOf(hook []byte) []string {
	var names []string
	if one, ok := find(hook, unix.NFTA_HOOK_DEV); ok {
		names = append(names, one.text())
	}
	list, _ := find(hook, 4 /* NFTA_HOOK_DEVS */)
	for one := range nftAttrs(list.data) {
		names = append(names, one.text())
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (w *wholeReader) readRules() error {
	replies, err := w.sock.get(unix.NFT_MSG_GETRULE, 0, netlink.Dump, nil)
	if err != nil {
		return fmt.Errorf("list nftables rules: %w", err)
	}
	for _, reply := range replies {
		f := fieldsOf(reply.attrs)
		t := w.tables[tableKey{reply.family, f.text(unix.NFTA_RULE_TABLE)}]
		if t == nil {
			continue
		}
		c := t.Chain(f.text(unix.NFTA_RULE_CHAIN))
		if c == nil {
			continue
		}
		_, why, _ := readUserData(f[unix.NFTA_RULE_USERDATA])
		rule := &ruleset.Rule{Chain: c, Handle: f.u64(unix.NFTA_RULE_HANDLE), Comment: why, Exprs: w.pool.exprs(f[unix.NFTA_RULE_EXPRESSIONS], t)}
		c.Rules = append(c.Rules, rule)
		w.weight++
		for _, e := range rule.Exprs {
			if d, ok := e.(ruleset.Dynset); ok {
				w.filled(reply.family, t.Sets[d.Name])
			}
		}
	}
	return nil
}

func (w *wholeReader) readSets() error {
	replies, err := w.sock.get(unix.NFT_MSG_GETSET, 0, netlink.Dump, nil)
	if err != nil {
		return fmt.Errorf("list nftables sets: %w", err)
	}
	for _, reply := range replies {
		f := fieldsOf(reply.attrs)
		t := w.tables[tableKey{reply.family, f.text(unix.NFTA_SET_TABLE)}]
		if t == nil {
			continue
		}
		s := decodeRuleSet(t, &f)
		t.Sets[s.Name] = s
		w.handles[s] = f.u64(nftaSetHandle)
		switch {
		case s.Anonymous:
			w.later(reply.family, s)
		case s.Dynamic:
			w.fresh(reply.family, s)
		default:
			if s.Elements, s.Partial, err = w.elementsOf(reply.family, s, saidCount(&f)); err != nil {
				return err
			}
			w.weight += len(s.Elements)
		}
	}
	return nil
}

func decodeRuleSet(t *ruleset.Table, f *fields) *ruleset.Set {
	flags := f.u32(unix.NFTA_SET_FLAGS)
	s := &ruleset.Set{
		Table: t, Name: f.text(unix.NFTA_SET_NAME), Anonymous: flags&unix.NFT_SET_ANONYMOUS != 0, Interval: flags&unix.NFT_SET_INTERVAL != 0,
		Map: flags&unix.NFT_SET_MAP != 0, Objects: flags&unix.NFT_SET_OBJECT != 0, Dynamic: flags&(unix.NFT_SET_EVAL|unix.NFT_SET_TIMEOUT) != 0,
		KeyType: f.u32(unix.NFTA_SET_KEY_TYPE), KeyLen: f.num(unix.NFTA_SET_KEY_LEN), DataType: f.u32(unix.NFTA_SET_DATA_TYPE), DataLen: f.num(unix.NFTA_SET_DATA_LEN),
	}
	s.Verdicts = s.Map && s.DataType == unix.NFT_DATA_VERDICT
	if concat, ok := find(f[unix.NFTA_SET_DESC], nftaSetDescConcat); ok {
		for field := range nftAttrs(concat.data) {
			length, _ := find(field.data, 1 /* NFTA_SET_FIELD_LEN */)
			s.Fields = append(s.Fields, int(length.u32()))
		}
	}
	return s
}

// saidCount is how many elements the kernel says that a set has, -1 if it does not.
func saidCount(f *fields) int {
	if f[nftaSetCount] == nil {
		return -1
	}
	return f.num(nftaSetCount)
}

// elementsOf reads the elements of a set. As in nftView.elements, a listing of a
// growing hash table may miss some: then they are partial. The kernel counts elements
// whose time has run out too, until it clears them away: a set that has such is read until
// no more turn up.
func (a *nftAdapter) elementsOf(family byte, s *ruleset.Set, count int) (found []ruleset.Element, partial bool, err error) {
	attrs := putText(putText(nil, unix.NFTA_SET_ELEM_LIST_TABLE, s.Table.Name), unix.NFTA_SET_ELEM_LIST_SET, s.Name)
	last := -1
	for range listings {
		replies, err := a.whole.sock.get(unix.NFT_MSG_GETSETELEM, family, netlink.Dump, attrs)
		if err != nil {
			return nil, true, fmt.Errorf("read elements of nftables set %s %s: %w", s.Table, s.Name, err)
		}
		var items []setItem
		var bytes slab
		for _, r := range replies {
			list, _ := find(r.attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS)
			for one := range nftAttrs(list.data) {
				items = append(items, decodeSetItem(one.data, &bytes))
			}
		}
		found = joinItems(s, items)
		partial = len(replies) > 1 && !s.Interval && count >= 0 && len(items) < count
		if partial && s.Dynamic && len(items) == last {
			partial = false
		}
		if last = len(items); !partial {
			break
		}
	}
	return found, partial, nil
}

type setItem struct {
	ruleset.Element
	end bool
}

func decodeSetItem(b []byte, into *slab) (item setItem) {
	f := fieldsOf(b)
	item.First, item.Last = into.copy(f.value(unix.NFTA_SET_ELEM_KEY)), into.copy(f.value(nftaSetElemKeyEnd))
	if item.Last == nil {
		item.Last = item.First
	}
	flags := f.u32(unix.NFTA_SET_ELEM_FLAGS)
	item.end, item.Rest = flags&unix.NFT_SET_ELEM_INTERVAL_END != 0, flags&2 /* NFT_SET_ELEM_CATCHALL */ != 0
	if data := f[unix.NFTA_SET_ELEM_DATA]; data != nil {
		if v, ok := find(data, unix.NFTA_DATA_VERDICT); ok {
			verdict := decodeVerdict(v.data)
			item.Verdict = &verdict
		} else {
			item.Data = into.copy(f.value(unix.NFTA_SET_ELEM_DATA))
		}
	}
	item.Limited = harmful(f[unix.NFTA_SET_ELEM_EXPR])
	for e := range nftAttrs(f[11 /* NFTA_SET_ELEM_EXPRESSIONS */]) {
		item.Limited = item.Limited || harmful(e.data)
	}
	return item
}

// joinItems makes one element of the two entries that a plain interval has.
func joinItems(s *ruleset.Set, items []setItem) []ruleset.Element {
	out := make([]ruleset.Element, 0, len(items))
	if !s.Interval || s.Fields != nil {
		for _, i := range items {
			out = append(out, i.Element)
		}
		return out
	}
	slices.SortStableFunc(items, func(a, b setItem) int {
		if d := bytes.Compare(a.First, b.First); d != 0 {
			return d
		}
		if a.end == b.end {
			return 0
		} else if a.end {
			return -1
		}
		return 1
	})
	for i, item := range items {
		if item.end {
			continue
		}
		if item.Rest {
			out = append(out, item.Element)
			continue
		}
		item.Last = bytes.Repeat([]byte{0xff}, len(item.First))
		if i+1 < len(items) {
			item.Last, _ = before(items[i+1].First)
		}
		out = append(out, item.Element)
	}
	return out
}
