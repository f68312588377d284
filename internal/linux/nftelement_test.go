package linux

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// listedElements has nft list the elements of a set, as it writes them.
func listedElements(t *testing.T, kind, set string) string {
	t.Helper()
	out := nftOutput(t, "list", kind, "inet", ourTable, set)
	_, list, _ := strings.Cut(out, "elements = {")
	list, _, _ = strings.Cut(list, "}")
	return strings.Join(strings.Fields(list), " ")
}

func TestElementsAsNFTListsThem(t *testing.T) {
	cases := []struct {
		set      host.Set
		elements [][2]string
		listed   []string
	}{
		{host.Set{Type: "ifname"}, [][2]string{{"virbr0", ""}, {"eth0.100", ""}, {"fifteen-letters", ""}}, []string{`"virbr0"`, `"eth0.100"`, `"fifteen-letters"`}},
		{host.Set{Type: "ifname . ifname"}, [][2]string{{"virbr0 . virbr0", ""}}, []string{`"virbr0" . "virbr0"`}},
		{host.Set{Type: "ipv4_addr", Interval: true}, [][2]string{{"192.168.122.0/24", ""}, {"10.0.0.1", ""}, {"10.0.0.3-10.0.0.9", ""}, {"255.255.255.255", ""}, {"192.168.123.0/24", ""}}, []string{"10.0.0.1", "10.0.0.3-10.0.0.9", "192.168.122.0/24", "192.168.123.0/24", "255.255.255.255"}},
		{host.Set{Type: "ipv4_addr", Interval: true}, [][2]string{{"0.0.0.0/0", ""}}, []string{"0.0.0.0/0"}},
		{host.Set{Type: "ipv6_addr", Interval: true}, [][2]string{{"fd00:122::/64", ""}, {"fe80::1", ""}, {"ff00::/8", ""}}, []string{"fd00:122::/64", "fe80::1", "ff00::/8"}},
		{host.Set{Type: "ifname . ipv4_addr", Interval: true}, [][2]string{{"virbr0 . 192.168.122.0/24", ""}, {"virbr0 . 10.0.0.1", ""}, {"virbr1 . 10.0.0.3-10.0.0.9", ""}}, []string{`"virbr0" . 192.168.122.0/24`, `"virbr0" . 10.0.0.1`, `"virbr1" . 10.0.0.3-10.0.0.9`}},
		{host.Set{Type: "ifname . ipv6_addr", Interval: true}, [][2]string{{"virbr0 . fd00::/64", ""}, {"virbr1 . ::/0", ""}}, []string{`"virbr0" . fd00::/64`, `"virbr1" . ::/0`}},
		{host.Set{Type: "ifname", Value: "verdict"}, [][2]string{{"virbr0", "jump other"}, {"virbr1", "goto other"}, {"virbr2", "accept"}, {"virbr3", "drop"}, {"virbr4", "return"}, {"virbr5", "continue"}}, []string{`"virbr0" : jump other`, `"virbr1" : goto other`, `"virbr2" : accept`, `"virbr3" : drop`, `"virbr4" : return`, `"virbr5" : continue`}},
		{host.Set{Type: "ipv4_addr . inet_proto . inet_service", Value: "ipv4_addr . inet_service"}, [][2]string{{"192.168.99.66 . tcp . 8080", "192.168.122.10 . 80"}, {"192.168.99.66 . udp . 53", "192.168.122.10 . 53"}}, []string{"192.168.99.66 . tcp . 8080 : 192.168.122.10 . 80", "192.168.99.66 . udp . 53 : 192.168.122.10 . 53"}},
		{host.Set{Type: "ipv4_addr . inet_proto . inet_service", Value: "ipv4_addr", Interval: true}, [][2]string{{"192.168.99.66 . tcp . 8000-8999", "192.168.122.10"}, {"10.0.0.0/8 . sctp . 5", "192.168.122.11"}}, []string{"192.168.99.66 . tcp . 8000-8999 : 192.168.122.10", "10.0.0.0/8 . sctp . 5 : 192.168.122.11"}},
		{host.Set{Type: "ipv6_addr . inet_proto . inet_service", Value: "ipv6_addr . inet_service"}, [][2]string{{"fd00::1 . tcp . 80", "fd01::2 . 8080"}}, []string{"fd00::1 . tcp . 80 : fd01::2 . 8080"}},
		{host.Set{Type: "ipv4_addr", Value: "ipv4_addr", Interval: true}, [][2]string{{"10.0.0.0/24", "10.1.0.1"}, {"10.0.1.5", "10.1.0.2"}}, []string{"10.0.0.0/24 : 10.1.0.1", "10.0.1.5 : 10.1.0.2"}},
		{host.Set{Type: "inet_proto . inet_service", Value: "ipv4_addr . inet_service"}, [][2]string{{"tcp . 8080", "192.168.122.10 . 80"}, {"sctp . 1", "192.168.122.10 . 65535"}}, []string{"tcp . 8080 : 192.168.122.10 . 80", "sctp . 1 : 192.168.122.10 . 65535"}},
		{host.Set{Type: "inet_proto . inet_service", Value: "ipv6_addr . inet_service"}, [][2]string{{"udp . 53", "fd00::53 . 5353"}}, []string{"udp . 53 : fd00::53 . 5353"}},
		{host.Set{Type: "inet_proto . inet_service", Value: "ipv4_addr", Interval: true}, [][2]string{{"tcp . 8000-8999", "192.168.122.10"}, {"udp . 8000-8999", "192.168.122.11"}, {"tcp . 9000", "192.168.122.12"}}, []string{"tcp . 8000-8999 : 192.168.122.10", "udp . 8000-8999 : 192.168.122.11", "tcp . 9000 : 192.168.122.12"}},
		{host.Set{Type: "inet_proto . inet_service", Value: "ipv4_addr . inet_service", Interval: true}, [][2]string{{"tcp . 8000-8999", "192.168.122.10 . 80"}}, []string{"tcp . 8000-8999 : 192.168.122.10 . 80"}},
		{host.Set{Type: "ipv4_addr . ipv4_addr . inet_proto . inet_service", Value: "ipv4_addr . inet_service", Interval: true}, [][2]string{{"10.0.0.0/8 . 192.168.99.66 . tcp . 8080", "192.168.122.10 . 80"}, {"11.0.0.1-11.0.0.9 . 0.0.0.0/0 . udp . 1-65535", "192.168.122.10 . 53"}}, []string{"10.0.0.0/8 . 192.168.99.66 . tcp . 8080 : 192.168.122.10 . 80", "11.0.0.1-11.0.0.9 . 0.0.0.0/0 . udp . 1-65535 : 192.168.122.10 . 53"}},
		{host.Set{Type: "ipv6_addr . ipv6_addr . inet_proto . inet_service", Value: "ipv6_addr . inet_service", Interval: true}, [][2]string{{"fd00::/64 . fd01::1 . tcp . 8080", "fd02::10 . 80"}}, []string{"fd00::/64 . fd01::1 . tcp . 8080 : fd02::10 . 80"}},
		{host.Set{Type: "ipv4_addr . ipv4_addr", Value: "ipv4_addr", Interval: true}, [][2]string{{"10.0.0.0/8 . 192.168.99.66", "192.168.122.10"}}, []string{"10.0.0.0/8 . 192.168.99.66 : 192.168.122.10"}},
		{host.Set{Type: "ipv4_addr", Value: "ipv4_addr"}, [][2]string{{"192.168.122.10", "192.168.99.66"}}, []string{"192.168.122.10 : 192.168.99.66"}},
		{host.Set{Type: "ifname", Value: "mark"}, [][2]string{{"virbr0", "0x00000010"}}, []string{`"virbr0" : 0x00000010`}},
		{host.Set{Type: "ether_addr . ipv4_addr"}, [][2]string{{"52:54:00:12:34:56 . 10.0.0.1", ""}}, []string{"52:54:00:12:34:56 . 10.0.0.1"}},
		{host.Set{Type: "inet_service", Interval: true}, [][2]string{{"80", ""}, {"1000-2000", ""}, {"65535", ""}}, []string{"80", "1000-2000", "65535"}},
	}
	for _, c := range cases {
		t.Run(c.set.Type+" "+c.set.Value, func(t *testing.T) {
			a := freshNFT(t)
			c.set.Table, c.set.Name = inetTable, "s"
			want := host.NewState(inetTable, c.set, host.Chain{Table: inetTable, Name: "other"})
			for _, e := range c.elements {
				want.Add(element("s", e[0], e[1]))
			}
			mustApply(t, a, making(want))
			checkSeen(t, a, want)
			kind := "set"
			if c.set.Value != "" {
				kind = "map"
			}
			listed := listedElements(t, kind, "s")
			for _, e := range c.listed {
				if !strings.Contains(", "+listed+",", ", "+e+",") {
					t.Errorf("nft does not list %s in: %s", e, listed)
				}
			}
			// Each by itself away and back, then all at once.
			for _, e := range c.elements {
				one := element("s", e[0], e[1])
				for range 2 {
					mustApply(t, a, []plan.Step{{Before: one}})
				}
				if len(mustObserve(t, a, []host.Key{one.Key()})) != 0 {
					t.Errorf("%s is still there", one.Value)
				}
				for range 2 {
					mustApply(t, a, []plan.Step{{After: one}})
				}
			}
			checkSeen(t, a, want)
		})
	}
}

