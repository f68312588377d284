package linux

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"weak"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/ruleset"
)

// keptRules are the tables of all programs as they were read last: of ten thousand
// rules the listing costs the kernel some 40 ms, and reading it us 20. Before each use
// it is proven that they still are so.
//
//   - Every transaction makes another generation: rules, chains, sets, elements that
//     programs put in or take out.
//   - Without one a table goes that belongs to a program which ends, or loses its owner
//     (nft_rcv_nl_event in net/netfilter/nf_tables_api.c). Tables are listed each time;
//     the kernel gives a handle to one table only.
//   - Without one a chain loses a network device that goes, or goes with it
//     (nf_tables_netdev_event in nft_chain_filter.c). Chains of devices are listed.
//   - Elements that packets put in or take out, or that run out of time, are read when
//     somebody asks for them, for each question anew: those of sets with such a flag, and of
//     sets that a rule fills.
//   - Counters are read when somebody asks for them (Rule.Counted). Of other things that go
//     on by themselves (quotas, limits, named objects, what extensions of iptables know)
//     nothing is read that could be old: what depends on them is not known.
//   - Tables of iptables-legacy have no generation, and are looked at each time.
type keptRules struct {
	rules      *ruleset.Ruleset // nil if nothing is kept
	generation uint32
	tables     []tableMark
	bound      []boundChain
}

// keptRulesMost is how many rules and elements are kept, some 10 MB. What is larger is read
// for each question.
const keptRulesMost = 25_000

// tableMark tells a table from one of the same name that came after it.
type tableMark struct {
	tableKey
	handle       uint64
	flags, owner uint32
}

// tableMarks lists all tables.
func (s *nftSocket) tableMarks() ([]tableMark, error) {
	replies, err := s.get(unix.NFT_MSG_GETTABLE, 0, netlink.Dump, nil)
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	marks := make([]tableMark, 0, len(replies))
	for _, reply := range replies {
		f := fieldsOf(reply.attrs)
		marks = append(marks, tableMark{
			tableKey: tableKey{reply.family, f.text(unix.NFTA_TABLE_NAME)}, handle: f.u64(nftaTableHandle), flags: f.u32(unix.NFTA_TABLE_FLAGS), owner: f.u32(attrTableOwner),
		})
	}
	return marks, nil
}

// boundChain is a chain that belongs to network devices.
type boundChain struct {
	tableKey
	handle  uint64
	devices string
}

func boundChains(replies []nftReply) (bound []boundChain) {
	for _, reply := range replies {
		f := fieldsOf(reply.attrs)
		if devices := devicesOf(f[unix.NFTA_CHAIN_HOOK]); len(devices) > 0 {
			key := tableKey{reply.family, f.text(unix.NFTA_CHAIN_TABLE)}
			bound = append(bound, boundChain{key, f.u64(unix.NFTA_CHAIN_HANDLE), strings.Join(devices, " ")})
		}
	}
	return bound
}

// byFamily sorts chains by their family, and leaves the kernel's order within one.
func byFamily(bound []boundChain) []boundChain {
	slices.SortStableFunc(bound, func(a, b boundChain) int { return int(a.family) - int(b.family) })
	return bound
}

// keep is what was read, to be kept.
func (w *wholeReader) keep(generation uint32) keptRules {
	if w.weight > keptRulesMost {
		return keptRules{}
	}
	return keptRules{w.rules, generation, w.marks, byFamily(w.bound)}
}

// stillKept says whether what is kept is what a reading would find.
func (a *nftAdapter) stillKept(generation uint32) (bool, error) {
	k := &a.whole.kept
	if k.rules == nil || k.generation != generation {
		*k = keptRules{} // not both in memory while they are read anew
		return false, nil
	}
	tables, err := a.whole.sock.tableMarks()
	if err != nil || !slices.Equal(tables, k.tables) {
		return false, orInterrupted(err)
	}
	var bound []boundChain
	for i, c := range k.bound {
		if i > 0 && c.family == k.bound[i-1].family {
			continue
		}
		replies, err := a.whole.sock.get(unix.NFT_MSG_GETCHAIN, c.family, netlink.Dump, nil)
		if err != nil {
			return false, orInterrupted(err)
		}
		bound = append(bound, boundChains(replies)...)
	}
	return slices.Equal(bound, k.bound), nil
}

// orInterrupted is no error if a listing was only interrupted by a change.
func orInterrupted(err error) error {
	if isAny(err, unix.EINTR) {
		return nil
	}
	return err
}

