package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/ruleset"
	"drawbridge/internal/spec"
)

// large is a host with a hundred networks and ten thousand rules of others that
// are not about them, in a chain that drops.
func large() *Facts {
	f := healthy()
	for i := range 100 {
		sub := spec.Subnet{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 20, byte(i), 0}), 24), Gateway: netip.AddrFrom4([4]byte{10, 20, byte(i), 1})}
		name := spec.NetworkName(fmt.Sprint("n", i))
		f.Document.Networks[name] = spec.Network{Name: name, Mode: "nat", Bridge: fmt.Sprint("virbr", i), Subnets: []spec.Subnet{sub}, Started: true}
	}
	t := &ruleset.Table{Family: ruleset.IP, Name: "mine", Sets: map[string]*ruleset.Set{}}
	c := &ruleset.Chain{Name: "f", Type: "filter", Hook: "forward", Drop: true}
	t.Add(c)
	for i := range 10_000 {
		c.Rules = append(c.Rules, &ruleset.Rule{Chain: c, Handle: uint64(i), Exprs: []ruleset.Expr{
			ruleset.Payload{Base: ruleset.NetworkHeader, Offset: 12, Len: 4, Dst: 16}, ruleset.Cmp{Src: 16, Data: []byte{172, 16, byte(i / 250), byte(i % 250)}},
			ruleset.Meta{Key: ruleset.MetaL4Proto, Dst: 16}, ruleset.Cmp{Src: 16, Data: []byte{6}},
			ruleset.Payload{Base: ruleset.TransportHeader, Offset: 2, Len: 2, Dst: 16}, ruleset.Cmp{Src: 16, Data: []byte{byte(i >> 8), byte(i)}},
			ruleset.Decide{Verdict: ruleset.Verdict{Kind: ruleset.Accept}},
		}})
	}
	f.Rules, f.Machine = &ruleset.Ruleset{Tables: []*ruleset.Table{t}}, &Host{Links: map[string]Link{}}
	return f
}

func TestRulesThatAreAboutNobodyChangeNothing(t *testing.T) {
	f := large()
	list := Exceptions(f)
	if len(list) != 2*len(f.Document.Networks) {
		t.Fatalf("%d accepts", len(list))
	}
	for _, a := range list {
		if a, ok := a.(host.Accept); !ok || a.Table != (host.Table{Family: "ip", Name: "mine"}) || a.Chain != "f" {
			t.Fatalf("%+v", a)
		}
	}
}

func BenchmarkExceptionsAmongTenThousandRules(b *testing.B) {
	for range b.N {
		Exceptions(large())
	}
}

func BenchmarkExamine(b *testing.B) {
	f := large()
	for i := range 1000 {
		tap := fmt.Sprint("t", i)
		f.State.Add(host.Link{Name: tap, Type: host.TypeTap, MTU: 1500, Up: true, Master: fmt.Sprint("virbr", i%100)})
		f.Ports = append(f.Ports, Port{Network: spec.NetworkName(fmt.Sprint("n", i%100)), Bridge: fmt.Sprint("virbr", i%100), Tap: tap, MAC: fmt.Sprint(i), Addresses: []string{"x"}})
	}
	for i := range 100 {
		f.State.Add(host.Link{Name: fmt.Sprint("virbr", i), Type: host.TypeBridge, MTU: 1500, Up: true})
		for j := range 12 {
			f.State.Add(host.Route{Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 20, byte(i), byte(j)}), 32), Link: fmt.Sprint("virbr", i), Type: 2, Table: 255})
		}
	}
	for b.Loop() {
		f.Anew()
		Examine(f)
	}
}

// docker is a table with Docker's FORWARD: it drops, but first asks a chain for
// exceptions, and then one with a rule for each of many others.
func docker(exceptions ...*ruleset.Rule) *ruleset.Table {
	t := &ruleset.Table{Family: ruleset.IP, Name: "filter", Sets: map[string]*ruleset.Set{}}
	jump := func(c *ruleset.Chain, to string) {
		c.Rules = append(c.Rules, &ruleset.Rule{Chain: c, Exprs: []ruleset.Expr{ruleset.Decide{Verdict: ruleset.Verdict{Kind: ruleset.Jump, Chain: to}}}})
	}
	forward := &ruleset.Chain{Name: "FORWARD", Type: "filter", Hook: "forward", Drop: true}
	user, others := &ruleset.Chain{Name: "DOCKER-USER", Rules: exceptions}, &ruleset.Chain{Name: "OTHERS"}
	for _, c := range []*ruleset.Chain{forward, user, others} {
		t.Add(c)
	}
	for _, r := range exceptions {
		r.Chain = user
	}
	jump(forward, "DOCKER-USER")
	jump(forward, "OTHERS")
	for i := range 10_000 {
		others.Rules = append(others.Rules, &ruleset.Rule{Chain: others, Handle: uint64(i), Exprs: []ruleset.Expr{
			ruleset.Payload{Base: ruleset.NetworkHeader, Offset: 12, Len: 4, Dst: 16}, ruleset.Cmp{Src: 16, Data: []byte{172, 16, byte(i / 250), byte(i % 250)}},
			ruleset.Decide{Verdict: ruleset.Verdict{Kind: ruleset.Drop}},
		}})
	}
	return t
}

// What is needed does not change by being there, in a chain that is jumped to either:
// an exception that were not needed any more because it is there would go and come.
func TestAnExceptionInAChainThatIsJumpedToStaysNeeded(t *testing.T) {
	f := healthy()
	f.Machine = &Host{Links: map[string]Link{}}
	f.Rules = &ruleset.Ruleset{Tables: []*ruleset.Table{docker()}}
	want := Exceptions(f)
	if len(want) != 2 || want[0].(host.Accept).Chain != "DOCKER-USER" {
		t.Fatalf("Docker's drop needs %+v", want)
	}
	all := &ruleset.Rule{Comment: Mark + "out", Exprs: []ruleset.Expr{ruleset.Decide{Verdict: ruleset.Verdict{Kind: ruleset.Accept}}}}
	f.Rules, f.found = &ruleset.Ruleset{Tables: []*ruleset.Table{docker(all)}}, nil
	if got := Exceptions(f); !slices.Equal(got, want) {
		t.Errorf("with it there are needed %+v, without it %+v", got, want)
	}
}

func BenchmarkExamineBesideDocker(b *testing.B) {
	f := large()
	f.Rules = &ruleset.Ruleset{Tables: []*ruleset.Table{docker()}}
	for b.Loop() {
		f.Anew()
		Examine(f)
	}
}

// BenchmarkWalkPastTenThousandRules is one packet at one hook.
func BenchmarkWalkPastTenThousandRules(b *testing.B) {
	f := large()
	p := NewConnection("virbr0", netip.MustParseAddr("10.20.0.10"), protoTCP, netip.MustParseAddr("10.20.1.10"), 80)
	p.Out, p.SourcePort = "virbr1", 40000
	for b.Loop() {
		if v := Walk(f.Rules, f.Machine, At{Hook: "forward"}, p); v.Kind != Dropped {
			b.Fatal(v)
		}
	}
}
