package linux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

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

// Rules reads all tables of all families and programs, as they were at one
// moment; tables of iptables-legacy are named if they hold anything. The cost is
// some milliseconds for ten thousand rules.
func (h *Host) Rules(ctx context.Context) (*ruleset.Ruleset, error) {
	return h.rules.everything(ctx, nil)
}

// ForeignRules are all but our own tables, whose maps may hold tens of thousands
// of elements.
func (h *Host) ForeignRules(ctx context.Context) (*ruleset.Ruleset, error) {
	return h.rules.everything(ctx, func(table string) bool { return table == ourTable })
}

// everything reads all tables but those that skip names.
func (a *nftAdapter) everything(ctx context.Context, skip func(table string) bool) (*ruleset.Ruleset, error) {
	a.whole.mu.Lock()
	defer a.whole.mu.Unlock()
	sock := a.whole.sock
	var r *ruleset.Ruleset
	for range listTries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		before, err := sock.generation()
		if err != nil {
			return nil, err
		}
		// What was interrupted or is gone by now shows in the generation, too.
		if r, err = a.readAll(skip); err != nil && !errors.Is(err, unix.EINTR) && !isGone(err) {
			return nil, err
		}
		now, nowErr := sock.generation()
		if nowErr != nil {
			return nil, nowErr
		}
		if err == nil && now == before {
			r.Legacy, err = legacyTables()
			return r, err
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
	tables map[tableKey]*ruleset.Table
}

func (a *nftAdapter) readAll(skip func(string) bool) (*ruleset.Ruleset, error) {
	w := wholeReader{a, a.whole.sock, map[tableKey]*ruleset.Table{}}
	r := &ruleset.Ruleset{}
	replies, err := w.sock.get(unix.NFT_MSG_GETTABLE, 0, netlink.Dump, nil)
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	for _, reply := range replies {
		family, known := familyWords[reply.family]
		if !known {
			continue
		}
		f := fieldsOf(reply.attrs)
		if skip != nil && skip(f.text(unix.NFTA_TABLE_NAME)) {
			continue
		}
		t := &ruleset.Table{
			Family: family, Name: f.text(unix.NFTA_TABLE_NAME), Handle: f.u64(nftaTableHandle),
			Dormant: f.u32(unix.NFTA_TABLE_FLAGS)&unix.NFT_TABLE_F_DORMANT != 0, Owned: f.u32(unix.NFTA_TABLE_FLAGS)&tableOwned != 0, Sets: map[string]*ruleset.Set{},
		}
		r.Tables = append(r.Tables, t)
		w.tables[tableKey{reply.family, t.Name}] = t
	}
	// The kernel lists by family; handles are given in the order of making.
	slices.SortStableFunc(r.Tables, func(a, b *ruleset.Table) int { return int(int64(a.Handle) - int64(b.Handle)) })
	if err := w.chains(); err != nil {
		return nil, err
	}
	if err := w.sets(); err != nil {
		return nil, err
	}
	return r, w.rules()
}

func (w *wholeReader) chains() error {
	replies, err := w.sock.get(unix.NFT_MSG_GETCHAIN, 0, netlink.Dump, nil)
	if err != nil {
		return fmt.Errorf("list nftables chains: %w", err)
	}
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

func (w *wholeReader) rules() error {
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
		c.Rules = append(c.Rules, &ruleset.Rule{
			Chain: c, Handle: f.u64(unix.NFTA_RULE_HANDLE), Comment: why, Exprs: decodeExprs(f[unix.NFTA_RULE_EXPRESSIONS], t.Sets),
		})
	}
	return nil
}

func (w *wholeReader) sets() error {
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
		count := -1
		if f[nftaSetCount] != nil {
			count = f.num(nftaSetCount)
		}
		t.Sets[s.Name] = s
		if s.Anonymous {
			w.later(reply.family, s, f.u64(nftaSetHandle))
			continue
		}
		if err := w.elements(reply.family, s, count); err != nil {
			return err
		}
	}
	return nil
}

// later has a set that is written in a rule read when somebody asks for what is
// in it. There may be one for each of ten thousand rules, the kernel goes through
// all of them to find one by its name (nft_set_lookup), and most rules are never
// asked. It cannot have changed by then, only be gone with its rule, and its name
// be another's.
func (w *wholeReader) later(family byte, s *ruleset.Set, handle uint64) {
	s.Read = sync.OnceFunc(func() {
		w.whole.mu.Lock()
		defer w.whole.mu.Unlock()
		err := w.elements(family, s, -1)
		attrs := putText(putText(nil, unix.NFTA_SET_TABLE, s.Table.Name), unix.NFTA_SET_NAME, s.Name)
		replies, stillErr := w.sock.get(unix.NFT_MSG_GETSET, family, 0, attrs)
		still := len(replies) == 1
		if still {
			found, _ := find(replies[0].attrs, nftaSetHandle)
			still = found.u64() == handle
		}
		if err != nil || stillErr != nil || !still {
			s.Elements, s.Partial = nil, true
		}
	})
}

// elements reads the elements of a set. As in nftView.elements, a listing of a
// growing hash table may miss some: then the set is Partial.
func (w *wholeReader) elements(family byte, s *ruleset.Set, count int) error {
	attrs := putText(putText(nil, unix.NFTA_SET_ELEM_LIST_TABLE, s.Table.Name), unix.NFTA_SET_ELEM_LIST_SET, s.Name)
	for range listings {
		replies, err := w.sock.get(unix.NFT_MSG_GETSETELEM, family, netlink.Dump, attrs)
		if err != nil {
			return fmt.Errorf("read elements of nftables set %s %s: %w", s.Table, s.Name, err)
		}
		var items []setItem
		for _, r := range replies {
			list, _ := find(r.attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS)
			for one := range nftAttrs(list.data) {
				items = append(items, decodeSetItem(one.data))
			}
		}
		s.Elements = joinItems(s, items)
		s.Partial = len(replies) > 1 && !s.Interval && count >= 0 && len(items) < count
		if !s.Partial {
			return nil
		}
	}
	return nil
}

type setItem struct {
	ruleset.Element
	end bool
}

func decodeSetItem(b []byte) (item setItem) {
	f := fieldsOf(b)
	item.First, item.Last = f.value(unix.NFTA_SET_ELEM_KEY), f.value(nftaSetElemKeyEnd)
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
			item.Data = f.value(unix.NFTA_SET_ELEM_DATA)
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
