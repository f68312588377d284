package engine

import (
	"net/netip"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/render"
	"drawbridge/internal/spec"
)

// TestNewsIsNoDrift: what a look finds missing is drift unless it is about a port that is
// new, gone or reflects, or a guest that has another address.
func TestNewsIsNoDrift(t *testing.T) {
	foreign := attached{Port: host.Port{Tap: "tap-g", Bridge: "virbr0", Network: "lab"}, others: true}
	reflecting := foreign
	reflecting.reflects = true
	ours := attached{Port: host.Port{Tap: "vnet0", Bridge: "virbr0", Network: "lab", Guest: "web"}}
	oursReflecting := ours
	oursReflecting.reflects = true
	rule := func(tap string) plan.Step { return plan.Step{After: render.PortRules(tap)[0]} }
	gone := func(tap string) plan.Step { return plan.Step{Before: render.PortRules(tap)[0]} }
	link := host.Link{Name: "tap-g", Type: host.TypeVeth, Master: "virbr0", Up: true}
	hairpin, down := link, link
	hairpin.Hairpin, down.Up = true, false
	with := func(list ...attached) map[string]attached {
		m := map[string]attached{}
		for _, a := range list {
			m[a.Tap] = a
		}
		return m
	}
	for name, c := range map[string]struct {
		was, is map[string]attached
		steps   []plan.Step
		drift   int
		news    []string
	}{
		"plugged":              {nil, with(foreign), []plan.Step{rule("tap-g")}, 0, []string{"plugged"}},
		"plugged and tagged":   {nil, with(foreign), []plan.Step{rule("tap-g"), {Before: link, After: withVLANs(link)}}, 0, []string{"plugged"}},
		"gone":                 {with(foreign), nil, []plan.Step{gone("tap-g")}, 0, []string{"unplugged"}},
		"rule deleted":         {with(foreign), with(foreign), []plan.Step{rule("tap-g")}, 1, nil},
		"our port's rule":      {nil, with(ours), []plan.Step{rule("vnet0")}, 1, nil},
		"hairpin on":           {with(foreign), with(reflecting), []plan.Step{{Before: link, After: hairpin}}, 0, []string{"changed"}},
		"hairpin off":          {with(reflecting), with(foreign), []plan.Step{{Before: hairpin, After: link}}, 0, []string{"changed"}},
		"hairpin taken away":   {with(reflecting), with(reflecting), []plan.Step{{Before: link, After: hairpin}}, 1, nil},
		"hairpin on and down":  {with(foreign), with(reflecting), []plan.Step{{Before: down, After: hairpin}}, 1, nil},
		"one of each":          {with(ours), with(ours, foreign), []plan.Step{rule("tap-g"), rule("vnet0")}, 1, []string{"plugged"}},
		"nothing of the port":  {nil, with(foreign), []plan.Step{rule("vnet0")}, 1, nil},
		"ours reflects":        {with(ours), with(oursReflecting), []plan.Step{{Before: host.Link{Name: "vnet0"}, After: host.Link{Name: "vnet0", Hairpin: true}}}, 0, []string{"changed"}},
		"listened to, and all": {nil, with(foreign), []plan.Step{{After: host.Snoop{Bridge: "virbr0", Tap: "tap-g"}}, {After: host.Zone{Bridge: "virbr0"}}, {After: host.Resolver{Link: "virbr1"}}}, 0, []string{"plugged"}},
		"a zone by itself":     {with(foreign), with(foreign), []plan.Step{{After: host.Zone{Bridge: "virbr0"}}}, 1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			e := &Engine{known: known{ports: c.was}}
			drift, news := e.tellApart(c.steps, spec.Document{}, known{ports: c.is})
			if len(drift) != c.drift || len(news) != len(c.news) {
				t.Fatalf("drift %v, news %v", drift, news)
			}
			for i, action := range c.news {
				if news[i].Kind != PortEvent || news[i].Action != action || news[i].Network != "lab" {
					t.Errorf("%+v", news[i])
				}
			}
		})
	}
}

func withVLANs(l host.Link) host.Link {
	l.VLANs = "30 pvid untagged"
	return l
}

// TestForwardsThatFollowAreNoDrift: so are elements of a forward whose guest has another
// address than before, and only those.
func TestForwardsThatFollowAreNoDrift(t *testing.T) {
	f := spec.Forward{Proto: spec.TCP, Listen: netip.IPv4Unspecified(), First: 8080, Last: 8080, Target: "web", TargetPort: 80}
	n := spec.Network{Name: "lab", Mode: "nat", Forwards: spec.MakeForwards(f)}
	doc := spec.Document{Networks: map[spec.NetworkName]spec.Network{"lab": n}}
	target, _ := render.TargetOf("lab", f)
	at := func(a string) known {
		return known{targets: map[render.Target]netip.Addr{target: netip.MustParseAddr(a)}}
	}
	var steps []plan.Step
	for _, r := range render.ForwardElements(f, netip.MustParseAddr("10.9.0.7")) {
		if render.IsDoor(r.Key()) {
			steps = append(steps, plan.Step{After: r})
		}
	}
	if len(steps) == 0 {
		t.Fatal("a forward has no elements")
	}
	e := &Engine{known: at("10.9.0.6")}
	if drift, news := e.tellApart(steps, doc, at("10.9.0.7")); len(drift) != 0 || len(news) != 1 || news[0].Action != "follows" {
		t.Errorf("it follows: drift %v, news %v", drift, news)
	}
	e.known = at("10.9.0.7")
	if drift, news := e.tellApart(steps, doc, at("10.9.0.7")); len(drift) != len(steps) || len(news) != 0 {
		t.Errorf("it was deleted: drift %v, news %v", drift, news)
	}
}