func TestElementChangesItsData(t *testing.T) {
	a := freshNFT(t)
	want := twoNetworks()
	mustApply(t, a, making(want))
	was, now := element("from_guests", "virbr0", "jump from_nat"), element("from_guests", "virbr0", "jump refuse")
	mustApply(t, a, []plan.Step{{Before: was, After: now}})
	want.Add(now)
	checkSeen(t, a, want)
	// Also if the step does not know what is there.
	mustApply(t, a, []plan.Step{{After: was}})
	want.Add(was)
	checkSeen(t, a, want)
}

// TestOneElementOfManySpans looks for elements that overlap what is there
// without being it.
func TestOneElementOfManySpans(t *testing.T) {
	a := freshNFT(t)
	mustApply(t, a, making(twoNetworks()))
	for _, value := range []string{"virbr0 . 192.168.122.1", "virbr0 . 192.168.122.0/25", "virbr0 . 192.168.0.0/16", "virbr9 . 192.168.122.0/24", "nonsense"} {
		if seen := mustObserve(t, a, []host.Key{element("sources4", value, "").Key()}); len(seen) != 0 {
			t.Errorf("%s is seen as %v", value, seen)
		}
	}
	for _, value := range []string{"192.168.122.1", "192.168.122.0/23"} {
		if seen := mustObserve(t, a, []host.Key{element("hidden4", value, "").Key()}); len(seen) != 0 {
			t.Errorf("%s is seen as %v", value, seen)
		}
	}
	if seen := mustObserve(t, a, []host.Key{element("nowhere", "x", "").Key(), host.SetKey(inetTable, "nowhere"), host.ChainKey(inetTable, "nowhere"), {Kind: host.KindTable, Name: "inet nowhere"}}); len(seen) != 0 {
		t.Errorf("seen: %v", seen)
	}
}

