package linux

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/ruleset"
)

// ourTable is the name of our tables, one in each family.
const ourTable = "drawbridge"

var ourTables = []host.Table{{Family: host.FamilyInet, Name: ourTable}, {Family: host.FamilyBridge, Name: ourTable}}

// nftAdapter reads and changes tables, sets, chains and elements of nftables.
// It may be used from several goroutines; calls are carried out one at a time.
//
// Rules are text in nft's own language (see compileRule). A rule carries its
// text with it in the kernel, and is believed only if compiling that text again
// makes what the kernel has.
//
// Reading is in nftobserve.go, changing in nftbatch.go, the language in
// nftcompile.go with its words in nftselect.go and nftstatement.go, sets in
// nftset.go and nftelement.go, the conversation in nftsocket.go.
type nftAdapter struct {
	mu   sync.Mutex
	sock *nftSocket
	// accepts are our rules in chains of others, as they were listed last.
	accepts listedAccepts
	// whole reads the tables of all programs. Where they have thousands of rules it
	// takes long, and changes do not wait for it.
	whole struct {
		mu   sync.Mutex
		sock *nftSocket
		kept keptRules
		// asked counts the questions, and recounted are rules that were read anew for the
		// last one.
		asked     uint64
		recounted map[*ruleset.Rule][]ruleset.Expr
	}
	// texts are rules too long to be kept in the kernel, by their hash. After a
	// restart such a rule is seen as changed, and made again once.
	texts map[string]string
	// tableFlags are those that our tables are made with; see OwnTables.
	tableFlags uint32
	// kept is what our tables held in generation keptAt, nil if that is not known.
	// As long as the kernel's generation is that, nobody changed a rule, and there is
	// no need to read some fifty sets again. (It stays the same when the kernel drops
	// the table of a program that ended, or a set's element runs out: ours stay, and
	// have no such elements.)
	kept   host.State
	keptAt uint32
}

// keptMost bounds what is kept, in resources: some 3 MB.
const keptMost = 10_000

// newNFT opens the conversation with nf_tables in this network namespace.
func newNFT() (*nftAdapter, error) {
	sock, err := dialNFT()
	if err != nil {
		return nil, err
	}
	a := &nftAdapter{sock: sock, texts: map[string]string{}}
	if a.whole.sock, err = dialNFT(); err != nil {
		return nil, errors.Join(err, sock.close())
	}
	return a, nil
}

// Close ends the conversation; the rules stay.
func (a *nftAdapter) Close() error { return errors.Join(a.sock.close(), a.whole.sock.close()) }

// observeTries is how often a reading is begun anew because somebody changed
// rules meanwhile. The last reading counts in any case: each of its parts is
// true, and the change is announced by watch.
const observeTries = 4

// observe reads the resources with the given keys, or all of our tables if keys
// is nil. What is not there is missing. Tables of others are read only if a key
// names them.
func (a *nftAdapter) observe(ctx context.Context, keys []host.Key) (host.State, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	seen, _, err := a.observeAt(ctx, keys)
	if err == nil && keys == nil {
		seen = maps.Clone(seen)
	}
	return seen, err
}

// ours is what our tables hold, and the generation in which they did: it is only
// read, as others get the same.
func (a *nftAdapter) ours(ctx context.Context) (host.State, uint32, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.observeAt(ctx, nil)
}

// observeAt is observe, whose answer may be what is kept, and the generation before.
func (a *nftAdapter) observeAt(ctx context.Context, keys []host.Key) (seen host.State, before uint32, err error) {
	for range observeTries {
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		if before, err = a.sock.generation(); err != nil {
			return nil, 0, err
		}
		if a.kept != nil && a.keptAt == before && onlyOurs(keys) {
			if keys == nil {
				return a.kept, before, nil
			}
			return a.kept.Only(keys), before, nil
		}
		seen = host.State{}
		readErr := a.read(keys, seen)
		if readErr != nil && !errors.Is(readErr, unix.EINTR) {
			return nil, 0, readErr
		}
		now, err := a.sock.generation()
		if err != nil {
			return nil, 0, err
		}
		if now == before {
			if keys == nil && readErr == nil && len(seen) <= keptMost {
				a.kept, a.keptAt = seen, now
			}
			break
		}
	}
	return seen, before, nil
}

