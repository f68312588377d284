package plan

import (
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"drawbridge/internal/host"
)

var (
	table  = host.Table{Family: host.FamilyInet, Name: "t"}
	bridge = host.Link{Name: "br", Type: host.TypeBridge, MTU: 1500, Up: true}
	addr   = host.Address{Link: "br", Addr: netip.MustParsePrefix("10.0.0.1/24")}
	set    = host.Set{Table: table, Name: "s", Type: "ifname"}
	chain  = host.Chain{Table: table, Name: "c", Rules: "iifname @s accept"}
	elem   = host.Element{Table: table, Set: "s", Value: "br"}
	gate   = host.Sysctl{Path: "net/ipv4/ip_forward", Value: "1"}
)

func wish(rs ...host.Resource) host.Wish {
	w := host.NewWish()
	w.Present.Add(rs...)
	return w
}

func verbs(steps []Step) []string {
	var out []string
	for _, s := range steps {
		out = append(out, s.Verb()+" "+s.Key().String())
	}
	return out
}

func TestMakeBuildsFromTheGroundUpAndTakesAwayFromTheTop(t *testing.T) {
	w := wish(elem, addr, bridge, chain, set, table, gate)
	up, err := Make(w, host.Ledger{}, host.NewState(host.Sysctl{Path: gate.Path, Value: "0"}))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"create table inet t", "create set inet t s", "create chain inet t c", "create element inet t s { br }",
		"create link br", "create address br 10.0.0.1/24", "change sysctl net/ipv4/ip_forward",
	}
	if got := verbs(up.Steps); !slices.Equal(got, want) {
		t.Errorf("up:\n got %q\nwant %q", got, want)
	}
	if c := up.Ledger[gate.Key()]; c.Kind != host.Left || c.Original != (host.Sysctl{Path: gate.Path, Value: "0"}) {
		t.Errorf("ip_forward is claimed as %+v", c)
	}
	down, err := Make(host.NewWish(), up.Ledger, w.Present)
	if err != nil {
		t.Fatal(err)
	}
	// The address dies with the link and everything else with the table; ip_forward stays.
	if got := verbs(down.Steps); !slices.Equal(got, []string{"delete link br", "delete table inet t"}) {
		t.Errorf("down: %q", got)
	}
	if len(down.Ledger) != 0 {
		t.Errorf("still claimed: %v", down.Ledger)
	}
}

func TestForeignThingsAreRefused(t *testing.T) {
	theirs := bridge
	theirs.MTU = 9000
	_, err := Make(wish(bridge), host.Ledger{}, host.NewState(theirs))
	var foreign *ForeignError
	if !errors.As(err, &foreign) || foreign.Key != bridge.Key() {
		t.Fatalf("got %v", err)
	}
	mine := host.Ledger{bridge.Key(): {Kind: host.Made}}
	p, err := Make(wish(bridge), mine, host.NewState(theirs))
	if err != nil || len(p.Steps) != 1 || p.Steps[0].Verb() != "change" {
		t.Errorf("our own changed link is put right: %v %v", p.Steps, err)
	}
}

func TestBorrowedThingsAreGivenBack(t *testing.T) {
	before := host.Link{Name: "eth0", MTU: 1500, Up: true}
	now := before
	now.Master = "br"
	had := host.Ledger{before.Key(): {Kind: host.Borrowed, Original: before}}
	p, err := Make(host.NewWish(), had, host.NewState(now))
	if err != nil || len(p.Steps) != 1 || p.Steps[0].After != before {
		t.Fatalf("%v %v", p.Steps, err)
	}
	if p.Risk != RiskHost {
		t.Errorf("a NIC that is not ours changes: risk %s", p.Risk)
	}
}

func TestWhatIsInTheWayIsNamedByItsRoot(t *testing.T) {
	_, err := Make(wish(bridge, addr), host.Ledger{}, host.NewState(bridge, addr))
	var foreign *ForeignError
	if !errors.As(err, &foreign) || foreign.Key != bridge.Key() {
		t.Errorf("with a foreign bridge: %v", err)
	}
	_, err = Make(wish(addr), host.Ledger{}, host.NewState(bridge, addr))
	if !errors.As(err, &foreign) || foreign.Key != addr.Key() {
		t.Errorf("with a foreign address on what nobody asked for: %v", err)
	}
}