// forwards makes n elements of two maps, with their sets.
func forwards(n int) host.State {
	s := host.NewState(inetTable,
		host.Set{Table: inetTable, Name: "exact", Type: "ipv4_addr . inet_proto . inet_service", Value: "ipv4_addr . inet_service"},
		host.Set{Table: inetTable, Name: "ranges", Type: "ipv4_addr . inet_proto . inet_service", Value: "ipv4_addr", Interval: true})
	for i := range n {
		listen := netip.AddrFrom4([4]byte{192, 168, byte(i / 30000), 66})
		s.Add(element("exact", fmt.Sprintf("%s . tcp . %d", listen, 1+i%30000), fmt.Sprintf("10.0.%d.%d . 80", i/256%256, i%256)))
		if i%10 == 0 {
			s.Add(element("ranges", fmt.Sprintf("%s . udp . %d-%d", listen, 1+i%30000, 10+i%30000), "10.0.0.1"))
		}
	}
	return s
}

func TestThirtyThousandElements(t *testing.T) {
	a := freshNFT(t)
	want := forwards(30000)
	mustApply(t, a, making(want))
	checkSeen(t, a, want)
	var listing struct {
		Nftables []struct {
			Map *struct{ Elem []any }
		}
	}
	if err := json.Unmarshal([]byte(nftOutput(t, "-j", "list", "map", "inet", ourTable, "exact")), &listing); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, o := range listing.Nftables {
		if o.Map != nil {
			n += len(o.Map.Elem)
		}
	}
	if n != 30000 {
		t.Errorf("nft lists %d elements, want 30000", n)
	}
	// Some by name, one by one, and some that are not there.
	some, keys := host.State{}, []host.Key{}
	for i, k := range want.Keys() {
		if e, ok := want[k].(host.Element); ok && i%60 == 0 {
			some.Add(e)
			e.Value += "9"
			keys = append(keys, k, e.Key())
			if r, there := want[e.Key()]; there {
				some.Add(r)
			}
		}
	}
	if diff := cmp.Diff(some, mustObserve(t, a, keys)); diff != "" || len(some) < 500 {
		t.Errorf("of %d keys, %d there, wanted (-) and seen (+) differ:\n%s", len(keys), len(some), diff)
	}
	// All but the sets, by steps, twice.
	var steps []plan.Step
	for _, k := range want.Keys() {
		if k.Kind == host.KindElement {
			steps = append(steps, plan.Step{Before: want[k]})
			delete(want, k)
		}
	}
	mustApply(t, a, steps)
	mustApply(t, a, steps)
	checkSeen(t, a, want)
}

