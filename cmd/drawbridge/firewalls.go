package main

import (
	"context"
	"fmt"
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
	list  []host.Accept
}

// Accepts implements engine.Firewalls.
func (f *firewalls) Accepts(ctx context.Context, doc spec.Document, seen host.State) ([]host.Accept, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	anew, err := f.read(ctx)
	if err != nil || len(f.rules.Tables) == f.ours {
		return nil, err
	}
	facts := &diagnose.Facts{Document: doc, State: seen, Sysctls: sysctls(bridgeFilters...)}
	asked := question(facts)
	if !anew && asked == f.asked {
		return f.list, nil
	}
	if facts.Machine, err = f.Machine(ctx); err != nil {
		return nil, err
	}
	facts.Rules = f.rules
	f.asked, f.list = asked, diagnose.Accepts(facts)
	return f.list, nil
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
	rules, err := f.Rules(ctx)
	if err != nil {
		return false, err
	}
	f.seen, f.rules, f.ours, f.at = now, rules, 0, time.Now()
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