// onlyOurs says whether all keys are of our tables: those of others are not kept.
func onlyOurs(keys []host.Key) bool {
	return !slices.ContainsFunc(keys, func(k host.Key) bool {
		t, _, _, err := splitKey(k)
		return err != nil || !slices.Contains(ourTables, t)
	})
}

func (a *nftAdapter) view() *nftView {
	return newNFTView(a.sock, func(hash string) string { return a.texts[hash] })
}

func (a *nftAdapter) remember(text string) {
	if len(text) > udataMax/2 {
		a.texts[hex.EncodeToString(hashOf(text))] = text
	}
}

// manyChains and manySets are from how many chains or sets of a table on all of
// them are read at once: one question costs as much as a dozen of their answers.
const manyChains, manySets = 3, 3

func (a *nftAdapter) read(keys []host.Key, into host.State) error {
	v := a.view()
	if keys == nil {
		for _, t := range ourTables {
			if err := v.table(t, into); err != nil {
				return err
			}
		}
		return nil
	}
	if err := v.prefetch(keys); err != nil {
		return err
	}
	chains := map[host.Table]map[string]bool{}
	elements := map[host.Key]map[string]bool{}
	for _, k := range keys {
		t, name, value, err := splitKey(k)
		if err != nil {
			return err
		}
		switch k.Kind {
		case host.KindTable:
			if _, awake, err := v.tableThere(t); err != nil {
				return err
			} else if awake {
				into.Add(t)
			}
		case host.KindSet:
			s, err := v.set(t, name)
			if err == nil {
				into.Add(s.resource())
			} else if !isGone(err) {
				return err
			}
		case host.KindChain:
			addTo(chains, t, name)
		case host.KindElement:
			addTo(elements, host.SetKey(t, name), value)
		}
	}
	return v.gather(chains, elements, into)
}

// prefetch reads the sets of those tables of which the keys need many.
func (v *nftView) prefetch(keys []host.Key) error {
	needed := map[host.Table]map[string]bool{}
	for _, k := range keys {
		if k.Kind != host.KindSet && k.Kind != host.KindElement {
			continue
		}
		t, name, _, err := splitKey(k)
		if err != nil {
			return err
		}
		addTo(needed, t, name)
	}
	for t, names := range needed {
		if len(names) < manySets {
			continue
		}
		if _, err := v.allSets(t); err != nil {
			return err
		}
	}
	return nil
}

func addTo[K comparable](m map[K]map[string]bool, key K, value string) {
	if m[key] == nil {
		m[key] = map[string]bool{}
	}
	m[key][value] = true
}

// gather reads chains and elements grouped by where they are.
func (v *nftView) gather(chains map[host.Table]map[string]bool, elements map[host.Key]map[string]bool, into host.State) error {
	for t, names := range chains {
		found := host.State{}
		if len(names) >= manyChains {
			if err := v.chains(t, "", found); err != nil {
				return err
			}
		} else {
			for name := range names {
				if err := v.chains(t, name, found); err != nil {
					return err
				}
			}
		}
		for _, r := range found {
			if c := r.(host.Chain); names[c.Name] {
				into.Add(c)
			}
		}
	}
	for key, values := range elements {
		t, name, _, err := splitKey(key)
		if err != nil {
			return err
		}
		if err := v.someElements(t, name, values, into); err != nil {
			return err
		}
	}
	return nil
}

// splitKey takes a key's name apart: "inet drawbridge sources4 { virbr0 . … }".
func splitKey(k host.Key) (t host.Table, name, value string, err error) {
	words := strings.SplitN(k.Name, " ", 4)
	want := map[host.Kind]int{host.KindTable: 2, host.KindSet: 3, host.KindChain: 3, host.KindElement: 4}[k.Kind]
	if want == 0 || len(words) != want {
		return t, "", "", fmt.Errorf("nftables: %s is not of this adapter", k)
	}
	t = host.Table{Family: host.Family(words[0]), Name: words[1]}
	if _, ok := familyNumbers[t.Family]; !ok {
		return t, "", "", fmt.Errorf("nftables: unknown family in %s", k)
	}
	if want > 2 {
		name = words[2]
	}
	if want > 3 {
		value = strings.TrimSuffix(strings.TrimPrefix(words[3], "{ "), " }")
	}
	return t, name, value, nil
}

// applyTries is how often steps are planned anew because the kernel refused.
const applyTries = 3