func TestChainMovesToAnotherHook(t *testing.T) {
	a := freshNFT(t)
	want := twoNetworks()
	mustApply(t, a, making(want))
	was := want[host.ChainKey(inetTable, "input")].(host.Chain)
	for _, now := range []host.Chain{
		{Table: inetTable, Name: "input", Type: "filter", Hook: "input", Priority: -10, Rules: was.Rules},
		{Table: inetTable, Name: "input", Type: "filter", Hook: "forward", Priority: -10, Rules: was.Rules},
		{Table: inetTable, Name: "input", Type: "nat", Hook: "prerouting", Priority: -100, Rules: "redirect"},
		{Table: inetTable, Name: "input", Rules: "accept"},
		was,
	} {
		for _, step := range []plan.Step{{Before: was, After: now}, {After: now}, {Before: now, After: now}} {
			mustApply(t, a, []plan.Step{step})
			want.Add(now)
			checkSeen(t, a, want)
		}
		was = now
	}
}

// TestSetChangesItsType is an upgrade that needs other sets: the table is made
// again in one transaction, with all that is in it.
func TestSetChangesItsType(t *testing.T) {
	for _, knows := range []bool{true, false} {
		a := freshNFT(t)
		seen := twoNetworks()
		mustApply(t, a, making(seen))
		was := seen[host.SetKey(inetTable, "within")].(host.Set)
		now := was
		now.Type = "ifname . ifname . ipv4_addr"
		chain := seen[host.ChainKey(inetTable, "forward")].(host.Chain)
		changed := chain
		changed.Rules = strings.Replace(chain.Rules, "iifname . oifname @within", "iifname . oifname . ip daddr @within", 1)
		want := host.State{}
		for k, r := range seen {
			if e, ok := r.(host.Element); !ok || e.Set != "within" {
				want[k] = r
			}
		}
		fits := element("within", "virbr0 . virbr0 . 10.0.0.1", "")
		want.Add(now, changed, fits)
		steps := []plan.Step{{After: now}, {After: changed}, {After: fits}}
		if knows {
			steps = []plan.Step{{Before: was, After: now}, {Before: chain, After: changed}, {After: fits}}
		}
		mustApply(t, a, steps)
		checkSeen(t, a, want)
	}
}

// TestMixedSteps replaces one network by another in one call, whatever the
// order of the steps.
func TestMixedSteps(t *testing.T) {
	a := freshNFT(t)
	seen := twoNetworks()
	mustApply(t, a, making(seen))
	want := host.State{}
	for k, r := range seen {
		want[k] = r
	}
	var steps []plan.Step
	drop := func(r host.Resource) {
		steps = append(steps, plan.Step{Before: r})
		delete(want, r.Key())
	}
	add := func(r host.Resource) {
		steps = append(steps, plan.Step{Before: seen[r.Key()], After: r})
		want.Add(r)
	}
	// The chain goes before the elements that jump to it; two new chains jump to
	// each other's neighbour; an interval makes room for a wider one.
	drop(seen[host.ChainKey(inetTable, "to_nat")])
	add(element("to_guests", "virbr0", "jump one"))
	add(element("to_guests", "virbr1", "goto two"))
	add(host.Chain{Table: inetTable, Name: "one", Rules: "iifname @fresh jump two"})
	add(host.Chain{Table: inetTable, Name: "two", Rules: "accept"})
	add(host.Set{Table: inetTable, Name: "fresh", Type: "ifname"})
	add(element("hidden4", "192.168.0.0/16", ""))
	drop(element("hidden4", "192.168.122.0/24", ""))
	drop(element("hidden4", "192.168.123.0/24", ""))
	add(element("sources4", "virbr0 . 192.168.0.0/16", ""))
	drop(element("sources4", "virbr0 . 192.168.122.0/24", ""))
	mustApply(t, a, steps)
	checkSeen(t, a, want)
	mustApply(t, a, steps)
	checkSeen(t, a, want)
	mustApply(t, a, plan.Diff(seen, want))
	checkSeen(t, a, seen)
}