func TestAParameterOfOurLinkStaysAsLongAsTheLink(t *testing.T) {
	param := host.Sysctl{Path: "net/ipv4/conf/br/route_localnet", Value: "1", Link: "br"}
	p, err := Make(wish(bridge, param), host.Ledger{}, host.State{})
	if err != nil {
		t.Fatal(err)
	}
	without, err := Make(wish(bridge), p.Ledger, host.NewState(bridge, param))
	if err != nil || len(without.Steps) > 0 {
		t.Errorf("not wanted any more: %q %v", verbs(without.Steps), err)
	}
	gone, err := Make(host.NewWish(), p.Ledger, host.NewState(bridge, param))
	if err != nil || !slices.Equal(verbs(gone.Steps), []string{"delete link br"}) {
		t.Errorf("its link goes: %q %v", verbs(gone.Steps), err)
	}
}

func TestCutsNameThePortsOfADeletedBridge(t *testing.T) {
	tap := host.Link{Name: "vnet0", Type: host.TypeTap, Master: "br"}
	p, err := Make(host.NewWish(), host.Ledger{bridge.Key(): {Kind: host.Made}}, host.NewState(bridge, tap))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.Cuts, []string{"vnet0"}) || p.Risk != RiskGuest {
		t.Errorf("cuts %q, risk %s", p.Cuts, p.Risk)
	}
	scope, snapshot, goal := Frame(p.Steps, host.NewState(bridge, tap, addr))
	if len(scope) != 3 || snapshot[tap.Key()] != tap || snapshot[addr.Key()] != addr {
		t.Errorf("the snapshot leaves out what hangs on the bridge: %v", snapshot.Keys())
	}
	if l := goal[tap.Key()].(host.Link); l.Master != "" {
		t.Errorf("goal says that %s stays plugged in", l.Name)
	}
}

// TestLocalRoutesComeWithTheirAddresses: the kernel makes them, at its own time, and of
// IPv6 nobody else can; a snapshot that had them could not be gone back to.
func TestLocalRoutesComeWithTheirAddresses(t *testing.T) {
	p, err := Make(host.NewWish(), host.Ledger{bridge.Key(): {Kind: host.Made}}, host.NewState(bridge))
	if err != nil {
		t.Fatal(err)
	}
	local := host.Route{Dst: netip.MustParsePrefix("2001:db8::1/128"), Link: "br", Table: host.LocalTable, Protocol: 2, Type: 2}
	vrf := host.Route{Dst: netip.MustParsePrefix("2001:db8::1/128"), Link: "br", Table: 10, Protocol: 2, Type: 2}
	subnet := host.Route{Dst: netip.MustParsePrefix("2001:db8::/64"), Link: "br", Table: host.MainTable, Metric: 256, Protocol: 2, Type: 1}
	given := host.Route{Dst: netip.MustParsePrefix("2001:db8:1::/48"), Link: "br", Table: host.LocalTable, Metric: 1024, Protocol: 3, Type: 2}
	_, snapshot, _ := Frame(p.Steps, host.NewState(bridge, local, vrf, subnet, given))
	if want := host.NewState(bridge, subnet, given); !slices.Equal(snapshot.Keys(), want.Keys()) {
		t.Errorf("the snapshot has %v, not %v", snapshot.Keys(), want.Keys())
	}
}

func TestStrangersInOurTableGo(t *testing.T) {
	hole := host.Element{Table: table, Set: "s", Value: "evil0"}
	p, err := Make(wish(table, set, elem), host.Ledger{}, host.NewState(table, set, elem, hole))
	if err == nil {
		t.Fatal("a foreign table was taken over")
	}
	mine := host.Ledger{table.Key(): {Kind: host.Made}, set.Key(): {Kind: host.Made}, elem.Key(): {Kind: host.Made}}
	p, err = Make(wish(table, set, elem), mine, host.NewState(table, set, elem, hole))
	if err != nil || !slices.Equal(verbs(p.Steps), []string{"delete element inet t s { evil0 }"}) {
		t.Errorf("%q %v", verbs(p.Steps), err)
	}
}

func TestASetThatChangesTypeTakesItsTableAlong(t *testing.T) {
	old := set
	old.Type = "ipv4_addr"
	mine := host.Ledger{table.Key(): {Kind: host.Made}, set.Key(): {Kind: host.Made}, chain.Key(): {Kind: host.Made}}
	p, err := Make(wish(table, set, chain, elem), mine, host.NewState(table, old, chain))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"delete table inet t", "create table inet t", "create set inet t s", "create chain inet t c", "create element inet t s { br }"}
	if got := verbs(p.Steps); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestAnAddressGivesWayToAnotherOfItsSubnet(t *testing.T) {
	other := host.Address{Link: "br", Addr: netip.MustParsePrefix("10.0.0.254/24")}
	elsewhere := host.Address{Link: "br", Addr: netip.MustParsePrefix("10.0.1.1/24")}
	if got := verbs(Diff(host.NewState(bridge, other), host.NewState(bridge, addr))); !slices.Equal(got, []string{"delete address br 10.0.0.1/24", "create address br 10.0.0.254/24"}) {
		t.Errorf("same subnet: %q", got)
	}
	if got := verbs(Diff(host.NewState(bridge, elsewhere), host.NewState(bridge, addr))); !slices.Equal(got, []string{"create address br 10.0.1.1/24", "delete address br 10.0.0.1/24"}) {
		t.Errorf("another subnet: %q", got)
	}
}