// without leaves out the tables that skip names.
func (k *keptRules) without(skip func(table string) bool) *ruleset.Ruleset {
	if skip == nil {
		return k.rules
	}
	return &ruleset.Ruleset{Tables: slices.DeleteFunc(slices.Clone(k.rules.Tables), func(t *ruleset.Table) bool { return skip(t.Name) })}
}

// recount reads a rule anew, for its counters, once for each question.
func (a *nftAdapter) recount(family byte, r *ruleset.Rule) []ruleset.Expr {
	a.whole.mu.Lock()
	defer a.whole.mu.Unlock()
	if known, ok := a.whole.recounted[r]; ok {
		return known
	}
	t := r.Chain.Table
	attrs := putText(putText(nil, unix.NFTA_RULE_TABLE, t.Name), unix.NFTA_RULE_CHAIN, r.Chain.Name)
	replies, err := a.whole.sock.get(unix.NFT_MSG_GETRULE, family, 0, putU64(attrs, unix.NFTA_RULE_HANDLE, r.Handle))
	exprs := r.Exprs
	if err == nil && len(replies) == 1 {
		found, _ := find(replies[0].attrs, unix.NFTA_RULE_EXPRESSIONS)
		// Handles begin again in a table that was made anew.
		if now := decodeExprs(found.data, t.Sets); slices.EqualFunc(now, exprs, alike) {
			exprs = now
		}
	}
	if a.whole.recounted == nil {
		a.whole.recounted = map[*ruleset.Rule][]ruleset.Expr{}
	}
	a.whole.recounted[r] = exprs
	return exprs
}

// alike says whether two expressions are the same but for what they count.
func alike(a, b ruleset.Expr) bool {
	_, one := a.(ruleset.Counter)
	_, other := b.(ruleset.Counter)
	return one && other || reflect.DeepEqual(a, b)
}

// later has a set that is written in a rule read when somebody asks for what is
// in it. There may be one for each of ten thousand rules, the kernel goes through
// all of them to find one by its name (nft_set_lookup), and most rules are never
// asked. It cannot have changed by then, only be gone with its rule, and its name
// be another's.
func (w *wholeReader) later(family byte, s *ruleset.Set) {
	a, handle, done := w.nftAdapter, w.handles[s], false
	var elements []ruleset.Element
	s.Read = func() ([]ruleset.Element, bool) {
		a.whole.mu.Lock()
		defer a.whole.mu.Unlock()
		if !done {
			found, partial, err := a.elementsOf(family, s, -1)
			if err != nil || partial {
				return nil, true
			}
			if now, _ := a.setNow(family, s); now != handle {
				return nil, true
			}
			elements, done = found, true
		}
		return elements, false
	}
}

// fresh has a set read when somebody asks, for each question anew. What was read is
// held for as long as the garbage collector leaves it, so that a walk finds it again:
// a blocklist may be large.
func (w *wholeReader) fresh(family byte, s *ruleset.Set) {
	a, handle := w.nftAdapter, w.handles[s]
	type reading struct {
		elements []ruleset.Element
		partial  bool
	}
	var last weak.Pointer[reading]
	var asked uint64
	s.Elements, s.Partial, s.Dynamic = nil, false, true
	s.Read = func() ([]ruleset.Element, bool) {
		a.whole.mu.Lock()
		defer a.whole.mu.Unlock()
		if r := last.Value(); r != nil && asked == a.whole.asked {
			return r.elements, r.partial
		}
		r := &reading{partial: true}
		if now, count := a.setNow(family, s); now == handle {
			if found, partial, err := a.elementsOf(family, s, count); err == nil {
				r.elements, r.partial = found, partial
			}
			if now, _ := a.setNow(family, s); now != handle {
				r.elements, r.partial = nil, true
			}
		}
		last, asked = weak.Make(r), a.whole.asked
		return r.elements, r.partial
	}
}

// filled is told of a set that a rule fills: kernels let rules do so with sets that are not
// marked for it.
func (w *wholeReader) filled(family byte, s *ruleset.Set) {
	if s != nil && !s.Dynamic && !s.Anonymous {
		w.fresh(family, s)
	}
}

// setNow is the handle of the set that has a set's name now, 0 if there is none, and how
// many elements it has, -1 if the kernel does not say.
func (a *nftAdapter) setNow(family byte, s *ruleset.Set) (handle uint64, count int) {
	attrs := putText(putText(nil, unix.NFTA_SET_TABLE, s.Table.Name), unix.NFTA_SET_NAME, s.Name)
	replies, err := a.whole.sock.get(unix.NFT_MSG_GETSET, family, 0, attrs)
	if err != nil || len(replies) != 1 {
		return 0, -1
	}
	f := fieldsOf(replies[0].attrs)
	return f.u64(nftaSetHandle), saidCount(&f)
}