// TestLongRule keeps only a hash of a rule in the kernel: known to the adapter
// that made it, seen as changed by another.
func TestLongRule(t *testing.T) {
	a := freshNFT(t)
	var addrs []string
	for i := range 40 {
		addrs = append(addrs, fmt.Sprintf("10.0.0.%d", i))
	}
	chain := host.Chain{Table: inetTable, Name: "c", Rules: "ip saddr { " + strings.Join(addrs, ", ") + ` } accept comment "` + strings.Repeat("w", 127) + `"`}
	want := host.NewState(inetTable, chain)
	mustApply(t, a, making(want))
	checkSeen(t, a, want)
	after, err := newNFT()
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	if seen := mustObserve(t, after, nil)[chain.Key()]; seen == chain {
		t.Error("a rule of which only the hash is kept is believed")
	}
	mustApply(t, after, []plan.Step{{Before: mustObserve(t, after, nil)[chain.Key()], After: chain}})
	checkSeen(t, after, want)
}

func TestWatch(t *testing.T) {
	a := freshNFT(t)
	events, err := a.watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next := func() nftEvent {
		t.Helper()
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatal("closed")
			}
			return e
		case <-time.After(5 * time.Second):
			t.Fatal("no event within 5 s")
		}
		return nftEvent{}
	}
	mustApply(t, a, making(twoNetworks()))
	nftOutput(t, "flush", "ruleset")
	generation, err := a.sock.generation()
	if err != nil {
		t.Fatal(err)
	}
	// Our own is left out: the first event is the flush.
	if e := next(); e.Process != "nft" || e.PID == 0 || e.Generation != generation || e.Lost {
		t.Errorf("event %+v, want nft's, generation %d", e, generation)
	}
}

func TestWatchEnds(t *testing.T) {
	a := freshNFT(t)
	ctx, cancel := context.WithCancel(t.Context())
	events, err := a.watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case e, open := <-events:
		if open {
			t.Errorf("event %+v after the end", e)
		}
	case <-time.After(5 * time.Second):
		t.Error("still open 5 s after the context ended")
	}
}

func TestWatchNeverBlocks(t *testing.T) {
	a := freshNFT(t)
	events, err := a.watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other, err := newNFT()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for range 2 * watchBuffer {
		mustApply(t, other, []plan.Step{{After: inetTable}})
		mustApply(t, other, []plan.Step{{Before: inetTable}})
	}
	limit := time.After(5 * time.Second)
	lost := false
	for n := 0; !lost; n++ {
		if n == watchBuffer {
			mustApply(t, other, []plan.Step{{After: inetTable}})
		}
		select {
		case e := <-events:
			lost = e.Lost
		case <-limit:
			t.Fatal("events were lost and nobody said so")
		}
	}
}

func TestSplitKey(t *testing.T) {
	for _, r := range twoNetworks() {
		k := r.Key()
		tb, name, value, err := splitKey(k)
		if err != nil {
			t.Fatal(err)
		}
		var back host.Key
		switch k.Kind {
		case host.KindTable:
			back = tb.Key()
		case host.KindSet:
			back = host.SetKey(tb, name)
		case host.KindChain:
			back = host.ChainKey(tb, name)
		case host.KindElement:
			back = host.Element{Table: tb, Set: name, Value: value}.Key()
		}
		if diff := cmp.Diff(k, back); diff != "" {
			t.Error(diff)
		}
	}
	for _, k := range []host.Key{{Kind: host.KindLink, Name: "virbr0"}, {Kind: host.KindTable, Name: "inet"}, {Kind: host.KindSet, Name: "nosuch a b"}} {
		if _, _, _, err := splitKey(k); err == nil {
			t.Errorf("%v is taken", k)
		}
	}
}
