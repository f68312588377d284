package diagnose

import (
	"slices"
	"strings"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/ruleset"
)

// ifname compares a link's name, as nft writes it.
func comparesLink(key uint32, name string) []ruleset.Expr {
	return []ruleset.Expr{ruleset.Meta{Key: key, Dst: 16}, ruleset.Cmp{Src: 16, Data: ifname(name)}}
}

func decides(kind ruleset.VerdictKind, chain string) ruleset.Expr {
	return ruleset.Decide{Verdict: ruleset.Verdict{Kind: kind, Chain: chain}}
}

// firewall is a table of one base chain at forward, with a policy of drop.
func firewall(family, name string, owned bool) (*ruleset.Table, *ruleset.Chain) {
	t := &ruleset.Table{Family: family, Name: name, Owned: owned, Sets: map[string]*ruleset.Set{}}
	c := &ruleset.Chain{Name: "forward", Type: "filter", Hook: "forward", Drop: true}
	t.Add(c)
	return t, c
}

func examined(t *ruleset.Table) (*Facts, map[Code]Finding) {
	f := healthy()
	f.Rules, f.Machine = &ruleset.Ruleset{Tables: []*ruleset.Table{t}}, &Host{Links: map[string]Link{}}
	found := map[Code]Finding{}
	for _, x := range Examine(f) {
		found[x.Code] = x
	}
	return f, found
}

func TestAVPNsSwitchIsNotOpened(t *testing.T) {
	table, c := firewall(ruleset.Inet, "mullvad", false)
	f, found := examined(table)
	if list := Exceptions(f); len(list) > 0 {
		t.Errorf("guests would get past the tunnel: %+v", list)
	}
	x := found["guests-blocked"]
	if !strings.Contains(x.Seen, "inet mullvad forward") || !strings.Contains(x.Fix.Advice, "connect the VPN") || x.Fix.Automatic() {
		t.Errorf("%+v", x)
	}
	// While the tunnel is up guests' packets leave by it, which the switch lets pass.
	c.Rules = []*ruleset.Rule{
		{Chain: c, Exprs: append(comparesLink(ruleset.MetaOIFName, "wg0"), decides(ruleset.Accept, ""))},
		{Chain: c, Exprs: append(comparesLink(ruleset.MetaIIFName, "wg0"), decides(ruleset.Accept, ""))},
	}
	f.Machine.Route = func(RouteQuery) (RouteAnswer, bool) { return RouteAnswer{Type: typeUnicast, Out: "wg0"}, true }
	f.Anew()
	for _, x := range Examine(f) {
		t.Errorf("with the tunnel up: %+v", x)
	}
}

func TestDockersOwnTableIsLeftToDocker(t *testing.T) {
	table, c := firewall(ruleset.IP, "docker-bridges", false)
	in := &ruleset.Chain{Name: "filter-forward-in__virbr0"}
	table.Add(in)
	c.Drop = false
	c.Rules = []*ruleset.Rule{{Chain: c, Exprs: append(comparesLink(ruleset.MetaOIFName, "virbr0"), decides(ruleset.Jump, in.Name))}}
	in.Rules = []*ruleset.Rule{{Chain: in, Comment: "UNPUBLISHED PORT DROP", Exprs: []ruleset.Expr{decides(ruleset.Drop, "")}}}
	f, found := examined(table)
	if list := Exceptions(f); len(list) > 0 {
		t.Errorf("rules in Docker's table: %+v", list)
	}
	x := found["answers-blocked"]
	if !strings.Contains(x.Seen, "docker-bridges filter-forward-in__virbr0") || !strings.Contains(x.Seen, "(Docker)") || !strings.Contains(x.Fix.Advice, "gateway_mode_ipv4=nat-unprotected") {
		t.Errorf("%+v", x)
	}
}

func TestAFirewalldThatOwnsItsTableGetsAZone(t *testing.T) {
	table, c := firewall(ruleset.Inet, "firewalld", true)
	f, found := examined(table)
	zone := host.InZone{Bridge: "virbr0", Zone: host.OurZone}
	want := []host.Resource{zone}
	if list := Exceptions(f); !slices.Equal(list, want) {
		t.Fatalf("%+v", list)
	}
	if x := found["guests-blocked"]; x.Fix.Command != "firewall-cmd --reload" || x.Fix.Automatic() {
		t.Errorf("without our zone: %+v", x)
	}
	f.FirewalldZone = true
	f.Anew()
	for _, x := range Examine(f) {
		if x.Code == "guests-blocked" && !slices.Equal(x.Fix.Turns, []Turn{{After: zone}}) {
			t.Errorf("with our zone: %+v", x)
		}
	}
	// In the zone, guests are not stopped; and it is needed all the same.
	c.Rules = []*ruleset.Rule{
		{Chain: c, Exprs: append(comparesLink(ruleset.MetaIIFName, "virbr0"), decides(ruleset.Accept, ""))},
		{Chain: c, Exprs: append(comparesLink(ruleset.MetaOIFName, "virbr0"), decides(ruleset.Accept, ""))},
	}
	f.State.Add(zone)
	f.Anew()
	if list := Exceptions(f); !slices.Equal(list, want) {
		t.Errorf("in the zone: %+v", list)
	}
	for _, x := range Examine(f) {
		t.Errorf("in the zone: %+v", x)
	}
}
