package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/host"
	"drawbridge/internal/linux"
	"drawbridge/internal/ruleset"
	"drawbridge/internal/spec"
)

// firewalls tells the engine what guests need of other programs' rules. All rules
// of a host may be tens of thousands: they are read when others changed some, and
// walked when what is asked has changed.
type firewalls struct {
	*linux.Host

	mu    sync.Mutex
	seen  uint32
	rules *ruleset.Ruleset
	at    time.Time
	// ours counts our own tables: often there are no others.
	ours  int
	asked string
	list  []host.Resource
	// late are true as long as we have made no exception since made.
	late []host.Key
	made uint32

	zones zones
	// observe: nothing is made before it is needed, as nothing is made at all.
	observe bool
}

// zones is firewalld's: whether it runs and has one for our bridges, and whether one
// that does not run would need a bridge in it when it starts.
type zones interface {
	Available(context.Context) bool
	Expected(bridge string) bool
}

// Exceptions implements engine.Firewalls.
func (f *firewalls) Exceptions(ctx context.Context, doc spec.Document, seen host.State) (needed []host.Resource, late []host.Key, err error) {
	needed, late, err = f.now(ctx, doc, seen)
	return append(slices.Clip(needed), f.expected(doc)...), late, err
}

// expected are those for a firewalld that may start at any time: it answers nobody
// for some 100 ms after it has its rules, so that they have to be in its files before.
func (f *firewalls) expected(doc spec.Document) (list []host.Resource) {
	if f.observe {
		return nil
	}
	for _, name := range doc.Names() {
		n := doc.Networks[name]
		if n.Started && len(diagnose.Needs(n, func(spec.Subnet) string { return "" }, false)) > 0 && f.zones.Expected(n.Bridge) {
			list = append(list, host.InZone{Bridge: n.Bridge, Zone: host.OurZone})
		}
	}
	return list
}

// now are those that the rules of now call for.
func (f *firewalls) now(ctx context.Context, doc spec.Document, seen host.State) (needed []host.Resource, late []host.Key, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	anew, err := f.read(ctx)
	if err != nil || len(f.rules.Tables) == f.ours {
		return nil, nil, err
	}
	facts := &diagnose.Facts{Document: doc, State: seen, Sysctls: sysctls(bridgeFilters...)}
	// Where routes depend on more than the target, the tables are asked each time.
	special, err := f.PolicyRouting()
	if err != nil {
		return nil, nil, err
	}
	if special {
		if facts.Machine, err = f.Machine(ctx); err != nil {
			return nil, nil, err
		}
	}
	asked := question(facts)
	if !anew && asked == f.asked {
		return f.possible(ctx), f.stillLate(), nil
	}
	if facts.Machine == nil {
		if facts.Machine, err = f.Machine(ctx); err != nil {
			return nil, nil, err
		}
	}
	facts.Rules = f.rules
	f.asked, f.list, f.late = asked, diagnose.Exceptions(facts), nil
	if anew {
		f.late = diagnose.Late(facts)
	}
	return f.possible(ctx), f.stillLate(), nil
}

// stillLate are those that were late when the rules were read and that nobody
// has made anew since.
func (f *firewalls) stillLate() []host.Key {
	if f.ExceptionsMade() != f.made {
		return nil
	}
	return f.late
}

// possible leaves out zones of firewalld where it has not ours: what cannot be made
// is not asked for, and doctor says what is missing.
func (f *firewalls) possible(ctx context.Context) []host.Resource {
	isZone := func(r host.Resource) bool { _, ok := r.(host.InZone); return ok }
	if !slices.ContainsFunc(f.list, isZone) || f.zones.Available(ctx) {
		return f.list
	}
	return slices.DeleteFunc(slices.Clone(f.list), isZone)
}

// believed is how long rules are taken for unchanged because nobody was seen to
// change them: the count of changes is right unless an own one was empty.
const believed = 30 * time.Second

// read reads the rules if others changed some.
func (f *firewalls) read(ctx context.Context) (anew bool, err error) {
	now, err := f.RulesOfOthers()
	if err != nil || f.rules != nil && now == f.seen && time.Since(f.at) < believed {
		return false, err
	}
	made := f.ExceptionsMade()
	rules, err := f.Rules(ctx)
	if err != nil {
		return false, err
	}
	f.seen, f.rules, f.ours, f.at, f.made = now, rules, 0, time.Now(), made
	for _, t := range rules.Tables {
		if ruleset.OwnerOfTable(t) == ruleset.Drawbridge {
			f.ours++
		}
	}
	return true, nil
}

var bridgeFilters = []string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"}

// question is all that the answer depends on beside rules of others.
func question(f *diagnose.Facts) string {
	var b strings.Builder
	for _, p := range f.Needs() {
		fmt.Fprintln(&b, p.Bridge, p.Way, p.Subnet, p.Packet.In, p.Packet.Out, p.Packet.Source, p.Packet.Target)
	}
	for _, k := range f.State.Keys() {
		if a, ok := f.State[k].(host.Address); ok {
			fmt.Fprintln(&b, a.Link, a.Addr)
		}
	}
	return b.String()
}