// apply carries out steps about tables, sets, chains and elements as one kernel
// transaction: all of them or none. The first try takes the steps at their
// word, without looking; if the kernel refuses, what is there is read and only
// what is still missing is tried again. So creating what is there as wanted and
// deleting what is gone succeed, on every kernel that has nf_tables.
func (a *nftAdapter) apply(ctx context.Context, steps []plan.Step) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(steps) == 0 {
		return nil
	}
	err := errRemade
	if !remakesSet(steps) {
		err = a.try(nil, steps)
	}
	for range applyTries {
		if err == nil || !mayBeStale(err) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		reset, left, lookErr := a.lookAgain(steps)
		switch {
		case lookErr != nil:
			return errors.Join(err, lookErr)
		case len(left) == 0:
			return nil
		case len(reset) == 0 && slices.Equal(left, steps):
			// Things are as the steps say, so the refusal stands.
			return err
		}
		steps = left
		err = a.try(reset, left)
	}
	return err
}

var errRemade = errors.New("a set changes its type")

// mayBeStale says whether the kernel's refusal can come from things being other
// than the steps say.
func mayBeStale(err error) bool {
	for _, e := range []error{errRemade, unix.ENOENT, unix.EEXIST, unix.EBUSY, unix.EOPNOTSUPP, unix.ENOTEMPTY, unix.EINVAL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func remakesSet(steps []plan.Step) bool {
	for _, s := range steps {
		if was, ok := s.Before.(host.Set); ok && s.After != nil && s.After != host.Resource(was) {
			return true
		}
	}
	return false
}

// try sends one transaction. Tables in reset are deleted first.
func (a *nftAdapter) try(reset []host.Table, steps []plan.Step) error {
	v := a.view()
	b := &nftBatch{known: map[host.Key]*nftSet{}, find: v.set, remember: a.remember, tableFlags: a.tableFlags}
	for _, t := range reset {
		b.delTable(t)
	}
	if err := b.build(steps); err != nil {
		return err
	}
	return a.sock.transact(b.msgs)
}

// lookAgain compares steps with what is there and gives back those that are
// still to be done. A set that is there with another type cannot be changed
// while rules use it: then its table is in reset, and the steps make all of it.
// Only then the table is read as a whole.
func (a *nftAdapter) lookAgain(steps []plan.Step) (reset []host.Table, left []plan.Step, err error) {
	byTable := map[host.Table][]plan.Step{}
	var tables []host.Table
	keys := make([]host.Key, 0, len(steps))
	for _, s := range steps {
		t, _, _, err := splitKey(s.Key())
		if err != nil {
			return nil, nil, err
		}
		if byTable[t] == nil {
			tables = append(tables, t)
		}
		byTable[t] = append(byTable[t], s)
		keys = append(keys, s.Key())
	}
	seen := host.State{}
	if err := a.read(keys, seen); err != nil {
		return nil, nil, err
	}
	v := a.view()
	for _, t := range tables {
		var open []plan.Step
		for _, s := range byTable[t] {
			there := seen[s.Key()]
			if there != s.After {
				open = append(open, plan.Step{Before: there, After: s.After})
			}
		}
		if remakesSet(open) {
			exists, _, err := v.tableThere(t)
			if err != nil {
				return nil, nil, err
			}
			if exists {
				reset = append(reset, t)
			}
			whole := host.State{}
			if err := v.table(t, whole); err != nil {
				return nil, nil, err
			}
			open = remake(whole, open)
		}
		left = append(left, open...)
	}
	return reset, left, nil
}

// remake lists the steps that make a table with all that it has now, changed by
// steps. Elements stay unless they do not fit their set's new type.
func remake(seen host.State, steps []plan.Step) []plan.Step {
	changed := map[host.Key]*nftSet{}
	for _, s := range steps {
		if s.After == nil {
			delete(seen, s.Key())
			continue
		}
		seen.Add(s.After)
		if set, ok := s.After.(host.Set); ok {
			changed[set.Key()], _ = newSet(set)
		}
	}
	var made []plan.Step
	for _, k := range seen.Keys() {
		if e, ok := seen[k].(host.Element); ok {
			set := changed[host.SetKey(e.Table, e.Set)]
			if set != nil {
				if _, err := set.element(e); err != nil {
					continue
				}
			}
			if _, there := seen[host.SetKey(e.Table, e.Set)]; !there {
				continue
			}
		}
		made = append(made, plan.Step{After: seen[k]})
	}
	return made
}

// current is the generation of the rules just now.
func (a *nftAdapter) current() (uint32, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sock.generation()
}