// TestServicesDoNotPartARouteFromItsPredecessor: a route moves from one link to
// another while guest services of other networks come and go.
func TestServicesDoNotPartARouteFromItsPredecessor(t *testing.T) {
	route := func(link string) host.Route {
		return host.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.168.99.1"), Link: link, Table: host.MainTable, Type: 1}
	}
	had := host.NewState(route("br0"), host.Zone{Bridge: "br0", Domain: "lan.internal"}, host.Snoop{Bridge: "br0", Tap: "vnet0"})
	want := host.NewState(route("eth0"), host.Zone{Bridge: "virbr0", Domain: "default.internal"}, host.Guest{Bridge: "virbr0", MAC: "52:54:00:00:00:01", Name: "web"})
	for what, steps := range map[string][]Step{"forth": Diff(want, had), "back": Diff(had, want)} {
		var kinds []string
		for _, s := range steps {
			kinds = append(kinds, s.Verb()+" "+string(s.Key().Kind))
		}
		i := slices.Index(kinds, "create route")
		if i < 0 || i+1 == len(kinds) || kinds[i+1] != "delete route" {
			t.Errorf("%s: %q", what, kinds)
		}
	}
}

func TestStepsSurviveJSON(t *testing.T) {
	for _, s := range []Step{{After: bridge}, {Before: addr}, {Before: gate, After: host.Sysctl{Path: gate.Path, Value: "0"}}} {
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var back Step
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		if back != s {
			t.Errorf("%s became %+v", b, back)
		}
	}
	for _, bad := range []string{`{}`, `{"after":{"kind":"magic","value":{}}}`, `{"after":7}`} {
		var s Step
		if json.Unmarshal([]byte(bad), &s) == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// anyState draws a state in which everything that is needed is there.
func anyState(t *rapid.T, label string) host.State {
	s := host.State{}
	for _, name := range []string{"a", "b"} {
		if !rapid.Bool().Draw(t, label+" bridge "+name) {
			continue
		}
		s.Add(host.Link{Name: name, Type: host.TypeBridge, MTU: rapid.SampledFrom([]int{1400, 1500}).Draw(t, label+" mtu"), Up: true})
		if rapid.Bool().Draw(t, label+" addr "+name) {
			s.Add(host.Address{Link: name, Addr: netip.MustParsePrefix("10.0.0.1/24")})
		}
	}
	if rapid.Bool().Draw(t, label+" table") {
		s.Add(table, set)
		if rapid.Bool().Draw(t, label+" chain") {
			s.Add(chain)
		}
		for _, v := range []string{"a", "b", "c"} {
			if rapid.Bool().Draw(t, label+" element "+v) {
				s.Add(host.Element{Table: table, Set: "s", Value: v})
			}
		}
	}
	return s
}

// TestDiffArrives carries the steps out on a toy host that refuses what lacks
// its needs and cascades deletions, and must arrive at the goal.
func TestDiffArrives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		goal, seen := anyState(t, "goal"), anyState(t, "seen")
		now := host.State{}
		for k, r := range seen {
			now[k] = r
		}
		for _, s := range Diff(goal, seen) {
			if s.After == nil {
				gone := map[host.Key]bool{s.Key(): true}
				for k, r := range now {
					if k == s.Key() || diesWith(r, gone) {
						delete(now, k)
					}
				}
				continue
			}
			for _, need := range s.After.Needs() {
				if _, ok := now[need]; !ok {
					t.Fatalf("%s %s comes before what it needs: %s", s.Verb(), s.Key(), need)
				}
			}
			now[s.Key()] = s.After
		}
		if !reflect.DeepEqual(now, goal) {
			t.Fatalf("arrived at %v, not at %v", now.Keys(), goal.Keys())
		}
		if again := Diff(goal, now); len(again) != 0 {
			t.Fatalf("steps are left: %q", verbs(again))
		}
	})
}
